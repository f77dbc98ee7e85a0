"""Learning curves that others published, to be drawn beside ours (Figure 1). They never count as ours."""

from __future__ import annotations

import pandas as pd

from dfp.plan.run_table import read_table
from dfp.shipped import CATALOGUE

PUBLISHED = CATALOGUE / "published" / "qc_curves.csv"
SOURCE = "published, Li et al. 2025"
TYPES = {"task": "str", "method": "str", "step": "int64", "mean": "float64"}
OFFLINE_STEPS = ONLINE_STEPS = 1_000_000  # what its steps count


def published_curves(cells: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The published curves of the tasks and methods in ``cells``, and why some are missing (empty: none is).

    Args:
      cells: columns ``task, method, offline_steps, online_steps`` among others, as those of our curves.

    Returns:
      Columns ``task, method, step, mean``: rates in [0, 1]. Only of runs of 1M + 1M steps: a step of a shorter run is
      not the same step.
    """
    cells = cells.loc[:, ["task", "method", "offline_steps", "online_steps"]].drop_duplicates()
    curves = read_table(PUBLISHED, TYPES).merge(cells, on=["task", "method"])
    same = (curves.offline_steps == OFFLINE_STEPS) & (curves.online_steps == ONLINE_STEPS)
    reason = ""
    if not same.all():
        other = curves[~same].iloc[0]
        reason = (
            f"published curves are left out: theirs are of 1,000,000 + 1,000,000 steps, "
            f"{other.task} has {other.offline_steps:,} + {other.online_steps:,}"
        )
    return curves.loc[same, ["task", "method", "step", "mean"]].reset_index(drop=True), reason
