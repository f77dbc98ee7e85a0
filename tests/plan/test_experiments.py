"""From a configuration to runs: what is shared, what variants set, and what runs again after a change."""

import json
import re
from collections.abc import Iterable

import pytest
from support.shipped import CATALOGUE, CONFIG, PAPER, content

from dfp.plan.catalogue import Config, agent_for, load_config, method_entry, parse_config
from dfp.plan.experiments import folder_of, plan
from dfp.plan.run_table import run_table
from dfp.spec import ConfigError

TABLE2 = PAPER.model_copy(update={"experiments": ["table2"]})


def changed_runs(change) -> tuple[set[str], set[str]]:
    """Folders of the pretrainings and fine-tunings whose specs a change of configuration or catalogue changes."""
    before = plan(TABLE2, CATALOGUE)
    config, catalogue = content("config") | {"experiments": ["table2"]}, json.loads(CATALOGUE.model_dump_json())
    change(config, catalogue)
    catalogue = type(CATALOGUE).model_validate(catalogue)
    after = plan(parse_config(config, "test", catalogue), catalogue)
    changed = {folder for folder, spec in after.specs.items() if before.specs.get(folder) != spec}
    return of(changed, "pretrained"), of(changed, "runs")


def of(folders: Iterable[str], kind: str) -> set[str]:
    return {folder for folder in folders if folder.startswith(f"{kind}/")}


def test_table_2_needs_48_cells_on_24_pretrainings_times_5_seeds():
    everything = plan(TABLE2, CATALOGUE)
    assert len(of(everything.specs, "runs")) == 48 * 5
    assert len(of(everything.specs, "pretrained")) == 24 * 5
    assert run_table(everything, CATALOGUE).count("\n") == 1 + 48 * 5


def test_the_whole_paper_shares_what_is_equal():
    everything = plan(PAPER, CATALOGUE)
    # Six backbones, whatever K and lambda are.
    assert len(of(everything.specs, "pretrained")) == 6 * 12 * 5
    # Eight methods; of four K three are not the own one (OGBench 4, Robomimic 2); of four lambda neither.
    assert len(of(everything.specs, "runs")) == (8 * 12 + 3 * 12 + 3 * 3) * 5
    folders = {(run.method, run.task): run.folder for run in everything.runs if run.seed == 0}
    assert folders["dfp_K=2", "lift"] == folders["dfp", "lift"] == "runs/lift/dfp/seed0"
    assert folders["dfp_K=4", "lift"] == "runs/lift/dfp_K=4/seed0"
    assert folders["dfp_lambda=0.5", "cube-quadruple-task3"] == "runs/cube-quadruple-task3/dfp/seed0"
    assert everything.starts["runs/lift/dfp_K=4/seed0"] == "pretrained/lift/drifting/seed0"


def test_methods_that_share_a_pretraining_must_share_the_offline_phase():
    catalogue = json.loads(CATALOGUE.model_dump_json())
    catalogue["methods"]["dfp"]["agent"]["bandwidths"] = [0.1]
    with pytest.raises(ConfigError, match=r"'dfp-no-topk' and 'dfp' .*'pretraining'"):
        plan(TABLE2, type(CATALOGUE).model_validate(catalogue))


def test_a_variant_sets_what_its_key_says_and_nothing_else():
    own = agent_for("dfp", "lift", CATALOGUE).model_dump()
    variant = agent_for("dfp_K=8_lambda=0.1", "lift", CATALOGUE).model_dump()
    assert variant["top_k"] == own["top_k"] | {"positives": 8, "weight": 0.1}
    assert {**variant, "top_k": None} == {**own, "top_k": None}
    assert method_entry("dfp_K=8_lambda=0.1", CATALOGUE).label == "DFP (Ours), K=8, lambda=0.1"


def test_a_variant_of_the_offline_phase_has_a_pretraining_of_its_own():
    assert folder_of("pretrain", CATALOGUE, "lift", "dfp_h=0.1", 0) == "pretrained/lift/dfp_h=0.1/seed0"
    assert folder_of("pretrain", CATALOGUE, "lift", "dfp_K=8", 0) == "pretrained/lift/drifting/seed0"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("dfp_Q=1", "unknown symbol of a variant of 'dfp' 'Q'; allowed: K, N, lambda, h, G"),
        ("mvp_K=1", "unknown symbol of a variant of 'mvp' 'K'"),
        ("dfp_lambda=0.10", "write 'lambda=0.1', not 'lambda=0.10'"),
        ("dfp_lambda=1e-1", "write 'lambda=0.1', not 'lambda=1e-1'"),
        ("dfp_lambda=1", "write 'lambda=1.0', not 'lambda=1'"),
        ("dfp_h=[0.1]", r"write 'h=0.1', not 'h=\[0.1\]'"),
        ("dfp_K=17", "'positives' .17. is larger than 'candidates' .16."),
    ],
)
def test_a_variant_that_is_none_is_named(method, message):
    with pytest.raises(ConfigError, match=message):
        agent_for(method, "cube-double-task2", CATALOGUE)


@pytest.mark.parametrize(
    "names", [("dfp_K=1_lambda=0.1", "dfp_lambda=0.1_K=1"), ("dfp_K=2", "dfp_K=2_K=2"), ("dfp_h=0.1", "dfp_h=0.1_K=4")]
)
def test_one_run_has_one_name(names):
    settings = PAPER.model_dump() | {
        "experiments": ["table6"], "tasks": ["cube-double-task2"], "cells": {"table6": {"methods": names}}
    }  # fmt: skip
    message = re.escape(f"table6: '{names[0]}' and '{names[1]}' are one run on cube-double-task2; name it one way")
    with pytest.raises(ConfigError, match=message):
        plan(parse_config(settings, "c.yaml"), CATALOGUE)


def test_an_offline_run_is_the_whole_method_on_its_own_tasks_and_seeds():
    everything = plan(PAPER.model_copy(update={"experiments": ["table8"]}), CATALOGUE)
    assert len(everything.specs) == 5 * 8
    assert not everything.starts
    spec = everything.specs["offline/puzzle-4x4-task4/dfp-offline/seed7"]
    agent = spec.agent.model_dump()
    # Table 8, last column; no chunks and no best-of-N'.
    assert agent["top_k"] == {"weight": 0.5, "candidates": 32, "positives": 16, "ema_rate": 1e-4}
    assert (agent["bandwidths"], agent["chunk"], agent["best_of"]) == ((0.01, 0.05), 1, 1)
    assert (spec.stage, spec.online) == ("offline", None)


def test_an_offline_table_needs_its_tasks_and_seeds():
    config = content("config") | {"experiments": ["table8"], "offline": None}
    with pytest.raises(ConfigError, match=r"test: 'table8' .*'offline'"):
        parse_config(config, "test")


def test_a_configuration_may_make_a_part_of_an_experiment():
    part = {"table3": {"methods": ["dfp_lambda=0.1"], "tasks": ["cube-single-*"]}}
    config = parse_config(content() | {"experiments": ["table3", "table2"], "cells": part}, "c.yaml")
    cells = [(run.experiment, run.task, run.method) for run in plan(config, CATALOGUE).runs]
    assert cells[0] == ("table3", "cube-single-task2", "dfp_lambda=0.1")
    assert [cell[0] for cell in cells[1:]] == ["table2"] * 4


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"table9": {}}, "c.yaml: unknown experiment of 'cells' 'table9'; allowed: table2, figure3"),
        ({"table2": {"methods": ["dpf"]}}, "c.yaml, cells, table2: unknown method 'dpf'; allowed: bfn,"),
        ({"table2": {"seeds": [0]}}, "c.yaml: unknown key 'cells.table2.seeds'; allowed: methods, tasks"),
        (
            {"table2": {"tasks": ["cube-single-*", "lift"]}},
            "c.yaml, cells, table2: 'tasks': 'lift' matches no task; there are: cube-single-task2",
        ),
    ],
)
def test_a_part_that_does_not_exist_is_named(cells, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        parse_config(content() | {"cells": cells}, "c.yaml")


@pytest.mark.parametrize("name", ["config", "demo", "smoke"])
def test_every_shipped_configuration_plans(name):
    config = load_config(CONFIG / f"{name}.yaml")
    assert isinstance(config, Config)
    assert plan(config, CATALOGUE).runs


def test_lambda_changes_the_online_runs_of_its_method_alone():
    def change(_, catalogue):
        catalogue["methods"]["dfp"]["agent"]["top_k"] = {"weight": 0.1}

    pretrainings, finetunings = changed_runs(change)
    assert not pretrainings
    assert len(finetunings) == 12 * 5
    assert all("/dfp/" in folder for folder in finetunings)


def test_an_online_setting_reruns_no_pretraining():
    def change(config, _):
        config["online"]["warmup_steps"] = 6_000

    pretrainings, finetunings = changed_runs(change)
    assert (len(pretrainings), len(finetunings)) == (0, 240)


def test_a_task_setting_reruns_that_task():
    def change(_, catalogue):
        catalogue["tasks"]["cube-double-task3"]["spec"]["success_timing"] = "pre"

    pretrainings, finetunings = changed_runs(change)
    assert (len(pretrainings), len(finetunings)) == (2 * 5, 4 * 5)
    assert all("cube-double-task3" in folder for folder in pretrainings | finetunings)


def test_swapped_numbers_are_a_change():
    def change(config, _):
        online = config["online"]
        online["steps"], online["buffer_capacity"] = online["buffer_capacity"], online["steps"]

    assert len(changed_runs(change)[1]) == 240


def test_labels_and_folders_change_nothing():
    def change(config, catalogue):
        config["results_dir"], config["data_dir"] = "elsewhere", "here"
        catalogue["methods"]["dfp"]["label"] = "ours"
        catalogue["tasks"]["lift"]["title"] = "Lift"

    assert changed_runs(change) == (set(), set())


def test_a_renamed_backbone_changes_no_run_and_no_folder():
    def change(_, catalogue):
        for entry in catalogue["methods"].values():
            entry["backbone"] = "another name"

    assert changed_runs(change) == (set(), set())
