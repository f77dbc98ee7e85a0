"""What docs/extending.md promises: a method and a task from outside the package, by the page's own code and entries."""

import csv
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from point_mass import episodes

from dfp.__main__ import app
from dfp.catalogue import CATALOGUE

GUIDE = (Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text()


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
    (package / "my_method.py").write_text(block("my_package/my_method.py"))
    catalogue = tmp_path / "my_config"
    shutil.copytree(CATALOGUE, catalogue)
    for name in ("methods.yaml", "tasks.yaml"):
        with (catalogue / name).open("a") as file:
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
    for name in ("my_package", "my_package.my_method"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_a_method_and_a_task_from_outside_reach_a_table(outside, capsys):
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
