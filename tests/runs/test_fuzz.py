"""Damaged ``attempts.jsonl``: what is left of the record, in range; the next attempt always begins."""

import json
import math

import pytest
from support.damage import damaged

from dfp.errors import MEANING
from dfp.ops.status.why import why
from dfp.runs.attempts import AttemptLog, read_attempts
from dfp.training.session import TrainingError, Unfinished


@pytest.fixture
def folder(tmp_path):
    """A run with an attempt that ended at its deadline, one that failed, one that was killed and one that works."""
    folder = tmp_path / "results" / "runs" / "cube-single-task2" / "dfp" / "seed0"
    folder.mkdir(parents=True)
    for step, error in ((300, Unfinished("deadline")), (444, TrainingError("critic_loss is not finite")), (500, None)):
        log = AttemptLog(folder)
        log.start(step - 100)
        if error is not None:
            log.end(error, step)
    AttemptLog(folder).start(600)
    return folder


def test_attempts(folder):
    path = folder / "attempts.jsonl"
    content, wanted = path.read_bytes(), read_attempts(folder)
    assert [attempt.reason for attempt in wanted] == [
        "unfinished",
        "failed: critic_loss is not finite",
        "killed",
        None,
    ]
    same = 0
    for data in damaged(content, seed=7):
        path.write_bytes(data)
        found = read_attempts(folder)
        same += found == wanted
        for attempt in found:
            assert attempt.number >= 1
            assert attempt.from_step >= 0
            assert math.isfinite(attempt.started)
            assert attempt.code in (None, *MEANING)
            assert attempt.seconds is None or 0 <= attempt.seconds < math.inf
            assert attempt.peak_mb is None or attempt.peak_mb >= 0
        assert "\n" in why(folder)
        log = AttemptLog(folder)
        log.start(700)
        assert read_attempts(folder)[-1].from_step == 700
        assert 0 <= log.spent_s() < math.inf
        log.end(None, 800)
        ended = read_attempts(folder)[-1]
        assert (ended.number, ended.reason, ended.step) == (log.number, "finished", 800)
        lines = path.read_bytes().splitlines()
        assert json.loads(lines[-1])["event"] == "end"
    assert same > 0
