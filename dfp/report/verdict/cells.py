"""Every cell of the paper's success tables, with the paper's number and ours side by side.

A cell is a table, a phase, a task and a method; ``task`` may also be a group of tasks (Table 4) or ``average``. Rates
are fractions in [0, 1]. Ours come from run folders alone: no number of ``config/paper`` can enter them.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pandas as pd

from dfp.plan.catalogue import TaskEntry, load_catalogue
from dfp.report.aggregates import run_ends
from dfp.report.manifests import finished_manifests
from dfp.report.paper import paper_table
from dfp.report.study.data import KEY
from dfp.report.verdict.protocol import PAPER_SCALE, scale
from dfp.spec import ConfigError

CELL = ["table", "phase", "task", "method"]
# Of the success tables, as their captions say. Table 6's does not, but its online means are those of Tables 1 and 2.
SEEDS = {1: 5, 2: 5, 3: 5, 4: 5, 6: 5, 7: 8}
EPISODES = 100  # per evaluation: every entry of Table 6 is a multiple of 0.2 % over 5 seeds
OFFLINE_RL = 7
AVERAGE = "average"
REGRET = "regret"


def paper_cells() -> pd.DataFrame:
    """Columns :data:`CELL`, ``mean, std, n, episodes``: Tables 1-4, 6 and 7 as printed, in the order of the paper.

    The paper prints no deviation of an average. With T independent tasks it is the root of the sum of their squared
    deviations, divided by T. It stays NaN in Table 4, which prints no deviations.
    """
    parts = []
    for table, seeds in SEEDS.items():
        printed = paper_table(table).rename(columns={"group": "task"})
        phase = "offline" if table == OFFLINE_RL else "online"
        frame = printed.assign(table=table, phase=printed.get("phase", phase), n=seeds, std=printed.get("std", np.nan))
        frame = frame.assign(mean=frame["mean"] / 100, std=frame["std"] / 100)
        parts.append(frame.reindex(columns=[*CELL, "mean", "std", "n"]))
    cells = pd.concat(parts, ignore_index=True)
    tasks = [len(tasks_of(task, table)) for task, table in zip(cells.task, cells.table, strict=True)]
    squares = cells.assign(square=cells["std"] ** 2).query("task != @AVERAGE").groupby(["table", "phase", "method"])
    average = np.sqrt(squares.square.sum(min_count=1)) / squares.size()
    keys = pd.MultiIndex.from_frame(cells.reindex(columns=["table", "phase", "method"]))
    std = cells["std"].where(cells.task != AVERAGE, average.reindex(keys).to_numpy())
    return cells.assign(std=std, episodes=EPISODES * np.array(tasks))


@functools.cache
def tasks_of(task: str, table: int) -> tuple[str, ...]:
    """The tasks that a column of a table is made of: itself, those of a group, or all of the online tables."""
    catalogue = _catalogue()
    if task in catalogue:
        return (task,)
    printed = paper_table(1).task.unique()
    online = tuple(key for key in printed if key != AVERAGE)
    if task == AVERAGE:
        return online
    members = tuple(key for key in online if catalogue[key].group == task)
    if not members:
        raise ConfigError(f"config/paper/table{table}.csv: '{task}' is neither a task, a group nor '{AVERAGE}'")
    return members


@functools.cache
def _catalogue() -> dict[str, TaskEntry]:
    return load_catalogue().tasks


def our_rates(tidy: pd.DataFrame, runs: pd.DataFrame, results_dir: Path) -> pd.DataFrame:
    """One row per run and phase that has ended: ``stage, task, method, seed, phase, rate, episodes, scale``.

    ``phase`` is ``offline``, ``online`` or ``regret`` (of the online phase); ``scale`` says what differs from the
    paper's protocol, by the run's own manifest. Raises :class:`ConfigError` as
    :func:`~dfp.report.manifests.finished_manifests` does.
    """
    listed = runs.drop_duplicates(KEY)
    steps = tidy.merge(listed[[*KEY, "offline_steps", "online_steps", "pretrained"]], on=KEY)
    at_end = steps.step == steps.offline_steps + steps.online_steps * (steps.phase == "online")
    ends = steps.loc[at_end].rename(columns={"success_rate": "rate"})
    folder = ends.run.where(ends.phase == "online", ends.pretrained)
    regret = run_ends(tidy, runs).dropna(subset="regret")
    online = ends.loc[ends.phase == "online"].drop(columns="rate").merge(regret[[*KEY, "regret"]], on=KEY)
    online = online.rename(columns={"regret": "rate"}).assign(phase=REGRET, folder=online.run)
    rows = pd.concat([ends.assign(folder=folder), online], ignore_index=True)
    known = finished_manifests(results_dir, runs)
    rows = rows.loc[rows.folder.isin(list(known))]  # --partial: a run at its last step that has no manifest yet
    scales = [
        scale(known[folder]["spec"], online=phase != "offline")
        for folder, phase in zip(rows.folder, rows.phase, strict=True)
    ]
    return rows.assign(scale=scales).reindex(columns=[*KEY, "phase", "rate", "episodes", "scale"])


def our_cells(wanted: pd.DataFrame, rates: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Ours for every cell of ``wanted`` (:data:`CELL`): ``mean, std, n, listed, episodes, scale``, in its order.

    ``n`` counts the seeds with a result on every task of the column; ``listed``, those in the run table. If a column
    has several tasks, a seed's value is its mean over them, and ``mean`` and ``std`` are over these values. Cells of
    Table 7 are from offline runs, all others from offline-to-online runs.
    """
    tasks = [tasks_of(task, table) for task, table in zip(wanted.task, wanted.table, strict=True)]
    stage = np.where(wanted.table == OFFLINE_RL, "offline", "finetune")
    columns = (
        wanted[CELL].assign(stage=stage, size=list(map(len, tasks)), task=tasks, cell=wanted.index).explode("task")
    )
    key = ["stage", "task", "method"]
    listed = _whole(columns.merge(runs.drop_duplicates([*key, "seed"])[[*key, "seed"]], on=key))
    found = columns.merge(rates, on=[*key, "phase"])
    finished = _whole(found, rate=("rate", "mean"), episodes=("episodes", "sum"))
    ours = finished.groupby("cell").agg(
        mean=("rate", "mean"), std=("rate", "std"), n=("rate", "size"), episodes=("episodes", "min")
    )
    used = found.merge(finished.reset_index()[["cell", "seed"]], on=["cell", "seed"])
    scales = {cell: "; ".join(sorted(set(scales) - {PAPER_SCALE})) for cell, scales in used.groupby("cell")["scale"]}
    cells = wanted[CELL].join(ours)
    cells["listed"] = listed.groupby("cell").size().reindex(cells.index)
    cells["scale"] = [scales.get(cell, "") for cell in cells.index]
    return cells.fillna(dict.fromkeys(COUNTS, 0)).astype(dict.fromkeys(COUNTS, int))


COUNTS = ("n", "listed", "episodes")


def _whole(rows: pd.DataFrame, **fields: tuple[str, str]) -> pd.DataFrame:
    """A row per (cell, seed) that has every task of the cell's column: the number of tasks, and ``fields``."""
    by_seed = rows.groupby(["cell", "seed"]).agg(tasks=("task", "size"), size=("size", "first"), **fields)
    return by_seed.loc[by_seed["tasks"] == by_seed["size"]]
