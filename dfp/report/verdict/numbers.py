"""The numbers that a claim of the paper's text is judged on: those of one side, ours or the paper's.

Rates go in as fractions and come out in percent and points.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from dfp.report.statistics import at_least_sampling_std, welch_half_width
from dfp.report.verdict.cells import AVERAGE

FIELDS = ["mean", "std", "n", "episodes"]


class Missing(Exception):
    """Numbers that a claim needs are not there; the message says which."""


class Numbers:
    """Cells by table and phase. Each method returns all numbers asked for, or raises :class:`Missing`."""

    def __init__(self, cells: pd.DataFrame, cost: pd.Series | None) -> None:
        """``cells``: ``table, phase, task, method, mean, std, n, episodes``, a NaN mean if there is no number.

        ``cost``: milliseconds by (method, phase), or None.
        """
        columns = cells[cells.task != AVERAGE]
        self._cells = dict(iter(columns.groupby(["table", "phase"])))
        self._cost = cost

    def means(self, table: int, methods: list[str], phase: str = "online") -> pd.DataFrame:
        """Means [method, task] in percent, as the paper prints them: rounded to 0.1."""
        return pd.DataFrame(100 * self._block(table, methods, phase)["mean"]).round(1)

    def averages(self, table: int, methods: list[str], phase: str = "online") -> pd.Series:
        """Per method, the mean over the table's tasks, in percent."""
        return 100 * self._block(table, methods, phase)["mean"].mean(axis=1)

    def gain(self, table: int, weights: dict[str, int], phase: str = "online") -> tuple[float, float]:
        """The weighted sum of methods' averages, in points, and the half width of its 95 % Welch interval."""
        block = self._block(table, list(weights), phase)
        mean, std, n, episodes = (block[name].to_numpy(float) for name in FIELDS)
        share = np.array(list(weights.values()))[:, None] / mean.shape[1] * np.ones_like(mean)
        half = welch_half_width(share, at_least_sampling_std(std, mean, n, episodes), n)
        return 100 * float((share * mean).sum()), 100 * half

    def gains(self, table: int, better: str, worse: str, phase: str = "online") -> pd.DataFrame:
        """Per task, ``gain`` in points and ``half``, the half width of its 95 % Welch interval."""
        block = self._block(table, [better, worse], phase)
        rows = {}
        for task in pd.DataFrame(block["mean"]).columns:
            mean, std, n, episodes = (block[(name, task)].to_numpy(float) for name in FIELDS)
            half = welch_half_width(np.array([1.0, -1.0]), at_least_sampling_std(std, mean, n, episodes), n)
            rows[task] = (round(100 * (mean[0] - mean[1]), 1), 100 * half)
        return pd.DataFrame.from_dict(rows, orient="index", columns=["gain", "half"])

    def cost(self, methods: list[str], phase: str) -> pd.Series:
        """Milliseconds per step of every method."""
        found = {method: self._cost.get((method, phase)) for method in methods} if self._cost is not None else {}
        absent = [method for method in methods if found.get(method) is None]
        if absent:
            raise Missing(f"no {phase} cost of {', '.join(absent)} at the paper's network and batch")
        return pd.Series(found, dtype=float)

    def _block(self, table: int, methods: list[str], phase: str) -> pd.DataFrame:
        """Columns (field, task), rows ``methods``. Raises :class:`Missing` if a mean is not there."""
        if (table, phase) not in self._cells:
            raise Missing(f"no {phase} numbers of Table {table}")
        block = self._cells[table, phase].pivot(index="method", columns="task", values=FIELDS).reindex(methods)
        absent = np.isnan(block["mean"].to_numpy(float))
        if absent.any():
            names = ", ".join(method for method, row in zip(methods, absent, strict=True) if row.any())
            raise Missing(f"Table {table}, {phase}: {absent.sum()} of {absent.size} cells missing ({names})")
        return block
