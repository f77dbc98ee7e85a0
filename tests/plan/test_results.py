"""Whose results a folder holds."""

import shutil

import pytest
from support.snakemake import snakemake
from typer.testing import CliRunner

from dfp.__main__ import app
from dfp.plan.catalogue import CATALOGUE
from dfp.plan.results import claim, record
from dfp.spec import ConfigError


def test_a_second_configuration_is_refused_and_both_are_named(tmp_path):
    first, second, results = tmp_path / "first.yaml", tmp_path / "second.yaml", tmp_path / "results"
    claim(results, [second])  # nothing is there yet
    record(results, [first])
    record(results, [first])
    record(results, [results / "config.json"])  # the workflow's own copy
    with pytest.raises(ConfigError, match=r"\.\./first\.yaml.*\.\./second\.yaml"):
        record(results, [second])
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(results, moved / "results")
    claim(moved / "results", [moved / "first.yaml"])


def test_a_run_by_hand_refuses_before_it_overwrites(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first.yaml", "second.yaml"):
        shutil.copy(CATALOGUE / "smoke.yaml", tmp_path / name)
    monkeypatch.setattr("dfp.training.stages.pretrain", lambda *_: None)
    cell = ["--task", "cube-single-task2", "--method", "dfp", "--seed", "0"]
    started = [
        CliRunner().invoke(app, ["train", "pretrain", "--config", f"{name}.yaml", *cell])
        for name in ("first", "second")
    ]
    assert started[0].exit_code == 0
    assert "results of ../../first.yaml, not of ../../second.yaml" in str(started[1].exception)


def test_the_workflow_refuses_before_it_overwrites(tmp_path):
    for name in ("first.yaml", "second.yaml"):
        shutil.copy(CATALOGUE / "smoke.yaml", tmp_path / name)
    record(tmp_path / "results" / "smoke", [tmp_path / "first.yaml"])
    done = snakemake("--configfile", "second.yaml", "-n", folder=tmp_path)
    assert done.returncode != 0
    assert "results of ../../first.yaml, not of ../../second.yaml" in done.stdout + done.stderr


def test_one_list_of_seeds_on_the_command_line_does_not_leave_the_other(tmp_path):
    paper = ("--configfile", str(CATALOGUE / "config.yaml"), "--config", "seeds=[0]", "experiments=[table7]")
    done = snakemake("-n", *paper, folder=tmp_path)
    assert done.returncode != 0
    assert "would still take 'offline.seeds', [0, 1, 2, 3, 4, 5, 6, 7]" in done.stdout + done.stderr


def test_snakemake_does_not_take_the_last_of_two_keys(tmp_path):
    text = (CATALOGUE / "smoke.yaml").read_text()
    (tmp_path / "c.yaml").write_text(text + "seeds: [1]\n")
    done = snakemake("-n", "--configfile", "c.yaml", folder=tmp_path)
    assert done.returncode != 0
    assert "c.yaml: not YAML: the key 'seeds' is in line" in done.stdout + done.stderr
