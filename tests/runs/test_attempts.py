"""The record of attempts: how each ended, also where nobody was left to say it, and what they cost together."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from dfp.runs.attempts import (
    ATTEMPTS,
    Attempt,
    AttemptLog,
    Progress,
    close_killed,
    last_sign_of_life,
    outcome,
    peak_mb,
    read_attempts,
    spent_s,
)
from dfp.runs.lease import Lease
from dfp.spec import ConfigError
from dfp.training.session import TrainingError, Unfinished

FIRST = Attempt(1, "node1", 17, "4711", started=1000.0, from_step=500)


def test_an_attempt_is_written_as_it_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    log = AttemptLog(tmp_path)
    log.start(0)
    (running,) = read_attempts(tmp_path)
    assert (running.number, running.pid, running.job, running.from_step) == (1, os.getpid(), "4711", 0)
    assert (running.ended, running.code, running.reason, running.step) == (None, None, None, None)
    log.end(Unfinished("late"), 300)
    second = AttemptLog(tmp_path)
    second.start(300)
    assert second.number == 2
    second.end(TrainingError("critic_loss is not finite"), 444)
    third = AttemptLog(tmp_path)
    third.start(300)
    third.end(None, 1000)
    read = [(one.number, one.from_step, one.step, one.code, one.reason) for one in read_attempts(tmp_path)]
    assert read == [
        (1, 0, 300, 75, "unfinished"),
        (2, 300, 444, 3, "failed: critic_loss is not finite"),
        (3, 300, 1000, 0, "finished"),
    ]
    assert [one.failed for one in read_attempts(tmp_path)] == [False, True, False]


def _take_memory(megabytes: int, connection) -> None:
    taken = bytearray(megabytes * 1_000_000)  # zeros that were written, so they count
    connection.send(len(taken))
    del taken
    connection.recv()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
def test_the_peak_of_memory_counts_children_and_what_was_given_back(tmp_path):
    before = peak_mb()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_take_memory, args=(300, there))
    child.start()
    assert here.recv() == 300_000_000
    assert before is not None
    assert 300 <= peak_mb() - before < 600  # 300 of its own and an interpreter's
    log = AttemptLog(tmp_path)
    log.start(0)
    log.end(None, 1)
    here.send("end")
    child.join()
    (attempt,) = read_attempts(tmp_path)
    assert attempt.peak_mb >= before + 300
    assert peak_mb() < before + 300


def test_an_attempt_that_never_began_leaves_no_record(tmp_path):
    AttemptLog(tmp_path).end(None, 0)
    assert read_attempts(tmp_path) == []
    assert not (tmp_path / ATTEMPTS).exists()


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (None, 0, "finished"),
        (ConfigError("x.yaml: unknown key"), 2, "failed: x.yaml: unknown key"),
        (ValueError("two\nlines"), 1, "failed: ValueError: two lines"),
        (KeyboardInterrupt(), 130, "failed: KeyboardInterrupt"),
    ],
)
def test_the_end_names_what_ended_it(error, code, reason):
    assert outcome(error) == (code, reason)


def test_a_killed_attempt_ends_with_its_last_sign_of_life():
    progress = Progress.model_validate(
        {"attempts": 1, "step": 700, "total": 2000, "updated": "1970-01-01T00:18:00+00:00"}
    )
    closed = close_killed(FIRST, progress, 1120.0, saved=600)
    assert (closed.ended, closed.step, closed.code, closed.reason) == (1120.0, 700, 137, "killed")
    # Its checkpoint may be newer than its progress; and progress of another attempt is none of its own.
    assert close_killed(FIRST, progress, 1120.0, saved=800).step == 800
    assert close_killed(FIRST, progress.model_copy(update={"attempts": 2}), 1120.0, saved=0).step == 500
    # A clock that is behind does not make it end before it began.
    assert close_killed(FIRST, None, 900.0, saved=0).ended == 1000.0


def test_the_last_sign_of_life_is_the_newest_file(tmp_path):
    assert last_sign_of_life(tmp_path / "none") == 0.0
    for name, moment in (("lease.json", 1060.0), ("checkpoint-0.npz", 1075.0), ("train.log", 1070.0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (moment, moment))
    assert last_sign_of_life(tmp_path) == 1075.0


def test_lost_work_is_spent_too():
    ended = [FIRST._replace(ended=1060.0), FIRST._replace(number=2, started=2000.0, ended=2090.0)]
    running = FIRST._replace(number=3, started=3000.0)
    # The clock was set back by an hour meanwhile: what was measured holds.
    assert spent_s([FIRST._replace(ended=FIRST.started - 3600.0, seconds=42.0)], now=0.0) == 42.0
    assert spent_s(ended, now=9999.0) == 60.0 + 90.0
    assert spent_s([*ended, running], now=3007.0) == 60.0 + 90.0 + 7.0


def _attempt_until_killed(folder: str) -> None:
    with Lease(Path(folder)):
        AttemptLog(Path(folder)).start(500)
        Path(folder, "started").touch()
        time.sleep(600)


def test_kill_9_is_recorded_by_the_next_attempt(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_attempt_until_killed, args=(str(tmp_path),))
    process.start()
    while not (tmp_path / "started").exists():
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (dead,) = read_attempts(tmp_path)
    assert (dead.pid, dead.reason) == (process.pid, None)
    heartbeat = dead.started + 60.0
    os.utime(tmp_path / "lease.json", (heartbeat, heartbeat))
    log = AttemptLog(tmp_path)
    with Lease(tmp_path):
        log.start(500)
    first, second = read_attempts(tmp_path)
    assert (first.reason, first.code, first.step) == ("killed", 137, 500)
    assert first.ended == pytest.approx(heartbeat, abs=0.002)
    assert (second.number, second.pid, second.reason) == (2, os.getpid(), None)
    assert 60.0 <= log.spent_s() < 120.0


def test_a_torn_line_is_skipped_and_does_not_spoil_the_next(tmp_path):
    log = AttemptLog(tmp_path)
    log.start(0)
    with (tmp_path / ATTEMPTS).open("a") as file:
        file.write('{"attempt": 1, "event": "end", "ti')  # the disk was full
    assert read_attempts(tmp_path)[0].reason is None
    again = AttemptLog(tmp_path)
    again.start(200)
    assert [(one.number, one.reason) for one in read_attempts(tmp_path)] == [(1, "killed"), (2, None)]
    lines = (tmp_path / ATTEMPTS).read_text().splitlines()
    assert len(lines) == 4
    assert json.loads(lines[2])["event"] == "end"
