"""Success rates of methods on tasks: the numbers of Tables 1 to 4, 6 and 7, ours and the paper's, and as printed.

A rate is a fraction in [0, 1]; printed ones are percent. A cell of ours is the mean over seeds at the end of a phase,
never the best evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dfp.report.paper import paper_table
from dfp.report.statistics import dense_rank, over_seeds

NOTHING = "—"


@dataclass(frozen=True)
class Grid:
    """Rates of one source; each frame is [method, column] in the order of the table. A column is a task or a group."""

    mean: pd.DataFrame
    std: pd.DataFrame  #: NaN if there is none: one seed, or a group
    seeds: pd.DataFrame  #: finished runs per cell
    listed: pd.DataFrame  #: runs per cell that the run table lists
    printed: pd.Series | None = None  #: averages [method] that the source prints itself
    unit: str = "tasks"  #: what the columns are

    @property
    def empty(self) -> bool:
        """Whether no cell has a value."""
        return bool(self.mean.isna().all(axis=None))

    def complete(self) -> pd.Series:
        """Per column, whether every method has all of its runs: only such columns are ranked and averaged."""
        return ((self.seeds == self.listed) & (self.seeds > 0)).all()

    def average(self) -> pd.Series:
        """Per method, the averages that the source prints, else the mean over the columns that are complete.

        All methods are thus averaged over the same columns. NaN if no column is complete.
        """
        if self.printed is not None:
            return self.printed
        return self.mean.loc[:, self.complete()].mean(axis=1)

    def grouped(self, groups: pd.Series) -> Grid:
        """The tasks of a group as one column, ``groups`` being the group [task].

        A mean is that of the tasks' means, NaN while a task of the group has none; runs are added up.
        """
        mean = self.mean.T.groupby(groups, sort=False).agg(lambda tasks: tasks.mean(skipna=False)).T
        seeds, listed = (frame.T.groupby(groups, sort=False).agg("sum").T for frame in (self.seeds, self.listed))
        return replace(self, mean=mean, std=mean * np.nan, seeds=seeds, listed=listed, unit="groups")


# --------------------------------------------------------------------------- from runs and from the paper


def last_evaluations(tidy: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``tidy`` at the end of ``runs``, both phases included: one per finished run."""
    return _evaluations_at(runs.offline_steps + runs.online_steps, tidy, runs)


def offline_evaluations(tidy: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``tidy`` at the end of the offline phase: one per run whose pretraining is finished."""
    return _evaluations_at(runs.offline_steps, tidy, runs)


def _evaluations_at(steps: pd.Series, tidy: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    keys = ["task", "method", "seed", "step"]
    return tidy.merge(runs.assign(step=steps)[keys], on=keys)


def measured_rates(last: pd.DataFrame, runs: pd.DataFrame) -> Grid:
    """Mean and sample standard deviation over seeds of every cell that ``runs`` lists."""
    cells = runs.groupby(["method", "task"], sort=False).agg(listed=("seed", "count")).reset_index()
    cells = cells.merge(over_seeds(last, ["method", "task"]), on=["method", "task"], how="left")
    return _grid(cells.fillna({"n": 0}), list(runs.method.unique()), list(runs.task.unique()))


def reported(number: int, like: pd.DataFrame, phase: str | None = None) -> Grid:
    """The paper's table, as fractions, for the methods and columns of ``like``; NaN if the paper has no such cell.

    ``config/paper/table<number>.csv`` holds the numbers as printed, in percent. The paper's own averages are taken if
    ``like`` has exactly the paper's columns; otherwise :meth:`Grid.average` computes them from the columns of ``like``.
    """
    printed = paper_table(number)
    paper = printed.rename(columns={"group": "task"})
    if phase is not None:
        paper = paper.loc[paper.phase == phase]
    values = {"mean": paper["mean"] / 100, "std": paper["std"] / 100 if "std" in paper else np.nan}
    cells = paper.assign(**values, n=1, listed=1)
    grid = _grid(cells, list(like.index), list(like.columns))
    averages = cells.loc[cells.task == "average"].set_index("method")["mean"].reindex(like.index)
    whole = set(like.columns) == set(paper.task) - {"average"} and averages.notna().all()
    return replace(grid, printed=averages if whole else None, unit="groups" if "group" in printed else "tasks")


def _grid(cells: pd.DataFrame, methods: list[str], tasks: list[str]) -> Grid:
    mean, std, seeds, listed = (
        cells.pivot(index="method", columns="task", values=name).reindex(index=methods, columns=tasks)
        for name in ("mean", "std", "n", "listed")
    )
    return Grid(mean, std, seeds.fillna(0).astype(int), listed.fillna(0).astype(int))


def wide(rows: pd.DataFrame, ours: Grid, paper: Grid) -> pd.DataFrame:
    """The CSV of a grid: ``rows`` (one per method, column ``method`` among them) with its numbers.

    Per column ``<column>_mean, _std, _seeds, _paper_mean, _paper_std``, then ``average, average_paper``. The numbers of
    columns in these averages are ``average_tasks, average_paper_tasks``, in Table 4 ``average_groups,
    average_paper_groups``.
    """
    parts = {}
    for column in ours.mean:
        values = (ours.mean, ours.std, ours.seeds, paper.mean, paper.std)
        for name, value in zip(("mean", "std", "seeds", "paper_mean", "paper_std"), values, strict=True):
            parts[f"{column}_{name}"] = value[column]
    parts |= {"average": ours.average(), "average_paper": paper.average()}
    for name, grid in (("average", ours), ("average_paper", paper)):
        parts[f"{name}_{grid.unit}"] = grid.complete().sum()
    return rows.merge(pd.DataFrame(parts), left_on="method", right_index=True)


# --------------------------------------------------------------------------- as the paper prints them


def printed_cells(
    grid: Grid, decimals: tuple[int, int], average: bool, marked: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A grid in percent, as text [method, column], with the rank of every cell among the methods.

    ``decimals`` are those of a mean and of its deviation; ``average`` adds a column of averages, with a note if it
    covers only some of the columns. Ranks are computed from the values as printed. A column that is not complete, or
    whose values are all equal, has no ranks. Without ``marked``, no cell has a rank.
    """
    complete = grid.complete()
    methods = grid.mean.index
    text = pd.DataFrame({name: [_cell(grid, row, name, decimals) for row in methods] for name in grid.mean}, methods)
    values = grid.mean.loc[:, complete]
    if average:
        values = values.assign(average=grid.average())
        short = "" if complete.all() else f" ({complete.sum()} of {complete.size} {grid.unit})"
        rates = grid.average()
        text["average"] = [NOTHING if np.isnan(rate) else f"{_percent(rate, decimals[0])}{short}" for rate in rates]
    as_printed = values.map(lambda rate: float(_percent(rate, decimals[0])))
    rank = dense_rank(as_printed.loc[:, as_printed.nunique() > 1]).reindex(columns=text.columns)
    return text, rank if marked else rank * np.nan


def _cell(grid: Grid, method: str, column: str, decimals: tuple[int, int]) -> str:
    seeds, listed = grid.seeds.at[method, column], grid.listed.at[method, column]
    if seeds == 0:
        return NOTHING
    mean, std = grid.mean.at[method, column], grid.std.at[method, column]
    value = NOTHING if np.isnan(mean) else _percent(mean, decimals[0])
    spread = "" if np.isnan(std) else f" ± {_percent(std, decimals[1])}"
    missing = "" if seeds == listed else f" (n={seeds}/{listed})"
    return f"{value}{spread}{missing}"


def _percent(rate: float, decimals: int) -> str:
    return f"{100 * rate:.{decimals}f}"
