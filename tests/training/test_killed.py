"""Runs that are killed with their checkpoints half written end with the same bits."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from support.small_runs import RandomShards, make_spec, metrics, options, use_random_data, values, weights

from dfp.runs.attempts import read_attempts
from dfp.spec import RunSpec
from dfp.training import offline, stages


@pytest.fixture(autouse=True)
def _random_data(monkeypatch):
    monkeypatch.setattr(offline, "ShardReader", RandomShards)


def _attempt(stage: str, folder: str, pretrained: str) -> None:
    use_random_data()
    if stage == "pretrain":
        stages.pretrain(long_spec(stage).pretraining(), Path(folder), options(checkpoint_s=0.0))
    else:
        stages.finetune(long_spec(stage), Path(folder), Path(pretrained), options(checkpoint_s=0.0))


def long_spec(stage: str) -> RunSpec:
    """A run of this stage of several seconds, so that it can be killed in the middle; the other stage is short."""
    spec = make_spec()
    assert spec.online is not None
    return make_spec(
        training=spec.training.model_copy(update={"offline_steps": 10_000 if stage == "pretrain" else 300}),
        online=spec.online.model_copy(update={"steps": 2000}),
        evaluation=spec.evaluation.model_copy(update={"interval": 1000, "episodes": 1}),
    )


# How each attempt ends: killed at a random moment; while a checkpoint is being written; or killed, and its newest
# checkpoint cut to so many bytes (negative: so many from its end).
ENDS: dict[str, list[str | int]] = {
    "pretrain": ["random", "writing", -1],
    "finetune": ["random", "writing", 0, 100, 20_000],
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ENDS)
def test_killed_at_random_moments_gives_the_same_bits(tmp_path, stage):
    """kill -9 of the whole process, several times; checkpoints are written all the time."""
    stages.pretrain(long_spec(stage).pretraining(), tmp_path / "pretrain", options())
    if stage == "finetune":
        stages.finetune(long_spec(stage), tmp_path / "finetune", tmp_path / "pretrain", options())
    folder, moments = tmp_path / "killed", random.Random(0)
    for end in ENDS[stage]:
        process = start_attempt(stage, folder, tmp_path)
        wait_for_checkpoint(folder, process)
        if end == "writing":
            wait_for(lambda: any(folder.glob(".checkpoint-*.tmp")), process)
        else:
            time.sleep(moments.uniform(0.0, 0.3))
        assert process.is_alive(), "finished before it could be killed: make the run longer"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if isinstance(end, int):
            latest = max(folder.glob("checkpoint-*.npz"), key=lambda path: path.stat().st_mtime_ns)
            os.truncate(latest, end if end >= 0 else latest.stat().st_size + end)
    start_attempt(stage, folder, tmp_path).join()
    assert weights(folder) == weights(tmp_path / stage)
    assert metrics(folder) == metrics(tmp_path / stage)
    assert values(folder) == values(tmp_path / stage)
    log = (folder / "train.log").read_text()
    assert log.count("checkpoint refused") == sum(isinstance(end, int) for end in ENDS[stage])
    assert log.count("continues from step") >= len(ENDS[stage]) - 1
    attempts = read_attempts(folder)
    assert [one.reason for one in attempts] == ["killed"] * len(ENDS[stage]) + ["finished"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["attempts"] == len(attempts)
    assert manifest["spent_s"] >= manifest["wall_s"]


def start_attempt(stage: str, folder: Path, tmp_path: Path) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("forkserver")  # its processes begin with the libraries loaded
    context.set_forkserver_preload(["dfp.training.stages"])
    process = context.Process(target=_attempt, args=(stage, str(folder), str(tmp_path / "pretrain")))
    process.start()
    return process


def wait_for(condition, process) -> None:
    while not condition() and process.is_alive():
        time.sleep(0.0005)


def wait_for_checkpoint(folder: Path, process) -> None:
    before = newest(folder)
    wait_for(lambda: newest(folder) != before, process)


def newest(folder: Path) -> int:
    return max((path.stat().st_mtime_ns for path in folder.glob("checkpoint-*.npz")), default=0)
