"""Statistics over tasks and seeds: ``statistics.csv``, one row per number, and ``statistics.md``, the main ones.

``statistics.png`` and ``.pdf`` draw the performance profiles.

A comparison is an experiment of the run table: its methods on the same tasks. Each run gives its **last** evaluation,
which the paper's tables show, and its **best** one. The best evaluation is chosen by its result, and is therefore too
high by about as much as evaluations scatter. An online run also gives its **regret**. The three are reported apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dfp.files import pipe_table, write_atomically
from dfp.plan.catalogue import load_catalogue
from dfp.plan.run_table import read_runs
from dfp.report.collect import evaluations
from dfp.report.figures import profiles
from dfp.report.figures.drawing import csv_text, write_drawing
from dfp.report.statistics import (
    THRESHOLDS,
    Strata,
    interquartile_mean,
    over_seeds,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
    t_interval,
    task_mean,
)
from dfp.report.study.data import KEY, run_scores

COLUMNS = (
    "experiment", "method", "label", "versus", "task", "evaluation", "statistic", "threshold", "value", "low", "high",
    "std", "tasks", "runs", "listed",
)  # fmt: skip
ALL_TASKS = "all"
CELL = ["task", "method"]
OURS = ("dfp", "dfp-offline")  # the method that the paper proposes, in its online and its offline table


def write_statistics(results_dir: Path, partial: bool = False) -> list[Path]:
    """Write ``statistics.csv``, ``.md``, ``.png`` and ``.pdf`` below ``results_dir`` and return their paths.

    With ``partial``, runs that have not finished are left out. Raises :class:`~dfp.spec.ConfigError` as
    :func:`~dfp.report.collect.evaluations` does.
    """
    runs = read_runs(results_dir)
    frame = statistics(run_ends(evaluations(results_dir, runs, partial), runs), runs)
    stem, contents = results_dir / "statistics", {"csv": csv_text(frame), "md": page(frame, runs)}
    texts = [write_atomically(stem.with_suffix(f".{kind}"), content) for kind, content in contents.items()]
    return [*texts, *write_drawing(stem, profiles.draw(frame, runs))]


def run_ends(tidy: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """One row per finished run: ``stage, task, method, seed, last, best, regret``.

    ``last`` is its rate at the end, ``best`` its highest in the phase that the tables show (online, or offline for
    offline RL), ``regret`` that of the online phase, NaN for offline RL.
    """
    scores = run_scores(tidy, runs).dropna(subset="final", ignore_index=True)
    return scores.assign(last=scores.final).reindex(columns=[*KEY, "last", "best", "regret"])


def statistics(scores: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Every statistic of every comparison, tidy, in the columns of :data:`COLUMNS`. Rates are fractions.

    Per task (``task`` is its key): mean and sample deviation over seeds, ``low`` to ``high`` its 95 % t-interval. Over
    tasks (``task`` is ``all``): mean, interquartile mean, performance profile (per ``threshold``), probability of
    improvement on ``versus``, each with a 95 % stratified bootstrap interval. These cover the runs whose task and seed
    every method of the comparison has finished, so that no method is judged on easier ones: ``runs`` of ``listed``, on
    ``tasks`` tasks. An empty bound means that a task has one seed.
    """
    rows: list[dict[str, Any]] = []
    for experiment, listed in comparisons(runs):
        mine = scores.merge(listed[["stage", *CELL, "seed"]], on=["stage", *CELL, "seed"])
        labels = dict(zip(listed.method, listed.label, strict=True))
        found = [*_per_task(mine, listed), *_over_tasks(mine, listed)]
        rows += [{"experiment": experiment, "label": labels[row["method"]], **row} for row in found]
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


def comparisons(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The experiments that compare runs, each with its rows of the run table.

    An experiment whose runs are those of an earlier one is skipped, e.g. the figure of a table.
    """
    known = load_catalogue().experiments
    seen = set()
    for experiment, listed in runs.groupby("experiment", sort=False):
        if experiment in known and known[str(experiment)].made_from != "runs":
            continue  # a table of settings or costs, not of results
        grid = frozenset(zip(listed.stage, listed.task, listed.method, listed.seed, strict=True))
        if grid not in seen:
            seen.add(grid)
            yield str(experiment), listed


def _per_task(scores: pd.DataFrame, listed: pd.DataFrame) -> Iterator[dict[str, Any]]:
    cells = listed.groupby(CELL, sort=False).agg(listed=("seed", "count")).reset_index()
    for column, evaluation, statistic in _kinds(listed):
        values = scores.dropna(subset=column).assign(success_rate=scores[column])
        summary = cells.merge(t_interval(over_seeds(values, CELL)), on=CELL, how="left").fillna({"n": 0})
        for row in summary.to_dict("records"):
            yield {
                "method": row["method"], "task": row["task"], "evaluation": evaluation, "statistic": statistic,
                "value": row["mean"], "low": row["low"], "high": row["high"], "std": row["std"],
                "tasks": 1, "runs": int(row["n"]), "listed": row["listed"],
            }  # fmt: skip


def _over_tasks(scores: pd.DataFrame, listed: pd.DataFrame) -> Iterator[dict[str, Any]]:
    methods = list(listed.method.unique())
    shared = common_runs(scores, methods)
    for column, evaluation, mean in _kinds(listed):
        strata = {method: strata_of(shared, method, column) for method in methods}
        for method in methods:
            about = {
                "method": method, "task": ALL_TASKS, "evaluation": evaluation, "tasks": len(strata[method]),
                "runs": sum(map(len, strata[method])), "listed": int((listed.method == method).sum()),
            }  # fmt: skip
            yield {**about, "statistic": mean, **_estimate(task_mean, strata[method])}
            if mean == "regret":
                continue
            yield {**about, "statistic": "interquartile_mean", **_estimate(interquartile_mean, strata[method])}
            if evaluation == "best":
                continue
            for other in methods:
                if other != method:
                    pair = [*strata[method], *strata[other]]
                    chance = _estimate(probability_of_improvement, pair)
                    yield {**about, "statistic": "probability_of_improvement", "versus": other, **chance}
            if strata[method]:
                values = performance_profile(*strata[method])
                bounds = stratified_bootstrap(performance_profile, strata[method])
                for threshold, value, low, high in zip(THRESHOLDS, values, *bounds, strict=True):
                    point = {"threshold": threshold, "value": value, "low": low, "high": high}
                    yield {**about, "statistic": "performance_profile", **point}


def _kinds(listed: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Column of :func:`run_ends`, what it evaluates, and what its mean is called."""
    online = [("regret", "online phase", "regret")] if (listed.stage == "finetune").all() else []
    return [("last", "last", "mean"), ("best", "best", "mean"), *online]


def common_runs(scores: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """The rows of ``scores`` whose task and seed every method has."""
    return scores.loc[scores.groupby(["task", "seed"])["method"].transform("nunique") == len(methods)]


def strata_of(scores: pd.DataFrame, method: str, column: str) -> Strata:
    """The scores of a method, one array per task."""
    mine = scores.loc[scores.method == method].sort_values("seed", kind="stable")
    return [values.to_numpy() for _, values in mine.groupby("task", sort=True)[column]]


def _estimate(statistic: Any, strata: Strata) -> dict[str, float]:
    if not strata:
        return {"value": np.nan, "low": np.nan, "high": np.nan}
    low, high = stratified_bootstrap(statistic, strata)
    return {"value": float(statistic(*strata)), "low": float(low), "high": float(high)}


# --------------------------------------------------------------------------- for reading


def page(frame: pd.DataFrame, runs: pd.DataFrame) -> str:
    """In Markdown, one table per comparison: the aggregates over tasks, in percent."""
    lines = ["# Statistics", "", NOTE]
    titles = dict(zip(runs.experiment, runs.title, strict=True))
    for experiment, rows in frame.loc[frame.task == ALL_TASKS].groupby("experiment", sort=False):
        methods = list(rows.method.unique())
        reference = next((method for method in OURS if method in methods), None)
        labels = dict(zip(rows.method, rows.label, strict=True))
        head = ["Method", "runs", "tasks", "mean, last", "IQM, last", "mean, best"]
        head += ["regret"] if (rows.statistic == "regret").any() else []
        head += [f"P({labels[reference]} better)"] if reference else []
        table = []
        for method in methods:
            mine = rows.loc[rows.method == method].set_index(["evaluation", "statistic"])
            first = mine.iloc[0]
            cells = [labels[method], f"{first.runs} of {first.listed}", f"{first.tasks}"]
            cells += [_percent(mine.loc[("last", name)]) for name in ("mean", "interquartile_mean")]
            cells += [_percent(mine.loc[("best", "mean")])]
            cells += [_percent(mine.loc[("online phase", "regret")])] if "regret" in head else []
            if reference:
                better = rows.loc[(rows.method == reference) & (rows.versus == method)]
                cells += [_percent(better.iloc[0]) if len(better) else ""]
            table.append(cells)
        lines += ["", f"## {experiment}: {titles[experiment]}", "", *pipe_table(head, table)]
    return "\n".join(lines) + "\n"


NOTE = (
    "In percent, over tasks and seeds: estimate [95 % stratified bootstrap interval, seeds resampled within tasks]. "
    "**Last** is the evaluation at the end, as in the paper's tables; **best** is the highest of a run's evaluations, "
    "chosen after the fact and therefore too high. **IQM** is the mean of the middle half of all runs. **Regret** is "
    "the mean shortfall from 100 % over the online phase. **P** is the chance that a run of the one scores higher than "
    "a run of the other on the same task, ties counting half. All methods of a table are compared on the tasks and "
    "seeds that all of them have finished. There is no interval if a task has one seed. Per task: `statistics.csv`; "
    "the performance profiles: there and `statistics.png`."
)


def _percent(row: pd.Series) -> str:
    if np.isnan(row["value"]):
        return "—"
    interval = "" if np.isnan(row["low"]) else f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    return f"{100 * row['value']:.1f}{interval}"
