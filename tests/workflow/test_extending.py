"""What docs/extending.md promises: a method and a task from outside the package, by the page's own code and entries."""

import csv
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from point_mass import episodes
from support.snakemake import ROOT, planned, snakemake

from dfp import tasks
from dfp.__main__ import app
from dfp.plan.catalogue import CATALOGUE, load_catalogue
from dfp.spec import ConfigError, DataSpec
from dfp.tasks import DataError

GUIDE = (ROOT / "docs" / "extending.md").read_text()


def block(name: str) -> str:
    """The code block of the guide that begins with a comment of this name."""
    found = re.findall(rf"^```\w+\n# {re.escape(name)}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, name
    return found[0]


def dfp(command: str) -> None:
    """A command line, in this process."""
    app(command.split(), standalone_mode=False)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A working directory with a package, catalogues, a dataset and a configuration of its own."""
    package = tmp_path / "my_package"
    package.mkdir()
    for name in ("my_method.py", "my_suite.py"):
        (package / name).write_text(block(f"my_package/{name}"))
    catalogue = tmp_path / "my_config"
    shutil.copytree(CATALOGUE, catalogue)
    for name in ("methods.yaml", "tasks.yaml", "tasks.yaml, a suite"):
        with (catalogue / name.split(",")[0]).open("a") as file:
            file.write(f"\n{block(name)}")
    experiments = yaml.safe_load((catalogue / "experiments.yaml").read_text())
    experiments["table2"]["methods"] = ["dfp", "my-method"]
    (catalogue / "experiments.yaml").write_text(yaml.safe_dump(experiments))

    config = yaml.safe_load((CATALOGUE / "smoke.yaml").read_text())
    config |= {
        "experiments": ["table2"],
        "tasks": ["point-mass"],
        "data": {"source": "download"},
        "results_dir": "results",
    }
    config["training"] |= {"offline_steps": 1000, "learning_rate": 1e-3}
    config["online"] |= {"steps": 30, "warmup_steps": 5}
    config["evaluation"] = {"interval": 1000, "episodes": 10}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DFP_CATALOGUE", str(catalogue))
    for name in ("XLA_FLAGS", "OMP_NUM_THREADS"):  # commands write them
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("my_package", "my_package.my_method", "my_package.my_suite"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_a_method_and_a_task_from_outside_reach_a_table(outside):
    folder = outside / "data/download/point-mass-walks"
    folder.mkdir(parents=True)
    np.savez(folder / "point-mass-walks.npz", allow_pickle=False, **episodes(40, seed=0))
    dfp("data point-mass --config config.yaml")
    for method in ("dfp", "my-method"):
        for stage in ("pretrain", "finetune"):
            dfp(f"{stage} --config config.yaml --task point-mass --method {method} --seed 0 --threads 1")
    dfp("runs --config config.yaml")
    dfp("table 2 --results-dir results")

    with (outside / "results/table2.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["dfp", "my-method"]
    with (outside / "results/runs/point-mass/my-method/seed0/metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert (last["phase"], last["step"], last["episodes"]) == ("online", "1030", "10")
    assert float(last["success_rate"]) > 0.5  # a walk to the origin is soon learnt
    assert float(rows["my-method"]["point-mass_mean"]) == float(last["success_rate"])
    assert rows["my-method"]["point-mass_seeds"] == "1"
    table = (outside / "results/table2.md").read_text()
    assert "| My method | Gaussian |" in table
    assert "Toy" in table


def test_a_suite_from_outside_is_made_recorded_and_read(outside):
    """The same calls as for the package's own suites: nothing but the catalogue names the new one."""
    task = load_catalogue().tasks["bead"].spec
    assert task.suite == "my_package.my_suite"
    dfp("""data bead --config config.yaml --data {"source":"generate","episodes":3,"seed":0}""")
    data = DataSpec(source="generate", episodes=3, seed=0)
    manifest = json.loads(tasks.manifest_path(task, data, outside / "data").read_text())
    rows = tasks.load_dataset(task, data, outside / "data")
    assert manifest["rows"] == len(rows.rewards) == len(rows.actions)
    assert rows.terminals.sum() == 3
    assert rows.rewards[rows.terminals].tolist() == [0, 0, 0]  # each walk ends at the goal
    assert rows.masks[rows.terminals].tolist() == [0, 0, 0]
    environment = tasks.make_environment(task)
    start = environment.reset(0)
    assert environment.step(np.array([-1.0])).observation == pytest.approx(start - 0.2)
    with pytest.raises(ConfigError, match=r"^task 'bead': .*'my_package.my_suite'"):
        tasks.open_view(task)
    with pytest.raises(DataError, match="MY_SUITE_URL"):
        tasks.prepare_dataset(task, DataSpec(source="download"), outside / "data", 1)


@pytest.fixture
def guest(tmp_path) -> Path:
    """A folder with the page's Snakefile, which uses the workflow as a module, and with its configuration."""
    content = yaml.safe_load((CATALOGUE / "smoke.yaml").read_text()) | {"results_dir": "results/dfp"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"dfp": content}))
    (tmp_path / "Snakefile").write_text(block("Snakefile"))
    return tmp_path


def test_another_workflow_plans_a_table_of_this_one_as_a_module(guest):
    counts = planned("best.txt", folder=guest, snakefile=guest / "Snakefile")
    assert counts == {
        "dfp_data": 1, "dfp_runs": 1, "dfp_pretrain": 2, "dfp_finetune": 4, "dfp_table": 1, "best": 1,
    }  # fmt: skip


def test_jobs_of_a_module_find_its_code_and_its_snakefile(guest):
    """They are beside the Snakefile of the module, not beside the one that uses it."""
    snakefile = guest / "Snakefile"
    snakefile.write_text(
        f"{snakefile.read_text()}\n\nrule where:\n    output: 'where.txt'\n"
        "    shell: 'echo ${{PYTHONPATH%%:*}} $WORKFLOW > {output}'\n"
    )
    done = snakemake("where.txt", folder=guest, snakefile=snakefile)
    assert done.returncode == 0, done.stderr
    assert (guest / "where.txt").read_text().split() == [str(ROOT), str(ROOT / "Snakefile")]
