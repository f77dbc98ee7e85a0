"""Tables 5 and 8: the hyperparameters of the runs, beside those that the paper reports."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dfp.plan.run_table import experiment_runs
from dfp.report.paper import paper_table
from dfp.report.tables.grid import NOTHING
from dfp.report.tables.settings import (
    NAMES,
    SHARED,
    describe,
    equal,
    name_of,
    settings_that_ran,
    shown,
    with_reported,
)
from dfp.report.tables.sheet import Block, Sheet, unmarked

SOURCE = "Read from the specs in the run folders."
FIXED = "Adam, GELU, layer norm in the critic and the mean over critics are fixed here and have no setting."


def table5(results_dir: Path, partial: bool) -> tuple[pd.DataFrame, Sheet]:
    """Table 5: every setting of every method, first what all methods share.

    The CSV has one row per method, setting and value that ran: ``method, label, setting, name, value, tasks, runs,
    paper``, values as JSON, tasks separated by spaces; a row without ``value`` is one that only the paper has.
    """
    runs = experiment_runs(results_dir, "table5")
    paper = paper_table(5)
    ran = with_reported(settings_that_ran(results_dir, runs, partial), paper)
    labels = {SHARED: "All methods", **dict(zip(runs.method, runs.label, strict=True))}
    blocks, records = [], []
    for method, label in labels.items():
        mine, theirs = ran.loc[ran.method == method], paper.loc[paper.method == method]
        listed = runs.run.nunique() if method == SHARED else runs.run[runs.method == method].nunique()
        block_title = _with_count(label, mine.run.nunique(), listed)
        settings = _in_order([*mine.setting, *theirs.setting])
        rows = [(mine.loc[mine.setting == setting], theirs.loc[theirs.setting == setting]) for setting in settings]
        blocks.append(_block(block_title, settings, rows))
        records += [
            {"method": method, "label": label, "setting": setting, "name": name_of(setting)} | values
            for setting, (own, reported) in zip(settings, rows, strict=True)
            for values in _records(own, reported)
        ]
    caption = (
        f"{runs.title.iloc[0]}. {SOURCE} If the runs of a method differ, each value is followed by the suites, groups "
        f"or tasks that have it. Bold: not the paper's value, Table 5. {FIXED}"
    )
    columns = [("", "Ran here"), ("", "Reported in the paper")]
    columns_of_csv = ["method", "label", "setting", "name", "value", "tasks", "runs", "paper"]
    numbers = pd.DataFrame(records, columns=pd.Index(columns_of_csv))
    return numbers, Sheet(5, caption, ["Parameter", "Setting"], columns, blocks)


def table8(results_dir: Path, partial: bool) -> tuple[pd.DataFrame, Sheet]:
    """Table 8: every setting of DFP in offline RL, by task.

    The CSV has one row per setting: ``setting, name``, per task ``<task>, <task>_paper``, values as JSON. Two
    values on one task (a results folder of two configurations) are separated by a semicolon.
    """
    runs = experiment_runs(results_dir, "table8")
    ran = settings_that_ran(results_dir, runs, partial)
    ran = ran[ran.method != SHARED]
    tasks = runs.drop_duplicates("task")
    paper = paper_table(8).pivot(index="setting", columns="task", values="value")
    settings = _in_order([*ran.setting, *paper.index])
    ours = ran.groupby(["setting", "task"]).value.agg(lambda values: "; ".join(values.unique())).unstack()
    ours, paper = (frame.reindex(index=settings, columns=tasks.task) for frame in (ours, paper))
    count, listed = ran.run.nunique(), runs.run.nunique()
    caption = f"{runs.title.iloc[0]}. {SOURCE} Bold: not the paper's value, Table 8."
    sheet = Sheet(
        number=8,
        caption=caption,
        head=["Parameter", "Setting"],
        columns=list(zip(tasks.group, tasks.column, strict=True)),
        blocks=[
            Block(_with_count("Ran here", count, listed), _heads(settings), [(_text(ours), _differs(ours, paper))]),
            Block("Reported in the paper, Table 8", _heads(settings), [unmarked(_text(paper))]),
        ],
    )
    names = pd.DataFrame({"setting": settings, "name": map(name_of, settings)}).set_index("setting")
    both = {f"{task}{end}": frame[task] for task in tasks.task for end, frame in (("", ours), ("_paper", paper))}
    return names.join(pd.DataFrame(both)).reset_index(), sheet


def _in_order(settings: list[str]) -> list[str]:
    """Each setting once: first those of :data:`~dfp.report.tables.settings.NAMES`, then the others by name."""
    known = list(NAMES)
    return sorted(set(settings), key=lambda name: (known.index(name) if name in known else len(known), name))


def _heads(settings: list[str]) -> list[list[str]]:
    return [[name_of(setting), setting] for setting in settings]


def _with_count(title: str, count: int, listed: int) -> str:
    return title if count == listed else f"{title} (n={count}/{listed} runs)"


def _block(title: str, settings: list[str], rows: list[tuple[pd.DataFrame, pd.DataFrame]]) -> Block:
    """A row per setting: what ran, what the paper reports, and a mark on what ran if the two differ."""
    text, rank = [], []
    for own, reported in rows:
        # What the paper reports for the suites that ran; if nothing ran, all that it reports.
        theirs = describe(own, "paper") if len(own) else describe(reported.assign(group="", task="", run=""))
        text.append([describe(own) or NOTHING, theirs or NOTHING])
        given = own.dropna(subset="paper")
        same = all(equal(ours, paper) for ours, paper in zip(given.value, given.paper, strict=True))
        rank.append([float("nan") if same else 1.0, float("nan")])
    return Block(title, _heads(settings), [(pd.DataFrame(text), pd.DataFrame(rank))])


def _records(own: pd.DataFrame, reported: pd.DataFrame) -> list[dict[str, object]]:
    """The rows of the CSV for one setting of one method."""
    if own.empty:
        return [{"paper": value, "runs": 0} for value in reported.value]
    return [
        {"value": rows.value.iloc[0], "paper": rows.paper.iloc[0], "tasks": " ".join(rows.task.unique())}
        | {"runs": rows.run.nunique()}
        for _, rows in own.groupby(["value", "paper"], sort=False, dropna=False)
    ]


def _text(values: pd.DataFrame) -> pd.DataFrame:
    """JSON values as the paper prints them."""
    return values.map(lambda cell: NOTHING if pd.isna(cell) else "; ".join(shown(value) for value in cell.split("; ")))


def _differs(ours: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """1 if both are known and any of our values is not the paper's."""

    def mark(own: str, reported: str) -> float:
        known = pd.notna(own) and pd.notna(reported)
        return 1.0 if known and not all(equal(value, reported) for value in own.split("; ")) else float("nan")

    rows = [
        [mark(own, reported) for own, reported in zip(*pair, strict=True)]
        for pair in zip(ours.to_numpy(), paper.to_numpy(), strict=True)
    ]
    return pd.DataFrame(rows, index=ours.index, columns=ours.columns)
