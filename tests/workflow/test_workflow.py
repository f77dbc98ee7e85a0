"""The DAG, through Snakemake itself: what is planned, what a change reruns, what a typo says."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.shipped import content
from support.snakemake import ROOT, planned, snakemake

from dfp.plan.catalogue import load_catalogue, parse_config
from dfp.plan.experiments import plan
from dfp.tasks import manifest_path


def test_the_paper_plans_exactly_the_runs_of_table_2():
    assert planned("results/table2.csv", "--configfile", "config/config.yaml", folder=ROOT) | {"data": 6} == {
        "data": 6,
        "runs": 1,
        "pretrain": 24 * 5,
        "finetune": 48 * 5,
        "table": 1,
    }


@pytest.mark.parametrize(
    ("experiments", "target", "jobs"),
    [
        ("table5", "table5", {"pretrain": 6 * 12 * 5, "finetune": 8 * 12 * 5}),
        ("table7", "table7", {"offline": 11 * 5 * 8}),
        ("table3,table8", "table8", {"offline": 5 * 8}),
        ("table3,table10", "table10", {"pretrain": 3 * 5, "finetune": 12 * 5}),
    ],
)
def test_a_table_plans_exactly_the_runs_it_needs(experiments, target, jobs):
    chosen = ("--configfile", "config/config.yaml", "--config", f"experiments=[{experiments}]")
    counts = planned(f"results/{target}.csv", *chosen, folder=ROOT)
    counts.pop("data", None)
    assert counts == jobs | {"runs": 1, "table": 1}


def test_the_table_of_costs_needs_no_run():
    counts = planned("results/table9.csv", "--configfile", "config/config.yaml", folder=ROOT)
    assert counts == {"cost": 1, "table": 1}


CONTENT = content() | {"seeds": [0, 1]}
CONTENT["experiments"] += ["table9"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder in which every file of the smoke workflow exists, as if its jobs had run.

    Snakemake's own ``--touch`` records the jobs, their params included, without running them.
    """
    folder = tmp_path_factory.mktemp("workflow")
    write(folder, CONTENT)
    done = snakemake("--configfile", "c.yaml", "-n", "--summary", folder=folder)
    assert done.returncode == 0, done.stderr
    config = parse_config(CONTENT, "c.yaml")
    manifest_path(load_catalogue().tasks["cube-single-task2"].spec, config.data, folder / "data")
    for line in done.stdout.splitlines()[1:]:
        path = folder / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    touched = snakemake("--configfile", "c.yaml", "--touch", "--forceall", folder=folder)
    assert touched.returncode == 0, touched.stderr
    return folder


def write(folder: Path, content: dict) -> None:
    (folder / "c.yaml").write_text(yaml.safe_dump(content))


def rerun(folder: Path, content: dict) -> dict[str, int]:
    write(folder, content)
    return planned("--configfile", "c.yaml", folder=folder)


def test_nothing_is_run_twice(made):
    assert rerun(made, CONTENT) == {}


def test_a_run_without_its_agent_is_not_done(made):
    agent = made / "results" / "smoke" / "runs" / "cube-single-task2" / "dfp" / "seed0" / "agent.npz"
    agent.unlink()
    try:
        assert rerun(made, CONTENT)["finetune"] == 1  # which restores it from finished/
    finally:
        agent.write_text("")
        shutil.copystat(agent.with_name("metrics.csv"), agent)
    assert rerun(made, CONTENT) == {}


def test_a_run_whose_agent_was_cut_is_not_done(made):
    manifest = made / "results" / "smoke" / "runs" / "cube-single-task2" / "dfp" / "seed0" / "manifest.json"
    ages = manifest.stat()
    try:
        manifest.write_text('{"results": {"agent.npz": {"bytes": 7}}}')
        done = snakemake("--configfile", "c.yaml", "-n", folder=made)
        assert done.returncode != 0
        assert "dfp/seed0/agent.npz: damaged: not of the size" in done.stdout + done.stderr
    finally:
        manifest.write_text("")
        os.utime(manifest, ns=(ages.st_atime_ns, ages.st_mtime_ns))
    assert rerun(made, CONTENT) == {}


def test_an_online_hyperparameter_reruns_the_online_runs(made):
    changed = rerun(made, CONTENT | {"online": CONTENT["online"] | {"warmup_steps": 30}})
    assert changed["finetune"] == 4 * 2
    assert "pretrain" not in changed
    assert "data" not in changed


def test_an_offline_hyperparameter_reruns_everything_but_the_data(made):
    changed = rerun(made, CONTENT | {"training": CONTENT["training"] | {"discount": 0.98}})
    assert (changed["pretrain"], changed["finetune"], changed["cost"]) == (2 * 2, 4 * 2, 1)
    assert "data" not in changed


def test_a_swapped_pair_of_numbers_is_noticed(made):
    online = CONTENT["online"]
    swapped = online | {"steps": online["warmup_steps"], "warmup_steps": online["steps"]}
    assert rerun(made, CONTENT | {"online": swapped})["finetune"] == 4 * 2


def test_a_further_seed_runs_that_seed_alone(made):
    changed = rerun(made, CONTENT | {"seeds": [0, 1, 2]})
    assert (changed["pretrain"], changed["finetune"]) == (2, 4)
    assert not {"data", "cost"} & set(changed)


def test_other_tasks_of_its_dataset_prepare_none_again(tmp_path):
    """Whichever tasks a configuration has, the command is the same."""
    write(tmp_path, CONTENT | {"tasks": ["cube-double-task4"], "experiments": ["table2"]})
    done = snakemake("-n", "-p", "--configfile", "c.yaml", folder=tmp_path)
    assert re.findall(r"python -m dfp data (\S+)", done.stdout) == ["cube-double-task2"]


def test_touched_data_and_edited_code_rerun_nothing(made):
    config = parse_config(CONTENT, "c.yaml")
    manifest = manifest_path(load_catalogue().tasks["cube-single-task2"].spec, config.data, made / "data")
    manifest.touch()
    assert rerun(made, CONTENT) == {}
    # The rules' own text: a copy of the workflow with another comment in every rule file plans nothing either.
    copy = made / "copy"
    for name in ("workflow", "config"):
        shutil.copytree(ROOT / name, copy / name)
    shutil.copytree(ROOT / "profiles", copy / "profiles")
    shutil.copy(ROOT / "Snakefile", copy)
    for path in [copy / "Snakefile", *copy.glob("workflow/rules/*.smk")]:
        path.write_text(path.read_text() + "\n# another comment\n")
    assert planned("--configfile", "c.yaml", "--snakefile", str(copy / "Snakefile"), folder=made) == {}


@pytest.mark.parametrize(
    ("target", "change", "message"),
    [
        ([], {"sedes": [1]}, "c.yaml: unknown key 'sedes'; allowed: cells,"),
        ([], {"tasks": ["cube-triple-task9"]}, "unknown task 'cube-triple-task9'; allowed: lift,"),
        (["results/smoke/runs/cube-single-task2/dpf/seed0/metrics.csv"], {}, "no method 'dpf'"),
        (["results/smoke/runs/cube-single-task3/dfp/seed0/metrics.csv"], {}, "no task 'cube-single-task3'"),
        (["results/smoke/runs/cube-single-task2/dfp/seed7/metrics.csv"], {}, "no seed '7'"),
        (["results/smoke/table4.csv"], {}, "c.yaml; there are: table2, figure3"),
        ([], {"experiments": ["table2", "table3"]}, "'table3' has no run: cube-quadruple-* matches no task of"),
    ],
)
def test_bad_input_is_named_before_anything_runs(tmp_path, target, change, message):
    write(tmp_path, CONTENT | change)
    done = snakemake(*target, "-n", "--configfile", "c.yaml", folder=tmp_path)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert not (tmp_path / "results").exists()


def test_a_configuration_without_a_key_gets_none_of_the_default_one(tmp_path):
    """Whichever key it is, also in a folder that has the default configuration."""
    (tmp_path / "config").mkdir()
    shutil.copy(ROOT / "config" / "config.yaml", tmp_path / "config")
    write(tmp_path, {key: value for key, value in CONTENT.items() if key != "data_dir"})
    done = snakemake("-n", "--configfile", "c.yaml", folder=tmp_path)
    assert done.returncode != 0
    assert f"{tmp_path / 'c.yaml'}: 'data_dir' is missing" in done.stdout + done.stderr


def test_keys_of_the_command_line_alone_change_the_default_configuration(tmp_path):
    """The folder's own, or else the one that comes with the workflow."""
    changes = ("--config", "data_dir=elsewhere", "seeds=[0]", "experiments=[table2]")
    counts = planned("results/table2.csv", *changes, folder=tmp_path)
    assert (counts["pretrain"], counts["finetune"]) == (24, 48)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text(yaml.safe_dump(CONTENT))
    counts = planned("results/smoke/table2.csv", *changes, folder=tmp_path)
    assert (counts["pretrain"], counts["finetune"]) == (2, 4)


def test_the_site_with_gres_names_every_rule_that_would_not_fit_it():
    """Each rule that asks for a GPU asks for a `gres` instead, and no job is longer than its 12 hours."""
    site = yaml.safe_load((ROOT / "workflow" / "profiles" / "site-gres" / "config.yaml").read_text())["set-resources"]
    text = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    rules = {rule.partition(":")[0]: rule for rule in re.split(r"^rule ", text, flags=re.MULTILINE)[1:]}
    on_gpu = {name for name, rule in rules.items() if re.search(r"^ +gpu=", rule, re.MULTILINE)}
    assert on_gpu == {name for name, resources in site.items() if resources.get("gpu") == 0 and "gres" in resources}
    long = {name for name, rule in rules.items() if "runtime=NEEDS[" in rule}
    assert long == {name for name, resources in site.items() if resources.get("runtime") == 720}


def test_runs_by_seed_come_in_waves():
    config = parse_config(CONTENT, "c.yaml")
    seeds = [run.seed for run in plan(config, load_catalogue()).runs if run.method == "dfp"]
    assert seeds == [0, 1, 0, 1]


def test_packs_are_of_one_seed_and_hold_k_runs(tmp_path):
    write(tmp_path, CONTENT)
    counts = planned("--configfile", "c.yaml", "--config", "pack=3", folder=tmp_path)
    # Per seed two pretrainings in one pack, four fine-tunings in two.
    assert (counts["pack"], counts["pretrain"], counts["finetune"]) == (2 * (1 + 2), 2 * 2, 4 * 2)


def test_seeds_of_one_offline_phase_are_one_job(tmp_path):
    """Two pretrainings of seven seeds: a job of five and one of two for each; fine-tunings keep jobs of their own."""
    write(tmp_path, CONTENT | {"seeds": list(range(7))})
    arguments = ("-n", "-p", "--configfile", "c.yaml", "--config", "seeds_per_job=5")
    done = snakemake(*arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    commands = re.findall(r"python -m dfp train (\w+) .*", done.stdout)
    assert {name: commands.count(name) for name in commands} == {"pack": 2 * 2, "recall": 2 * 7, "finetune": 4 * 7}
    packs = re.findall(r"python -m dfp train pack --runs '(.*)' --data-dir .* --seeds-per-job 5 ", done.stdout)
    runs = [[Path(run["run_dir"]).parts[-2:] for run in json.loads(pack)] for pack in packs]
    assert sorted(runs) == sorted(
        [(method, f"seed{seed}") for seed in seeds]
        for method in ("drifting", "meanflow")
        for seeds in (range(5), range(5, 7))
    )


def test_a_pack_is_of_k_programs(tmp_path):
    write(tmp_path, CONTENT)
    counts = planned("--configfile", "c.yaml", "--config", "seeds_per_job=2", "pack=3", folder=tmp_path)
    # The pretrainings of two methods, of two seeds each; of each seed four fine-tunings in two packs.
    assert (counts["pack"], counts["pretrain"], counts["finetune"]) == (1 + 2 * 2, 2 * 2, 4 * 2)


@pytest.mark.slow
def test_a_run_that_is_missing_runs_its_pack_alone(tmp_path):
    """Its siblings are not made again, nor is anything because the packs' markers are gone."""
    folder = tmp_path / "packed"
    folder.mkdir()
    write(folder, CONTENT)
    arguments = ("--configfile", "c.yaml", "--config", "pack=3")
    listed = snakemake(*arguments, "-n", "--summary", folder=folder)
    for line in listed.stdout.splitlines()[1:]:
        path = folder / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    touched = snakemake(*arguments, "--touch", "--forceall", folder=folder)
    assert touched.returncode == 0, touched.stderr
    shutil.rmtree(folder / "results" / "smoke" / "packs", ignore_errors=True)  # they are temporary
    assert planned(*arguments, folder=folder) == {}
    run = "results/smoke/runs/cube-single-task2/dfp/seed1/metrics.csv"
    (folder / run).unlink()
    assert planned(run, *arguments, folder=folder) == {"pack": 1, "finetune": 1}


@pytest.mark.parametrize("given", ["pack=0", "pack=two", "pack=1.5", "pack=true", "seeds_per_job=0"])
def test_a_pack_size_that_is_none_is_named(tmp_path, given):
    write(tmp_path, CONTENT)
    done = snakemake("-n", "--configfile", "c.yaml", "--config", given, folder=tmp_path)
    assert done.returncode != 0
    assert f"--config {given}: allowed: a whole number from 1" in done.stdout + done.stderr


def test_an_earlier_seed_is_submitted_first(tmp_path):
    write(tmp_path, CONTENT | {"seeds": [0, 1, 2]})
    done = snakemake("-n", "--configfile", "c.yaml", "--verbose", folder=tmp_path)
    priorities = set(re.findall(r"seed=(\d)\n(?:.*\n)*?    priority: (-\d+)", done.stdout + done.stderr))
    assert {("1", "-1"), ("2", "-2")} <= priorities
