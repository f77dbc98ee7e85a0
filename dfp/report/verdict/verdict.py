"""The verdict: every cell of the paper's success tables and every claim of its text, against our own runs.

A cell **agrees** if the 95 % Welch interval of our mean minus the paper's contains 0, and **differs** if it does
not. The interval uses the deviations of both sides. Each is at least the deviation of a rate over its episodes
(:func:`~dfp.report.statistics.at_least_sampling_std`), so that five seeds at 100 % are not taken for certainty. If the
paper prints no deviation (Table 4), ours is used for both sides. That a cell agrees is no proof of equality: the
interval shows how large a difference remains possible. A cell with a run that is not at the paper's scale
(:func:`dfp.report.verdict.protocol.scale`) is **other scale**, whatever its result. Fewer than :data:`MIN_SEEDS` seeds
are **too few seeds**; no finished run is **not run**.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dfp.plan.run_table import read_runs
from dfp.report.collect import evaluations
from dfp.report.paper import paper_table
from dfp.report.statistics import at_least_sampling_std, t_interval, welch_half_width
from dfp.report.tables.cost import read_cost
from dfp.report.verdict.cells import REGRET, our_cells, our_rates, paper_cells
from dfp.report.verdict.claims import CLAIMS, judge
from dfp.report.verdict.found import directions_here
from dfp.report.verdict.numbers import Numbers
from dfp.report.verdict.protocol import PAPER_SCALE, protocol

MIN_SEEDS = 3  # with two, t is 12.7 and an interval leaves nearly everything open
AGREES, DIFFERS, NOT_RUN = "agrees", "differs", "not run"
OTHER_SCALE, TOO_FEW = "other scale", "too few seeds"
JUDGEMENTS = (AGREES, DIFFERS, TOO_FEW, OTHER_SCALE, NOT_RUN)


class Verdict(NamedTuple):
    """The judged cells and claims, and what they rest on."""

    cells: pd.DataFrame
    claims: pd.DataFrame
    rates: pd.DataFrame  #: of our runs: rows of our_rates
    runs: pd.DataFrame  #: the run table
    here: dict[str, pd.DataFrame]  #: the directional claims at another scale than the paper's, by task


def verdict(results_dir: Path, partial: bool) -> Verdict:
    """Judge a results folder.

    With ``partial``, unfinished runs are left out. Raises :class:`ConfigError` as
    :func:`~dfp.report.collect.evaluations` and :func:`~dfp.report.verdict.cells.our_rates` do.
    """
    runs = read_runs(results_dir)
    tidy = evaluations(results_dir, runs, partial)
    rates = our_rates(tidy, runs, results_dir)
    paper = paper_cells()
    # The paper prints no regret; ours takes Table 1's place, whose curves show it (Figure 1).
    regret = paper[paper.table == 1].assign(phase=REGRET)
    ours = our_cells(pd.concat([paper, regret], ignore_index=True), rates, runs)
    cells = judge_cells(ours.iloc[: len(paper)], paper)
    return Verdict(cells, judge_claims(ours, our_cost(results_dir)), rates, runs, directions_here(tidy, runs, rates))


# --------------------------------------------------------------------------- cells


def judge_cells(ours: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """One row per cell of both, which are in one order: ours, the paper's, their difference, ``verdict``."""
    both = t_interval(ours).assign(**{f"paper_{name}": paper[name] for name in ("mean", "std", "n", "episodes")})
    half = [difference_half_width(row) for row in both.to_dict("records")]
    difference = both["mean"] - both["paper_mean"]
    both = both.assign(difference=difference, difference_low=difference - half, difference_high=difference + half)
    return both.assign(verdict=[judgement(row) for row in both.to_dict("records")])


def judgement(cell: dict) -> str:
    """One of :data:`JUDGEMENTS`. The scale is checked before the seeds and the interval."""
    if cell["n"] == 0:
        return NOT_RUN
    if cell["scale"] != PAPER_SCALE:
        return OTHER_SCALE
    if cell["n"] < MIN_SEEDS:
        return TOO_FEW
    return AGREES if cell["difference_low"] <= 1e-9 and cell["difference_high"] >= -1e-9 else DIFFERS


def difference_half_width(cell: dict) -> float:
    """Half width of the 95 % Welch interval of our mean minus the paper's; NaN for a single seed."""
    if cell["n"] < 2:
        return np.nan
    mean, n, episodes = (
        np.array([cell[name], cell[f"paper_{name}"]], dtype=float) for name in ("mean", "n", "episodes")
    )
    printed = cell["paper_std"]
    std = np.array([cell["std"], cell["std"] if np.isnan(printed) else printed])
    return welch_half_width(np.array([1.0, -1.0]), at_least_sampling_std(std, mean, n, episodes), n)


# --------------------------------------------------------------------------- claims


def judge_claims(ours: pd.DataFrame, cost: pd.Series | None) -> pd.DataFrame:
    """One row per claim: ``claim, section, quote``, ``verdict, numbers`` on ours, ``paper, paper_numbers`` on theirs.

    Ours are cells at the paper's scale with at least :data:`MIN_SEEDS` seeds; every other is missing.
    """
    fit = (ours.scale == PAPER_SCALE) & (ours.n >= MIN_SEEDS)
    measured = Numbers(ours.assign(mean=ours["mean"].where(fit)), cost)
    printed = Numbers(paper_cells(), paper_cost())
    rows = []
    for claim in CLAIMS:
        (mine, used), (theirs, theirs_used) = judge(claim, measured), judge(claim, printed)
        rows.append((claim.key, claim.section, claim.quote, mine, used, theirs, theirs_used))
    names = ["claim", "section", "quote", "verdict", "numbers", "paper", "paper_numbers"]
    return pd.DataFrame(rows, columns=pd.Index(names))


def paper_cost() -> pd.Series:
    """Table 9: milliseconds by (method, phase)."""
    return _milliseconds(paper_table(9))


def our_cost(results_dir: Path) -> pd.Series:
    """Milliseconds by (method, phase), mean over tasks, as far as ``cost.csv`` has them at the paper's size.

    Raises :class:`ConfigError` as :func:`~dfp.report.tables.cost.read_cost` does.
    """
    cost = read_cost(results_dir / "cost.csv", partial=True)
    network, training = protocol()["network"], protocol()["training"]
    size = [network["width"], network["depth"], training["batch_size"]]
    return _milliseconds(cost.loc[(cost[["width", "depth", "batch"]] == size).all(axis=1)])


def _milliseconds(cost: pd.DataFrame) -> pd.Series:
    return pd.Series({key: rows["ms"].mean() for key, rows in cost.groupby(["method", "phase"])}, dtype="float64")
