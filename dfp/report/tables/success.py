"""The paper's tables, from runs: ``table<n>.csv`` (numbers), ``.md``, ``.tex`` (the paper's form) and ``.html``.

Rates are fractions in [0, 1] in CSV files and percent in rendered ones. What the paper reports is beside ours, and
never counts as ours. A further table is one function and one entry in :data:`TABLES`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from functools import partial as given
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dfp.files import write_atomically
from dfp.plan.catalogue import base_method
from dfp.plan.run_table import experiment_runs
from dfp.report.collect import evaluations
from dfp.report.tables.cost import table9
from dfp.report.tables.evidence import evidence
from dfp.report.tables.grid import (
    NOTHING,
    Grid,
    last_evaluations,
    measured_rates,
    offline_evaluations,
    printed_cells,
    reported,
    wide,
)
from dfp.report.tables.hours import table10
from dfp.report.tables.hyperparameters import table5, table8
from dfp.report.tables.sheet import Block, Sheet, html_page, latex, markdown, transposed
from dfp.spec import ConfigError

BOTH_PHASES = "1,000,000 offline and 1,000,000 online steps, 5 seeds"
OFFLINE_RL = "1,000,000 offline steps, 8 seeds; the paper took all rows but DFP from the FQL paper"
NOT_REPORTED = " The paper reports none of these cells."  # in place of its block, which would be empty


class Form(NamedTuple):
    """How a table of success rates looks: a row per method, a column per task."""

    head: dict[str, str]  #: title of a column that says what a row is, and the column of the run table it shows
    decimals: tuple[int, int] = (1, 0)  #: of a mean and of its deviation, as the paper prints them
    average: bool = True
    grouped: bool = False  #: a column is a group of tasks
    protocol: str = BOTH_PHASES  #: of the paper's numbers


def write_table(number: int, results_dir: Path, partial: bool = False) -> list[Path]:
    """Write ``table<number>.csv``, ``.md``, ``.tex`` and ``.html`` below ``results_dir`` and return their paths.

    With ``partial``, unfinished runs are left out and what they leave incomplete is marked. Raises
    :class:`ConfigError` if the number is not one of :data:`TABLES`, or as the functions there do.
    """
    if number not in TABLES:
        raise ConfigError(f"table {number}: not one of the tables made here: {', '.join(map(str, sorted(TABLES)))}")
    table, sheet = TABLES[number](results_dir, partial)
    contents = {
        "csv": table.to_csv(index=False, float_format="%.6g"),
        "md": markdown(sheet),
        "tex": latex(sheet),
        "html": html_page(sheet, shlex.quote(results_dir.as_posix())),
    }
    return [write_atomically(results_dir / f"table{number}.{kind}", content) for kind, content in contents.items()]


def success_rates(number: int, form: Form, results_dir: Path, partial: bool) -> tuple[pd.DataFrame, Sheet]:
    """Tables 1 to 4 and 7: success rate at the last evaluation, method by task.

    The CSV has one row per method: ``method, label, backbone, top_k``, then the columns of
    :func:`~dfp.report.tables.grid.wide`. Raises :class:`ConfigError` as :func:`~dfp.report.collect.evaluations` does.
    """
    runs = experiment_runs(results_dir, f"table{number}")
    tidy = evaluations(results_dir, runs, partial)
    last = last_evaluations(tidy, runs)
    ours, tasks, behind = measured_rates(last, runs), runs.drop_duplicates("task"), evidence(tidy, runs, last)
    columns = list(zip(tasks.group, tasks.column, strict=True))
    if form.grouped:
        groups = tasks.set_index("task").group
        ours, behind = ours.grouped(groups), behind.T.groupby(groups, sort=False).agg("sum").T
        columns = [("", group) for group in ours.mean]
    paper = reported(number, ours.mean)
    rows = runs.assign(setting=runs.method.map(_setting)).drop_duplicates("method")
    heads = rows[list(form.head.values())].to_numpy().tolist()
    sheet = Sheet(
        number=number,
        caption=f"{runs.title.iloc[0]}. {_protocol(last, runs, ours)}{NOT_REPORTED if paper.empty else ''}",
        head=list(form.head),
        columns=[*columns, *([("", "Avg.")] if form.average else [])],
        blocks=[
            Block(title, heads, [printed_cells(grid, form.decimals, form.average)], behind if grid is ours else None)
            for title, grid in (
                ("Measured here", ours),
                (f"Reported in the paper, Table {number}: {form.protocol}", paper),
            )
            if grid is ours or not paper.empty
        ],
    )
    return wide(rows.reindex(columns=["method", "label", "backbone", "top_k"]), ours, paper), sheet


def table6(results_dir: Path, partial: bool) -> tuple[pd.DataFrame, Sheet]:
    """Table 6: success rate at the end of the offline and of the online phase, task by method.

    The CSV has one row per method and phase: ``method, label, phase``, then the columns of
    :func:`~dfp.report.tables.grid.wide`. Raises :class:`ConfigError` as :func:`~dfp.report.collect.evaluations` does.
    """
    runs = experiment_runs(results_dir, "table6")
    tidy = evaluations(results_dir, runs, partial)
    last = last_evaluations(tidy, runs)
    ours = {"offline": measured_rates(offline_evaluations(tidy, runs), runs), "online": measured_rates(last, runs)}
    paper = {phase: reported(6, ours[phase].mean, phase) for phase in ours}
    rows, tasks = runs.drop_duplicates("method"), runs.drop_duplicates("task")
    sheet = Sheet(
        number=6,
        caption=f"{runs.title.iloc[0]}. {_protocol(last, runs, ours['online'], 'row, by the online rate,')}"
        f"{NOT_REPORTED if paper['online'].empty else ''}",
        head=["Benchmark", "Task"],
        columns=[("", label) for label in rows.label],
        blocks=[
            Block(
                title,
                [*map(list, zip(tasks.group, tasks.column, strict=True)), ["Average", ""]],
                [
                    transposed(printed_cells(grids[phase], (1, 1), average=True, marked=phase == "online"))
                    for phase in ours
                ],
                evidence(tidy, runs, last).T if grids is ours else None,
            )
            for title, grids in (
                ("Measured here, offline → online", ours),
                (f"Reported in the paper, Table 6, offline → online: {BOTH_PHASES}", paper),
            )
            if grids is ours or not paper["online"].empty
        ],
    )
    numbers = [wide(rows[["method", "label"]].assign(phase=phase), ours[phase], paper[phase]) for phase in ours]
    return pd.concat(numbers, ignore_index=True), sheet


FORMS = {
    1: Form({"Method": "label"}),
    2: Form({"Method": "label", "Backbone": "backbone", "top-K": "top_k"}),
    3: Form({"Weight": "setting"}, average=False),
    4: Form({"Positives": "setting"}, grouped=True),
    7: Form({"Method": "label"}, decimals=(0, 0), average=False, protocol=OFFLINE_RL),
}
TABLES: dict[int, Callable[[Path, bool], tuple[pd.DataFrame, Sheet]]] = {
    **{number: given(success_rates, number, form) for number, form in FORMS.items()},
    **{5: table5, 6: table6, 8: table8, 9: table9, 10: table10},
}


def _setting(method: str) -> str:
    """What a variant sets: `λ = 0.1` of `dfp_lambda=0.1`; nothing of a method itself."""
    changes = method.removeprefix(base_method(method)).removeprefix("_")
    return changes.replace("lambda", "λ").replace("=", " = ")


def _protocol(last: pd.DataFrame, runs: pd.DataFrame, ours: Grid, line: str = "column") -> str:
    """What the numbers are, in a few sentences; those about gaps only if there are gaps."""
    over = _counted(runs.groupby(["method", "task"]).seed.nunique(), "seed")
    episodes = f" ({_counted(last.episodes, 'episode')})" if len(last) else ""
    online = f" and {_counts(runs.online_steps)} online" if runs.online_steps.any() else ""
    if ours.unit == "groups":
        cell = f", mean over the tasks of a group and {over}"
    else:
        cell = (
            " of one seed, so no deviation" if over == "1 seed" else f", mean ± sample standard deviation over {over}"
        )
    sentences = [
        f"Success rate (%) after {_counts(runs.offline_steps)} offline{online} steps.",
        f"Last evaluation{episodes}{cell}.",
        f"Best per {line} in bold, second-best underlined; ties share a mark.",
    ]
    if not ours.complete().all():
        what = "runs" if ours.unit == "groups" else "seeds"
        sentences.append(
            f"Incomplete: n says how many of a cell's {what} have finished, {NOTHING} that none has; "
            f"{ours.unit} with such a cell are neither marked nor averaged."
        )
    return " ".join(sentences)


def _counted(values: Iterable[int], noun: str) -> str:
    """``1 seed``, ``3 or 5 seeds``."""
    return f"{_counts(values)} {noun}{'' if set(values) == {1} else 's'}"


def _counts(values: Iterable[int]) -> str:
    return " or ".join(f"{value:,}" for value in sorted(set(values)))
