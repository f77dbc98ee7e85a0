"""What a run prints while it trains."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dfp.runs import console
from dfp.runs.console import Console


def lines_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[tuple[float, int]], total: int) -> list[str]:
    """The lines of the log when a run says its step at these times, in seconds."""
    clock = iter([at for at, _ in seen])
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock), gmtime=time.gmtime))
    with Console(tmp_path / "train.log", "pretrain cube/dfp/seed0", total) as shown:
        for _, step in seen:
            shown.progress(step, {"bc_loss": 0.5})
    return [line.split(" ", 1)[1] for line in (tmp_path / "train.log").read_text().splitlines()]


def test_a_line_says_the_speed_and_the_time_left(tmp_path, monkeypatch):
    # 300 steps in 30 s, then 2,700 to go; the first call and one after less than 30 s print nothing.
    lines = lines_of(tmp_path, monkeypatch, [(0.0, 700), (10.0, 800), (30.0, 1000)], total=3700)
    assert lines == ["step 1000/3700  10.0 steps/s  4:30 left  bc_loss 0.5"]


def test_hours(tmp_path, monkeypatch):
    (line,) = lines_of(tmp_path, monkeypatch, [(0.0, 0), (40.0, 400)], total=40_400)
    assert "  1:06:40 left  " in line


def test_without_progress_nobody_knows(tmp_path, monkeypatch):
    (line,) = lines_of(tmp_path, monkeypatch, [(0.0, 5), (31.0, 5)], total=10)
    assert "  0.0 steps/s  ? left  " in line


def test_the_terminal_names_the_run(tmp_path, monkeypatch, capsys):
    lines_of(tmp_path, monkeypatch, [(0.0, 0), (30.0, 300)], total=600)
    assert capsys.readouterr().err == "pretrain cube/dfp/seed0: step 300/600  10.0 steps/s  0:30 left  bc_loss 0.5\n"
