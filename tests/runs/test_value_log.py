"""``train.csv``: what comes back, what a restart cuts, and what a full disk or a killed writer leaves."""

import datetime
import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
from support.helpers import CUBE

import dfp.runs.value_log
from dfp.runs.online_rows import OnlineRows
from dfp.runs.value_log import ValueLog, interval, latest_values, read_values, require_names
from dfp.spec import ConfigError


def written(folder) -> list[tuple[int, str, str, float]]:
    return [row[:4] for row in read_values(folder)]


def test_what_is_written_comes_back_with_its_time_in_utc(tmp_path):
    log = ValueLog(tmp_path)
    log.start(0)
    log.add(10, "offline", {"critic_loss": 1 / 3, "q_mean": -2.5})
    log.add(20, "offline", {"critic_loss": 1e-9})
    assert written(tmp_path) == [
        (10, "offline", "critic_loss", 1 / 3),
        (10, "offline", "q_mean", -2.5),
        (20, "offline", "critic_loss", 1e-9),
    ]
    now = datetime.datetime.now(datetime.UTC)
    for row in read_values(tmp_path):
        assert row.time.utcoffset() == datetime.timedelta(0)
        assert abs((now - row.time).total_seconds()) < 60
    assert {name: row.value for name, row in latest_values(tmp_path).items()} == {"critic_loss": 1e-9, "q_mean": -2.5}
    assert (tmp_path / "train.csv").read_text().startswith("step,phase,name,value,time\n10,offline,critic_loss,0.333")


def test_a_restart_cuts_what_came_after_its_checkpoint(tmp_path):
    log = ValueLog(tmp_path)
    log.start(0)
    for step in (10, 20, 30):
        log.add(step, "online", {"loss": float(step)})
    with (tmp_path / "train.csv").open("a") as file:
        file.write("40,online,lo")  # torn: the writer was killed
    again = ValueLog(tmp_path)
    assert again.start(20) == 0
    again.add(30, "online", {"loss": 3.0})
    assert written(tmp_path) == [
        (10, "online", "loss", 10.0),
        (20, "online", "loss", 20.0),
        (30, "online", "loss", 3.0),
    ]


def test_a_name_with_its_group_is_read_and_survives_a_restart(tmp_path):
    """As the releases of FQL and of DFP name their terms."""
    log, terms = ValueLog(tmp_path), {"critic/q_mean": 1.0, "actor/bc-loss.2": 2.0}
    log.start(0)
    require_names(terms, "agent 'own'")
    log.add(10, "offline", terms)
    assert ValueLog(tmp_path).start(10) == 0
    assert written(tmp_path) == [(10, "offline", "critic/q_mean", 1.0), (10, "offline", "actor/bc-loss.2", 2.0)]


@pytest.mark.parametrize("name", ["q mean", "q,mean", "q\nmean", "", "success_rate"])
def test_a_name_that_no_row_could_have_is_refused(name):
    message = f"agent 'own': a term cannot be called '{name}' in train.csv; allowed: letters, digits, _ . / and -, but"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        require_names({"loss": 1.0, name: 2.0}, "agent 'own'")


@pytest.mark.parametrize(
    "line",
    [
        "x,online,loss,1.0,2026-01-01T00:00:00+00:00",
        "1,offlin,loss,1.0,2026-01-01T00:00:00+00:00",
        "1,online,loss,nan,2026-01-01T00:00:00+00:00",
        "1,online,loss,1.0,2026-01-01T00:00:00",  # no zone
        "1,online,loss,1.0",
        "\0\0\0\0",
    ],
)
def test_a_damaged_line_is_left_out_and_counted(tmp_path, line):
    log = ValueLog(tmp_path)
    log.start(0)
    log.add(1, "online", {"loss": 1.0})
    with (tmp_path / "train.csv").open("a") as file:
        file.write(f"{line}\n")
    assert written(tmp_path) == [(1, "online", "loss", 1.0)]
    assert ValueLog(tmp_path).start(1) == 1


def test_a_full_disk_loses_no_row(tmp_path, monkeypatch):
    log = ValueLog(tmp_path)
    log.start(0)
    log.add(1, "online", {"loss": 1.0})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    log.add(2, "online", {"loss": 2.0})
    assert written(tmp_path) == [(1, "online", "loss", 1.0)]
    monkeypatch.undo()
    log.add(3, "online", {"loss": 3.0})
    assert [row[3] for row in written(tmp_path)] == [1.0, 2.0, 3.0]


def test_a_failed_write_names_its_file(tmp_path, monkeypatch):
    log, rows = ValueLog(tmp_path), OnlineRows(tmp_path / "online_rows.bin", CUBE)
    log.start(0)
    rows.add(np.zeros(CUBE.observation_size), np.zeros(CUBE.action_size), 0.0, 1.0, None)

    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    for write, name in ((lambda: log.add(1, "online", {"loss": 1.0}), "train.csv"), (rows.flush, "online_rows.bin")):
        with pytest.raises(OSError, match=f"Input/output error: '{tmp_path / name}'"):
            write()


def test_a_file_that_cannot_be_read_is_not_emptied(tmp_path, monkeypatch):
    log = ValueLog(tmp_path)
    log.start(0)
    log.add(1, "online", {"loss": 1.0})
    path_open = Path.open

    def stale(path, mode="r", **rest):
        if mode == "rb":
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return path_open(path, mode, **rest)

    monkeypatch.setattr(Path, "open", stale)
    with pytest.raises(OSError, match="Stale"):
        ValueLog(tmp_path).start(1)
    assert latest_values(tmp_path) == {}
    monkeypatch.undo()
    assert written(tmp_path) == [(1, "online", "loss", 1.0)]


def test_a_row_that_the_tail_cuts_is_not_read_with_another_step(tmp_path, monkeypatch):
    log = ValueLog(tmp_path)
    log.start(0)
    log.add(112, "online", {"loss": 1.0})
    log.add(113, "online", {"q_mean": 2.0})
    size = len((tmp_path / "train.csv").read_bytes()) - len("step,phase,name,value,time\n")
    monkeypatch.setattr(dfp.runs.value_log, "TAIL_BYTES", size - 1)
    assert {name: row.step for name, row in latest_values(tmp_path).items()} == {"q_mean": 113}


@pytest.mark.parametrize(("total", "steps"), [(40, 1), (450, 9), (30_000, 600), (50_000, 1000), (1_000_000, 1000)])
def test_rows_are_a_fiftieth_of_a_stage_apart_and_at_most_a_thousand_steps(total, steps):
    assert interval(total) == steps
