"""What a results folder found: a sentence, a grid, and the paper's directional claims at the folder's own scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from dfp.report.aggregates import comparisons
from dfp.report.statistics import over_seeds, welch_half_width
from dfp.report.study.comparisons import directions
from dfp.report.study.data import KEY, run_scores
from dfp.report.verdict.protocol import PAPER_SCALE

HEADLINES = ("table2", "table1", "table6")  # the first of them that the run table lists is the headline


class Headline(NamedTuple):
    """Success at the end of a phase of one experiment's methods on its tasks."""

    phase: str
    tasks: list[str]
    labels: dict[str, str]  #: by method, in the order of the table
    summary: pd.DataFrame  #: [(method, task)]: mean, std, n over seeds; finished cells only

    def cells(self, method: str) -> list[str]:
        """``55.0 ± 7.1 (n=2)`` per task, then the average over the tasks; a dash for what has no finished run."""
        found = {task: self.summary.loc[(method, task)] for task in self.tasks if (method, task) in self.summary.index}
        texts = [_cell(found[task]) if task in found else "—" for task in self.tasks]
        average = self.average(method)
        return [*texts, "—" if average is None else f"{100 * average:.1f}"]

    def average(self, method: str) -> float | None:
        """The mean over the tasks; None if one has no finished run."""
        if not all((method, task) in self.summary.index for task in self.tasks):
            return None
        return float(self.summary.loc[[(method, task) for task in self.tasks], "mean"].mean())

    def interval(self, method: str) -> str:
        """`` [48.6, 92.8]``, the 95 % t-interval of :meth:`average` over seeds, in %; "" if a task has one seed."""
        found = self.summary.loc[[(method, task) for task in self.tasks]]
        weights = np.full(len(found), 1 / len(found))
        half = welch_half_width(weights, found["std"].to_numpy(), found["n"].to_numpy())
        if np.isnan(half):
            return ""
        low, high = np.clip(found["mean"].mean() + np.array([-half, half]), 0.0, 1.0)
        return f" [{100 * low:.1f}, {100 * high:.1f}]"

    @property
    def sentence(self) -> str:
        """The methods that are finished on every task, best first, with interval and number of seeds; or ""."""
        parts = []
        for method, label in self.labels.items():
            if (average := self.average(method)) is not None:
                n = sorted({int(self.summary.loc[(method, task), "n"]) for task in self.tasks})
                seeds = " to ".join(map(str, dict.fromkeys((n[0], n[-1]))))
                parts.append((average, f"{label} {100 * average:.1f} %{self.interval(method)} (n={seeds})"))
        if not parts:
            return ""
        tasks = self.tasks[0] if len(self.tasks) == 1 else f"{len(self.tasks)} tasks, on average"
        told = ", ".join(text for _, text in sorted(parts, key=lambda part: -part[0]))
        brackets = " Brackets are 95 % t-intervals over seeds." if "[" in told else ""
        return f"On {tasks}, success at the end of the {self.phase} phase is: {told}.{brackets}"


def headline(rates: pd.DataFrame, runs: pd.DataFrame) -> Headline | None:
    """Of the first of :data:`HEADLINES` that is listed, else of the first experiment that has runs of its own."""
    listed = dict(comparisons(runs))
    experiment = next((name for name in (*HEADLINES, *listed) if name in listed), None)
    if experiment is None:
        return None
    grid = listed[experiment]
    phase = "online" if (grid.stage == "finetune").all() else "offline"
    mine = rates[rates.phase == phase].merge(grid[KEY], on=KEY).assign(success_rate=lambda frame: frame.rate)
    summary = over_seeds(mine, ["method", "task"]).set_index(["method", "task"])
    labels = grid.drop_duplicates("method").set_index("method")["label"].to_dict()
    return Headline(phase, list(grid.task.unique()), labels, summary)


def directions_here(tidy: pd.DataFrame, runs: pd.DataFrame, rates: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The study's claims, judged by its rule, by task: the frames of :func:`~dfp.report.study.comparisons.directions`.

    Only tasks on which a fine-tuning has finished at another scale than the paper's.
    """
    small = rates.loc[(rates.phase == "online") & (rates.scale != PAPER_SCALE)]
    scores = run_scores(tidy, runs)
    scores = scores.loc[scores.stage == "finetune"]
    return {task: directions(scores.loc[scores.task == task]) for task in small.task.unique()}


def _cell(found: pd.Series) -> str:
    mean, std, n = found[["mean", "std", "n"]].tolist()
    return f"{100 * mean:.1f}{'' if np.isnan(std) else f' ± {100 * std:.1f}'} (n={n:.0f})"
