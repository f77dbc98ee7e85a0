"""``verdict.csv`` for programs and ``verdict.md`` for readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dfp.files import pipe_table, write_atomically
from dfp.report.figures.drawing import csv_text
from dfp.report.pages import render
from dfp.report.verdict.cells import CELL
from dfp.report.verdict.found import headline
from dfp.report.verdict.protocol import PAPER_SCALE
from dfp.report.verdict.verdict import AGREES, DIFFERS, JUDGEMENTS, Verdict, verdict

BOTH_PHASES = 6  # the table that prints both

COLUMNS = (
    "kind", *CELL, "mean", "low", "high", "std", "n", "listed", "scale", "paper_mean", "paper_std", "paper_n",
    "difference", "difference_low", "difference_high", "verdict", "claim", "section", "quote", "numbers", "paper",
    "paper_numbers",
)  # fmt: skip


def write_verdict(results_dir: Path, partial: bool = False) -> list[Path]:
    """Write ``verdict.csv`` and ``verdict.md`` below ``results_dir`` and return their paths.

    The CSV has a row per cell (``kind`` is ``cell``; rates are fractions), then one per claim (``claim``); what a kind
    does not have is empty. Otherwise as :func:`~dfp.report.verdict.verdict.verdict`.
    """
    found = verdict(results_dir, partial)
    frame = pd.concat([found.cells.assign(kind="cell"), found.claims.assign(kind="claim")])
    contents = {"csv": csv_text(frame.reindex(columns=list(COLUMNS))), "md": page(found)}
    return [write_atomically(results_dir / f"verdict.{kind}", content) for kind, content in contents.items()]


def page(found: Verdict) -> str:
    """What was found, the counts, the claims, then every cell that has a run; a table without one is a line."""
    cells, table = found.cells, counts(found.cells)
    known = set(zip(cells.task, cells.method, strict=True))
    others = set(zip(found.rates.task, found.rates.method, strict=True)) - known
    line = headline(found.rates, found.runs)
    judged = table.loc["all"].to_dict()
    return render(
        "verdict.md",
        found=line.sentence if line else "",
        small=bool((found.rates.scale != PAPER_SCALE).all()),
        judged=judged,
        total=len(cells),
        compared=judged[AGREES] + judged[DIFFERS],
        here={task: rows.to_dict("records") for task, rows in found.here.items()},
        counts=pipe_table(
            ["Table", *table.columns, "cells"],
            [[str(name), *row, row.sum()] for name, row in table.iterrows()],
        ),
        claims=found.claims.to_dict("records"),
        tables=[
            {"number": number, "lines": _cell_lines(rows.loc[rows.n > 0]), "absent": int((rows.n == 0).sum())}
            for number, rows in cells.groupby("table")
        ],
        scales=sorted(set(cells.scale) - {PAPER_SCALE}),
        others=sorted(f"{method} on {task}" for task, method in others),
    )


def counts(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells per table [table, verdict], then a row ``all``. A cell that two tables print counts in both."""
    table = pd.crosstab(cells["table"], cells["verdict"]).reindex(columns=list(JUDGEMENTS), fill_value=0)
    return pd.concat([table, table.sum().to_frame("all").T])


def _cell_lines(ran: pd.DataFrame) -> list[str]:
    """A table's cells that have a run; Table 6 has two phases."""
    if ran.empty:
        return []
    names = ["phase", "task", "method"] if ran["table"].iloc[0] == BOTH_PHASES else ["task", "method"]
    head = [*(name.capitalize() for name in names), "Here", "n", "Paper", "Difference", "Verdict"]
    rows = [[*(row[name] for name in names), *_numbers(row)] for row in ran.to_dict("records")]
    return pipe_table(head, rows, text=len(head))


def _numbers(row: dict) -> list[str]:
    """What a cell's line says after its name."""
    spread = "" if np.isnan(row["std"]) else f" ± {100 * row['std']:.1f}"
    printed = "" if np.isnan(row["paper_std"]) else f" ± {100 * row['paper_std']:.1f}"
    low, high = 100 * row["difference_low"], 100 * row["difference_high"]
    compared = row["scale"] == PAPER_SCALE and not np.isnan(low)
    difference = f"{100 * row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]" if compared else ""
    ours, theirs = f"{100 * row['mean']:.1f}{spread}", f"{100 * row['paper_mean']:.1f}{printed}"
    return [ours, f"{row['n']} of {row['listed']}", theirs, difference, row["verdict"]]
