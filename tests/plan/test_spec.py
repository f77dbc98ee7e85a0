"""Configuration: the paper's numbers, identity of runs, what is shared, and errors in one line."""

import copy
import json
import random
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from dfp.plan.catalogue import (
    Config,
    agent_for,
    load_catalogue,
    load_config,
    method_entry,
    parse_config,
    read_yaml,
    run_spec,
)
from dfp.plan.experiments import folder_of, plan
from dfp.plan.run_table import run_table
from dfp.shipped import CATALOGUE as FOLDER
from dfp.spec import ConfigError, parse_spec

CONFIG = Path(__file__).resolve().parents[2] / "config"
PAPER = load_config(CONFIG / "config.yaml")
TABLE2 = PAPER.model_copy(update={"experiments": ["table2"]})
CATALOGUE = load_catalogue()


def content(name: str = "smoke") -> dict:
    return yaml.safe_load((CONFIG / f"{name}.yaml").read_text())


# --------------------------------------------------------------------------- Table 5


def test_table_5_shared_block():
    assert PAPER.training.model_dump() == {
        "batch_size": 256,
        "discount": 0.99,
        "learning_rate": 3e-4,
        "target_update_rate": 5e-3,
        "offline_steps": 1_000_000,
    }
    assert PAPER.network.model_dump() == {"width": 512, "depth": 4, "ensemble_size": 2}
    assert PAPER.online.model_dump() == {"steps": 1_000_000, "warmup_steps": 5_000, "buffer_capacity": 2_000_000}
    assert PAPER.evaluation.model_dump() == {"interval": 100_000, "episodes": 100}
    assert (len(PAPER.tasks), len(PAPER.seeds)) == (12, 5)


@pytest.mark.parametrize(
    ("task", "best_of", "bandwidths", "positives"),
    [("cube-double-task2", 16, (0.05,), 4), ("lift", 4, (0.005, 0.05), 2), ("can", 4, (0.005, 0.05), 2)],
)
def test_table_5_dfp_block(task, best_of, bandwidths, positives):
    agent = agent_for("dfp", task, CATALOGUE).model_dump()
    assert (agent["chunk"], agent["samples"], agent["best_of"], agent["bandwidths"]) == (5, 8, best_of, bandwidths)
    assert agent["top_k"] == {"weight": 0.5, "candidates": 16, "positives": positives, "ema_rate": 1e-4}
    assert agent["normalisation"] == "joint"


@pytest.mark.parametrize(
    ("method", "task", "chunk", "best_of"),
    [
        ("bfn", "cube-double-task2", 1, 4),
        ("bfn", "lift", 1, 4),
        ("qc-bfn", "cube-double-task2", 5, 32),
        ("qc-bfn", "lift", 5, 16),
    ],
)
def test_samples_of_bfn_are_those_of_q_chunking(method, task, chunk, best_of):
    agent = agent_for(method, task, CATALOGUE).model_dump()
    assert (agent["chunk"], agent["best_of"], agent["flow_steps"]) == (chunk, best_of, 10)


def test_mvp_constraint_is_off_on_cube_triple_only():
    weights = {task: agent_for("mvp", task, CATALOGUE).model_dump()["ivc_weight"] for task in PAPER.tasks}
    assert {task for task, weight in weights.items() if weight == 0} == {f"cube-triple-task{k}" for k in (2, 3, 4)}


# --------------------------------------------------------------------------- identity


def test_a_spec_survives_its_json():
    spec = run_spec(PAPER, CATALOGUE, "square", "dfp", 3)
    assert parse_spec(spec.canonical()) == spec
    assert parse_spec(spec.pretraining().canonical()) == spec.pretraining()


def test_no_path_or_display_name_in_a_spec():
    text = run_spec(PAPER, CATALOGUE, "cube-double-task2", "dfp", 0).canonical()
    assert "results" not in text
    assert "label" not in text
    assert str(Path.home()) not in text


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


def test_a_number_for_a_list_is_a_list_of_one():
    spec = run_spec(PAPER, CATALOGUE, "lift", "dfp_h=0.1", 0)
    assert spec.agent.model_dump()["bandwidths"] == (0.1,)
    listed = spec.model_copy(update={"agent": spec.agent.model_copy(update={"bandwidths": (0.1,)})})
    assert spec.digest() == listed.digest()
    assert parse_config(content() | {"seeds": 3}, "c.yaml").seeds == [3]


def test_digests_of_known_runs():
    """Stamps on checkpoints that exist: a change here makes every finished run another run."""
    digests = {
        method: run_spec(PAPER, CATALOGUE, "lift", method, 0).digest()[:16] for method in ("dfp", "mvp-topk", "fql")
    }
    assert digests == {"dfp": "843dc0a2590b98e0", "mvp-topk": "f0a5618d3a5b2a0a", "fql": "d4be6e3acd30853b"}


def test_methods_that_share_a_pretraining_must_share_the_offline_phase():
    catalogue = json.loads(CATALOGUE.model_dump_json())
    catalogue["methods"]["dfp"]["agent"]["bandwidths"] = [0.1]
    with pytest.raises(ConfigError, match=r"'dfp-no-topk' and 'dfp' .*'pretraining'"):
        plan(TABLE2, type(CATALOGUE).model_validate(catalogue))


# --------------------------------------------------------------------------- errors


def without(key):
    def change(config):
        del config[key]

    return change


def setting(path, value):
    def change(config):
        *parents, last = path.split(".")
        for parent in parents:
            config = config[parent]
        config[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("sedes", [1]), "unknown key 'sedes'; allowed: cells, data, data_dir"),
        (setting("training.batchsize", 8), "unknown key 'training.batchsize'; allowed: batch_size, discount"),
        (setting("tasks", ["cube-double-task9"]), "unknown task 'cube-double-task9'; allowed: lift, square"),
        (setting("experiments", ["table99"]), "unknown experiment 'table99'; allowed: table1, table2"),
        (setting("training.discount", 1.5), "'training.discount': Input should be less than 1, got 1.5"),
        (setting("training.batch_size", 0), "'training.batch_size': Input should be greater than 0, got 0"),
        (setting("seeds", [0, 0]), "'seeds': names 0 twice"),
        (setting("seeds", []), "'seeds': List should have at least 1 item"),
        (setting("tasks", ["lift", "can", "lift"]), "'tasks': names 'lift' twice"),
        (setting("offline", {"tasks": ["lift"], "seeds": [1, 1]}), "'offline.seeds': names 1 twice"),
        (setting("offline", {"tasks": ["lift", "lift"], "seeds": [1]}), "'offline.tasks': names 'lift' twice"),
        (setting("cells", {"table2": {"methods": ["dfp", "dfp"]}}), "'cells.table2.methods': names 'dfp' twice"),
        (setting("seeds", [2**31]), "'seeds.0': Input should be less than 2147483648, got 2147483648"),
        (setting("seeds", [-1]), "'seeds.0': Input should be greater than or equal to 0, got -1"),
        (setting("seeds", [True]), "'seeds': Input should be a number, not true or false"),
        (setting("data.seed", True), "'data.seed': Input should be a number, not true or false"),
        (setting("training.batch_size", True), "'training.batch_size': Input should be a number, not true or false"),
        (setting("training.learning_rate", float("inf")), "'training.learning_rate': Input should be a finite number"),
        (setting("results_dir", "$NOWHERE/results"), "'results_dir': '$NOWHERE/results' is not a path"),
        (setting("results_dir", ""), "'results_dir': '' is not a path"),
        (setting("data_dir", "~nobody-here/data"), "'data_dir': '~nobody-here/data' is not a path"),
        (setting("data.source", "steal"), "'data.source': Input should be 'download' or 'generate'"),
        (setting("data.episodes", None), "source 'generate' needs both 'episodes' and 'seed'"),
        (setting("online", 3), "'online'"),
        (without("network"), "'network' is missing"),
    ],
)
def test_a_bad_configuration_is_one_line_that_names_it(change, message):
    config = copy.deepcopy(content())
    change(config)
    with pytest.raises(ConfigError) as error:
        parse_config(config, "my.yaml")
    assert str(error.value).startswith("my.yaml: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ({"name": "dpf"}, "unknown agent 'dpf'; allowed: bfn, dfp, fql, mvp"),
        ({}, "'name' is missing"),
        ({"name": "dfp", "lambda": 1.0}, "unknown key 'lambda'; allowed: bandwidths, best_of"),
        ({"name": "dfp", "top_k": {"k": 2}}, "unknown key 'top_k.k'; allowed: candidates, ema_rate"),
        ({"name": "dfp", "top_k": {"positives": 17}}, "'positives' (17) is larger than 'candidates' (16)"),
        ({"name": "dfp", "top_k": {"ema_rate": 1.5}}, "'top_k.ema_rate': Input should be less than or equal to 1"),
        ({"name": "dfp", "top_k": {"ema_rate": 0.0}}, "'top_k.ema_rate': Input should be greater than 0"),
        ({"name": "dfp", "top_k": {"weight": -0.1}}, "'top_k.weight': Input should be greater than or equal to 0"),
        ({"name": "dfp", "normalisation": "none"}, "'normalisation': Input should be 'joint' or 'mean_shift'"),
        ({"name": "dfp", "bandwidths": []}, "'bandwidths'"),
        ({"name": "dfp", "bandwidths": [0.0]}, "'bandwidths.0': Input should be greater than 0"),
    ],
)
def test_a_bad_method_is_one_line_that_names_it(agent, message):
    catalogue = json.loads(CATALOGUE.model_dump_json())
    catalogue["methods"]["dfp"]["agent"] = agent
    with pytest.raises(ConfigError) as error:
        agent_for("dfp", "cube-double-task2", type(CATALOGUE).model_validate(catalogue))
    assert str(error.value).startswith("methods.yaml, dfp: ")
    assert message in str(error.value)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml: not YAML"):
        load_config(tmp_path / "bad.yaml")
    text = (CONFIG / "smoke.yaml").read_text()
    (tmp_path / "twice.yaml").write_text(text + "seeds: [1]\n")
    first, last = text.splitlines().index("seeds: [0]") + 1, len(text.splitlines()) + 1
    message = rf"twice\.yaml: not YAML: the key 'seeds' is in line {first} and again in line {last}"
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "twice.yaml")
    (tmp_path / "line.yaml").write_text("network: {width: 16, depth: 2, width: 512}\n")
    with pytest.raises(ConfigError, match="the key 'width' is in line 1 and again in line 1"):
        load_config(tmp_path / "line.yaml")
    (tmp_path / "latin.yaml").write_bytes("# für Versuche\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: not UTF-8 text \(byte 4\)"):
        load_config(tmp_path / "latin.yaml")
    (tmp_path / "tasks.yaml").write_text("# nothing yet\n")
    with pytest.raises(ConfigError, match=r"tasks\.yaml: empty; allowed: a mapping"):
        load_catalogue(tmp_path)
    with pytest.raises(ConfigError, match="--spec: not JSON"):
        parse_spec("{")
    with pytest.raises(ConfigError, match="--spec: not JSON: the key 'seed' is there twice"):
        parse_spec('{"seed": 0, "task": {}, "seed": 1}')


@pytest.mark.parametrize(
    ("name", "right", "wrong", "message"),
    [
        ("methods", "tasks: [lift, square, can]", "tasks: [lfit, square, can]", "qc-bfn, overrides: 'tasks': 'lfit'"),
        ("experiments", "tasks: [cube-quadruple-*]", "tasks: [cube-qadruple-*]", "table3: 'tasks': 'cube-qadruple-*'"),
    ],
)
def test_a_pattern_that_matches_no_task_is_named(tmp_path, name, right, wrong, message):
    for file in ("tasks.yaml", "methods.yaml", "experiments.yaml"):
        shutil.copy(CONFIG / file, tmp_path)
    path = tmp_path / f"{name}.yaml"
    path.write_text(path.read_text().replace(right, wrong, 1))
    with pytest.raises(ConfigError, match=re.escape(f"{path}, {message} matches no task; there are: lift, square,")):
        load_catalogue(tmp_path)


def test_an_editors_marks_change_nothing(tmp_path):
    text = (CONFIG / "smoke.yaml").read_bytes()
    (tmp_path / "windows.yaml").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    assert load_config(tmp_path / "windows.yaml") == load_config(CONFIG / "smoke.yaml")


def test_a_home_and_a_variable_are_what_a_shell_makes_of_them(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("SCRATCH", "/big disk")
    config = parse_config(content() | {"results_dir": "~/results", "data_dir": "$SCRATCH/data"}, "c.yaml")
    assert (config.results_dir, config.data_dir) == ("/home/somebody/results", "/big disk/data")


@pytest.mark.parametrize("name", ["smoke.yaml", "tasks.yaml", "methods.yaml"])
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, name):
    """Hundreds of damages: cut, bytes replaced, lines dropped, doubled or swapped."""
    shipped, draw = (CONFIG / name).read_bytes(), random.Random(name)
    for file in ("tasks.yaml", "methods.yaml", "experiments.yaml", "smoke.yaml"):
        shutil.copy(CONFIG / file, tmp_path)
    said = []
    for _ in range(300 if name == "smoke.yaml" else 30):
        (tmp_path / name).write_bytes(damaged(shipped, draw))
        try:
            catalogue = CATALOGUE if name == "smoke.yaml" else load_catalogue(tmp_path)
            plan(parse_config(read_yaml(tmp_path / "smoke.yaml"), "smoke.yaml", catalogue), catalogue)
        except ConfigError as error:
            said.append(str(error))
    assert len(said) > 10
    assert not [line for line in said if "\n" in line]


def damaged(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    kind, line, place = draw.randrange(6), draw.randrange(len(lines)), draw.randrange(len(content))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + bytes(draw.choices(range(256), k=3)) + content[place + 3 :]
    if kind == 2:
        return b"".join(lines[:line] + lines[line + 1 :])
    if kind == 3:
        return b"".join([*lines[: line + 1], *lines[line:]])
    if kind == 4:
        values = (b"true", b"-1", b".inf", b".nan", b"''", b"null", b"[]", b"{}", b"2020-13-45", b"[[[[", b"1e400")
        value = draw.choice(values)
        return b"".join([*lines[:line], lines[line].partition(b":")[0] + b": " + value + b"\n", *lines[line + 1 :]])
    return b"".join([*lines[:line], b"  " + lines[line], *lines[line + 1 :]])


def test_a_pretraining_has_no_online_part():
    spec = run_spec(PAPER, CATALOGUE, "can", "dfp", 0)
    broken = json.loads(spec.canonical()) | {"online": None}
    with pytest.raises(ConfigError, match="'online' is given for stage 'finetune'"):
        parse_spec(json.dumps(broken))


@pytest.mark.parametrize("name", ["config", "demo", "smoke"])
def test_every_shipped_configuration_plans(name):
    config = load_config(CONFIG / f"{name}.yaml")
    assert isinstance(config, Config)
    assert plan(config, CATALOGUE).runs


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


def test_the_catalogue_of_the_environment_may_be_below_the_home_folder(tmp_path, monkeypatch):
    shutil.copytree(FOLDER, tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DFP_CATALOGUE", "~/mine")
    assert load_catalogue().tasks.keys() == load_catalogue(FOLDER).tasks.keys()
    monkeypatch.setenv("DFP_CATALOGUE", "$NOWHERE/mine")
    with pytest.raises(ConfigError, match=r"DFP_CATALOGUE: '\$NOWHERE/mine' is not a path"):
        load_catalogue()
