"""Learning curves so far: the report's figures, of what the runs have logged.

A mean is drawn only at steps at which every seed with an evaluation has one. A mean over fewer seeds from some step on
would bend there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from dfp.ops.export import read_points
from dfp.plan.run_table import read_runs
from dfp.report.figures import curves
from dfp.report.figures.drawing import rendered

STAGES = {"finetune": "Offline, then online", "offline": "Offline RL"}
RATE = "evaluation/success_rate"


def pictures(results_dir: Path) -> Iterator[tuple[str, bytes]]:
    """Title and SVG file of the curves of each kind of run: a panel per task, also of one without an evaluation yet."""
    runs = read_runs(results_dir).drop_duplicates(["stage", "task", "method", "seed"])
    for stage, listed in runs.groupby("stage", sort=False):
        frame = curves.curves(success_rates(results_dir, listed), listed)
        yield STAGES[str(stage)], rendered(curves.draw(frame), "svg", {"Date": None})


def success_rates(results_dir: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """``task, method, seed, step, success_rate`` of evaluations, at steps that all evaluated seeds of a cell have."""
    rows = [
        (run["task"], run["method"], run["seed"], point.step, point.values[RATE])
        for run in runs.to_dict("records")
        for folder in dict.fromkeys((run["pretrained"], run["run"]))
        for point in read_points(results_dir / folder)
        if RATE in point.values
    ]
    tidy = pd.DataFrame(rows, columns=pd.Index(["task", "method", "seed", "step", "success_rate"]))
    begun = tidy.groupby(["task", "method"]).seed.transform("nunique")
    return tidy.loc[tidy.groupby(["task", "method", "step"]).seed.transform("nunique") == begun]
