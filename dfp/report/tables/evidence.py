"""The runs that a cell of a table was made of, for readers who open it."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd


class Evidence(NamedTuple):
    """One finished run behind a cell."""

    folder: str  #: below the results
    task: str
    seed: int
    digest: str  #: of the run's spec
    offline_share: float  #: of the run's steps, in [0, 1]
    curve: list[tuple[float, float]]  #: (share of the run's steps, success rate) of each evaluation, both in [0, 1]

    @property
    def success_rate(self) -> float:
        """At the last evaluation, in [0, 1]."""
        return self.curve[-1][1]


def evidence(tidy: pd.DataFrame, runs: pd.DataFrame, finished: pd.DataFrame) -> pd.DataFrame:
    """The runs behind each cell [method, task], a list of :class:`Evidence` in the order of their seeds.

    Args:
      tidy: evaluations, as :func:`~dfp.report.collect.evaluations` gives them.
      runs: the runs of one table, as the run table lists them.
      finished: the rows of ``tidy`` that the cells were made of, one per run.
    """
    made_of = runs.loc[runs.run.isin(finished.run)].sort_values("seed")
    methods, tasks = runs.method.unique(), runs.task.unique()
    found = pd.DataFrame([[[] for _ in tasks] for _ in methods], index=methods, columns=tasks, dtype=object)
    for run in made_of.itertuples():
        rows, steps = tidy.loc[tidy.run == run.run], run.offline_steps + run.online_steps
        curve = list(zip(rows.step / steps, rows.success_rate, strict=True))
        found.at[run.method, run.task].append(
            Evidence(run.run, run.task, run.seed, run.digest, run.offline_steps / steps, curve)
        )
    return found
