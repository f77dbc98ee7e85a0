"""What a step costs: the rows of Table 9, and a clock that counts the steps between its readings."""

import csv
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dfp.__main__ import app
from dfp.ops import bench, cost
from dfp.report.tables.cost import COST_TYPES
from dfp.tasks import Step
from dfp.training.rollout import RemoteEnvironment

CONFIG = Path(__file__).resolve().parents[2] / "config" / "smoke.yaml"
STEP = Step(np.zeros(1, np.float32), 0.0, False, False, False)


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told to, and an environment without a simulator."""
    now = [0.0]
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(RemoteEnvironment, "__init__", lambda self, task: None)
    monkeypatch.setattr(RemoteEnvironment, "play", lambda self, actions: (STEP for _ in actions))
    return now


def test_the_clock_starts_after_the_warm_up_and_stops_where_a_chunk_begins(clock):
    environment = cost.Metered(None, seconds=1.0)
    for _ in range(4):  # 20 steps of warm-up, 5 a chunk: not counted
        list(environment.play(np.zeros((5, 1))))
        clock[0] += 7.0

    def forever():
        while True:
            list(environment.play(np.zeros((5, 1))))
            clock[0] += 0.4

    with pytest.raises(cost.Enough):
        forever()
    # Chunks begin at 0, 0.4, 0.8 and 1.2 s of the clock; at the last the time is over: 15 steps in 1.2 s.
    assert environment.ms_per_step == pytest.approx(80.0)


@pytest.mark.slow
def test_the_command_writes_every_phase_of_every_method(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "SECONDS", 0.2)
    path = tmp_path / "cost.csv"
    arguments = ["ops", "cost", "--config", str(CONFIG), "--output", str(path), "--seconds", "0.2", "--method", "fql"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert tuple(rows[0]) == tuple(COST_TYPES)
    assert [(row["method"], row["label"], row["phase"]) for row in rows] == [
        ("fql", "FQL", phase) for phase in ("offline", "online", "evaluation")
    ]
    assert all(float(row["ms"]) > 0 and row["task"] == "cube-single-task2" and row["width"] == "16" for row in rows)
