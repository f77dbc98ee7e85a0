"""The paper's tables, from runs: ``table<n>.csv`` (numbers), ``.md`` and ``.tex`` (the paper's form).

A cell is the mean over seeds of the success rate at the last online evaluation, never the best one. Rates are
fractions in [0, 1] in CSV files and percent in rendered ones. A further table is one function and one entry in
:data:`TABLES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from dfp.files import write_atomically
from dfp.report.collect import evaluations, experiment_runs
from dfp.report.statistics import dense_rank, over_seeds
from dfp.spec import CATALOGUE, ConfigError

NOTHING = "—"
PAPER_PROTOCOL = "1,000,000 offline and 1,000,000 online steps, 5 seeds"  # Tables 1-6


@dataclass(frozen=True)
class Grid:
    """Rates of one source; each frame is [method, task] in the order of the table."""

    mean: pd.DataFrame
    std: pd.DataFrame
    seeds: pd.DataFrame  # finished runs per cell
    listed: pd.DataFrame  # runs per cell that the run table lists

    def complete(self) -> pd.Series:
        """Per task, whether every method has all of its seeds: only such columns are ranked and averaged."""
        return ((self.seeds == self.listed) & (self.seeds > 0)).all()

    def average(self) -> pd.Series:
        """Per method, the mean over the complete tasks, so that every method's covers the same; NaN without any."""
        return self.mean.loc[:, self.complete()].mean(axis=1)


@dataclass(frozen=True)
class Sheet:
    """A rendered table, still without markup: what Markdown and LaTeX have in common."""

    number: int
    caption: str
    head: list[str]  # titles of the columns that describe a method
    methods: list[list[str]]  # [method, head]
    columns: list[tuple[str, str]]  # (group, column) of every task
    blocks: list[tuple[str, pd.DataFrame, pd.DataFrame]]  # title, text [method, task + 1], rank likewise


def write_table(number: int, results_dir: Path, partial: bool = False) -> list[Path]:
    """Write ``table<number>.csv``, ``.md`` and ``.tex`` below ``results_dir`` and return their paths.

    With ``partial``, unfinished runs are left out and what they leave incomplete is marked. Raises
    :class:`ConfigError` where the number is not one of :data:`TABLES`, or as
    :func:`~dfp.report.collect.evaluations` does.
    """
    if number not in TABLES:
        raise ConfigError(f"table {number}: not one of the tables made here: {', '.join(map(str, TABLES))}")
    table, sheet = TABLES[number](results_dir, partial)
    contents = {"csv": table.to_csv(index=False, float_format="%.6g"), "md": markdown(sheet), "tex": latex(sheet)}
    return [write_atomically(results_dir / f"table{number}.{kind}", content) for kind, content in contents.items()]


def table2(results_dir: Path, partial: bool) -> tuple[pd.DataFrame, Sheet]:
    """Table 2: MVP and DFP, each with and without the top-K loss, after the online phase.

    The CSV has one row per method: ``method, label, backbone, top_k``, per task ``<task>_mean, <task>_std,
    <task>_seeds, <task>_paper_mean, <task>_paper_std``, then ``average, average_paper`` over as many tasks as
    ``average_tasks, average_paper_tasks`` say.
    """
    runs = experiment_runs(results_dir, "table2")
    last = last_evaluations(evaluations(results_dir, runs, partial), runs)
    ours = measured(last, runs)
    paper = reported(2, ours.mean)
    rows = runs.drop_duplicates("method").reindex(columns=["method", "label", "backbone", "top_k"])
    tasks = runs.drop_duplicates("task")
    sheet = Sheet(
        number=2,
        caption=f"{runs.title.iloc[0]}. {_protocol(last, runs, ours)}",
        head=["Method", "Backbone", "top-K"],
        methods=rows.drop(columns="method").to_numpy().tolist(),
        columns=list(zip(tasks.group, tasks.column, strict=True)),
        blocks=[block("Measured here", ours), block(f"Reported in the paper, Table 2: {PAPER_PROTOCOL}", paper)],
    )
    return wide(rows, ours, paper), sheet


TABLES: dict[int, Callable[[Path, bool], tuple[pd.DataFrame, Sheet]]] = {2: table2}


# --------------------------------------------------------------------------- numbers


def last_evaluations(tidy: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``tidy`` at the end of the online phase: one per finished run."""
    ends = runs.assign(step=runs.offline_steps + runs.online_steps)[["task", "method", "seed", "step"]]
    return tidy.merge(ends, on=["task", "method", "seed", "step"])


def measured(last: pd.DataFrame, runs: pd.DataFrame) -> Grid:
    """Mean and sample standard deviation over seeds of every cell that ``runs`` lists."""
    cells = runs.groupby(["method", "task"], sort=False).agg(listed=("seed", "count")).reset_index()
    cells = cells.merge(over_seeds(last, ["method", "task"]), on=["method", "task"], how="left")
    return _grid(cells.fillna({"n": 0}), list(runs.method.unique()), list(runs.task.unique()))


def reported(number: int, like: pd.DataFrame) -> Grid:
    """The paper's table, as fractions, for the methods and tasks of ``like``; NaN where the paper has no such cell.

    ``config/paper/table<number>.csv`` holds the numbers as printed, in percent.
    """
    paper = pd.read_csv(CATALOGUE / "paper" / f"table{number}.csv")
    cells = paper.assign(mean=paper["mean"] / 100, std=paper["std"] / 100, n=1, listed=1)
    return _grid(cells, list(like.index), list(like.columns))


def wide(rows: pd.DataFrame, ours: Grid, paper: Grid) -> pd.DataFrame:
    """One row per method, in the columns that :func:`table2` describes."""
    parts = {}
    for task in ours.mean:
        values = (ours.mean, ours.std, ours.seeds, paper.mean, paper.std)
        for name, value in zip(("mean", "std", "seeds", "paper_mean", "paper_std"), values, strict=True):
            parts[f"{task}_{name}"] = value[task]
    parts |= {"average": ours.average(), "average_paper": paper.average()}
    parts |= {"average_tasks": ours.complete().sum(), "average_paper_tasks": paper.complete().sum()}
    return rows.merge(pd.DataFrame(parts), left_on="method", right_index=True)


def _grid(cells: pd.DataFrame, methods: list[str], tasks: list[str]) -> Grid:
    mean, std, seeds, listed = (
        cells.pivot(index="method", columns="task", values=name).reindex(index=methods, columns=tasks)
        for name in ("mean", "std", "n", "listed")
    )
    return Grid(mean, std, seeds.fillna(0).astype(int), listed.fillna(0).astype(int))


# --------------------------------------------------------------------------- as the paper prints them


def block(title: str, grid: Grid) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """A grid in percent, as text, with the rank of every cell among the methods.

    Ranks are those of the printed values, as a reader would see them. A column that is not complete has none, and an
    average that misses tasks says so.
    """
    complete = grid.complete()
    text = pd.DataFrame(
        {task: [_cell(grid, method, task) for method in grid.mean.index] for task in grid.mean}, index=grid.mean.index
    )
    short = "" if complete.all() else f" ({complete.sum()} of {complete.size} tasks)"
    text["average"] = [NOTHING if np.isnan(rate) else f"{100 * rate:.1f}{short}" for rate in grid.average()]
    printed = grid.mean.loc[:, complete].assign(average=grid.average()).map(lambda rate: round(100 * rate, 1))
    return title, text, dense_rank(printed).reindex(columns=text.columns)


def markdown(sheet: Sheet) -> str:
    """The sheet as Markdown: one table per block, the best of a column bold, the second underlined."""
    lines = [f"**Table {sheet.number}.** {sheet.caption}"]
    header = [*sheet.head, *(f"{group}<br>{column}" for group, column in sheet.columns), "Avg."]
    for title, text, rank in sheet.blocks:
        lines += ["", f"**{title}**", ""]
        lines += [_pipes(header), _pipes([":--"] * len(sheet.head) + ["--:"] * (len(header) - len(sheet.head)))]
        lines += [_pipes(row) for row in _rows(sheet, text, rank, ("**{}**", "<u>{}</u>"), str)]
    return "\n".join(lines) + "\n"


def latex(sheet: Sheet) -> str:
    r"""The sheet as a tabular to ``\input``; it needs the package ``booktabs`` and nothing else."""
    groups = [(name, len(list(members))) for name, members in groupby(group for group, _ in sheet.columns)]
    first = len(sheet.head) + 1
    spans, rules = [], []
    for name, size in groups:
        spans.append(rf"\multicolumn{{{size}}}{{c}}{{{_escape(name)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + size - 1}}}")
        first += size
    header = [*sheet.head, *(column for _, column in sheet.columns), "Avg."]
    lines = [
        f"% Table {sheet.number}. {sheet.caption}",
        r"\providecommand{\checkmark}{\surd}",
        rf"\begin{{tabular}}{{{'l' * len(sheet.head)}{'c' * (len(sheet.columns) + 1)}}}",
        r"\toprule",
        " & ".join([*[""] * len(sheet.head), *spans, ""]) + r" \\",
        " ".join(rules),
        " & ".join(map(_escape, header)) + r" \\",
    ]
    for title, text, rank in sheet.blocks:
        lines += [r"\midrule", rf"\multicolumn{{{len(header)}}}{{l}}{{\emph{{{_escape(title)}}}}} \\"]
        rows = _rows(sheet, text, rank, (r"\textbf{{{}}}", r"\underline{{{}}}"), _escape)
        lines += [" & ".join(row) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _protocol(last: pd.DataFrame, runs: pd.DataFrame, ours: Grid) -> str:
    """What the numbers are, in a few sentences; those about gaps only where there are gaps."""
    seeds = _counts(ours.listed.to_numpy().ravel())
    episodes = f" ({_counts(last.episodes)} episodes)" if len(last) else ""
    sentences = [
        f"Success rate (%) after {_counts(runs.offline_steps)} offline and {_counts(runs.online_steps)} online steps.",
        f"Last evaluation{episodes}, mean ± sample standard deviation over {seeds} seeds."
        if seeds != "1"
        else f"Last evaluation{episodes} of one seed, hence no deviation.",
        "Best per column in bold, second-best underlined; ties share a mark.",
    ]
    if not ours.complete().all():
        sentences.append(
            f"Incomplete: n says how many of a cell's seeds have finished, {NOTHING} that none has; "
            "columns with such a cell are neither marked nor averaged."
        )
    return " ".join(sentences)


def _counts(values: Iterable[int]) -> str:
    return " or ".join(f"{value:,}" for value in sorted(set(values)))


def _cell(grid: Grid, method: str, task: str) -> str:
    seeds, listed = grid.seeds.at[method, task], grid.listed.at[method, task]
    if seeds == 0:
        return NOTHING
    spread = "" if np.isnan(grid.std.at[method, task]) else f" ± {100 * grid.std.at[method, task]:.0f}"
    missing = "" if seeds == listed else f" (n={seeds}/{listed})"
    return f"{100 * grid.mean.at[method, task]:.1f}{spread}{missing}"


def _rows(
    sheet: Sheet, text: pd.DataFrame, rank: pd.DataFrame, marks: tuple[str, str], escape: Callable[[str], str]
) -> list[list[str]]:
    """Rows of a block with their marks: ``marks`` wraps the best and the second-best."""
    wrap = {1.0: marks[0], 2.0: marks[1]}
    cells = [
        [wrap.get(place, "{}").format(escape(value)) for value, place in zip(values, places, strict=True)]
        for values, places in zip(text.to_numpy(), rank.to_numpy(), strict=True)
    ]
    return [[*map(escape, method), *row] for method, row in zip(sheet.methods, cells, strict=True)]


def _pipes(fields: list[str]) -> str:
    return "| " + " | ".join(field.replace("|", r"\|") for field in fields) + " |"


_LATEX = str.maketrans(
    {character: rf"\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", NOTHING: "---", "λ": r"$\lambda$", "✓": r"$\checkmark$"}
)


def _escape(text: str) -> str:
    return text.translate(_LATEX)
