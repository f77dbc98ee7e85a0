"""``verdict.csv`` for programs and ``verdict.md`` for readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dfp.files import write_atomically
from dfp.report.cells import CELL, OFFLINE_RL
from dfp.report.protocol import PAPER_SCALE
from dfp.report.verdict import JUDGEMENTS, verdict

COLUMNS = (
    "kind", *CELL, "mean", "low", "high", "std", "n", "listed", "scale", "paper_mean", "paper_std", "paper_n",
    "difference", "difference_low", "difference_high", "verdict", "claim", "section", "quote", "numbers", "paper",
    "paper_numbers",
)  # fmt: skip

LEGEND = """Every cell of the paper's success tables and every claim of its text, against the runs of this folder.

- **agrees**: the 95 % Welch interval of our mean minus the paper's contains 0. That is no proof of equality: the
  interval shows how large a difference the seeds leave open. **differs**: it does not contain 0. Of cells that are
  truly equal, about one in twenty differs by chance.
- **too few seeds**: fewer than 3 have finished. **not run**: none has.
- **other scale**: run with other data, network or steps than the paper; such a number is shown and not compared.
- A claim **holds**, **fails**, or one **cannot tell yet**: cells are missing, or the seeds scatter too much. It is also
  judged, by the same code, on the numbers that the paper prints itself.

Means, deviations and intervals over seeds, in percent; n of the listed seeds. The paper's n is 5, in Table 7 it is 8.
"""


def write_verdict(results_dir: Path, partial: bool = False) -> list[Path]:
    """Write ``verdict.csv`` and ``verdict.md`` below ``results_dir`` and return their paths.

    The CSV has a row per cell (``kind`` is ``cell``; rates are fractions), then one per claim (``claim``); what a kind
    does not have is empty. Otherwise as :func:`~dfp.report.verdict.verdict`.
    """
    cells, claims, rates = verdict(results_dir, partial)
    frame = pd.concat([cells.assign(kind="cell"), claims.assign(kind="claim")]).reindex(columns=list(COLUMNS))
    contents = {"csv": frame.to_csv(index=False, float_format="%.6g"), "md": markdown(cells, claims, rates)}
    return [write_atomically(results_dir / f"verdict.{kind}", content) for kind, content in contents.items()]


def markdown(cells: pd.DataFrame, claims: pd.DataFrame, rates: pd.DataFrame) -> str:
    """Counts, then the claims, then every cell that has a run; a table without one is a line."""
    return "\n".join(
        [
            "# Verdict", "", LEGEND,
            "## Counts", "", *count_lines(cells), "",
            "## Claims of the text", "", *claim_lines(claims), "",
            "## Cells", "", *_cell_lines(cells),
            *_beyond_the_paper(cells, rates),
        ]
    ) + "\n"  # fmt: skip


def counts(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells per table [table, verdict], then a row ``all``. A cell that two tables print counts in both."""
    table = pd.crosstab(cells["table"], cells["verdict"]).reindex(columns=list(JUDGEMENTS), fill_value=0)
    return pd.concat([table, table.sum().to_frame("all").T])


def count_lines(cells: pd.DataFrame) -> list[str]:
    """:func:`counts` as a Markdown table."""
    table = counts(cells)
    lines = [_pipes(["Table", *table.columns, "cells"]), _pipes([":--", *["--:"] * (len(table.columns) + 1)])]
    for name, row in table.iterrows():
        lines.append(_pipes([str(name), *map(str, row), str(row.sum())]))
    return lines


def claim_lines(claims: pd.DataFrame) -> list[str]:
    """The claims as a Markdown table: section, quote, our verdict and the paper's own, each with its numbers."""
    lines = [_pipes(["Section", "Claim", "Here", "On the paper's own numbers"]), _pipes([":--"] * 4)]
    for row in claims.to_dict("records"):
        here, theirs = (
            f"**{row[name]}**: {row[used]}" for name, used in (("verdict", "numbers"), ("paper", "paper_numbers"))
        )
        lines.append(_pipes([row["section"], f"“{row['quote']}”", here, theirs]))
    return lines


def _cell_lines(cells: pd.DataFrame) -> list[str]:
    lines = []
    for table, rows in cells.groupby("table"):
        ran = rows.loc[rows.n > 0]
        lines += [f"### Table {table}", ""]
        if ran.empty:
            lines += [f"None of its {len(rows)} cells has a finished run.", ""]
            continue
        phase = table not in (1, 2, 3, 4, OFFLINE_RL)
        head = [*(["Phase"] if phase else []), "Task", "Method", "Here", "n", "Paper", "Difference", "Verdict"]
        lines += [_pipes(head), _pipes([":--"] * len(head))]
        for row in ran.to_dict("records"):
            lines.append(_pipes([*([row["phase"]] if phase else []), row["task"], row["method"], *_numbers(row)]))
        lines += [f"\n{len(rows) - len(ran)} further cells: not run." if len(ran) < len(rows) else "", ""]
    scales = sorted(set(cells.scale) - {PAPER_SCALE})
    lines += ["Other scale means here:", "", *(f"- {scale}" for scale in scales), ""] if scales else []
    return lines


def _numbers(row: dict) -> list[str]:
    """What a cell's line says after its name."""
    spread = "" if np.isnan(row["std"]) else f" ± {100 * row['std']:.1f}"
    printed = "" if np.isnan(row["paper_std"]) else f" ± {100 * row['paper_std']:.1f}"
    low, high = 100 * row["difference_low"], 100 * row["difference_high"]
    compared = row["scale"] == PAPER_SCALE and not np.isnan(low)
    difference = f"{100 * row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]" if compared else ""
    ours, theirs = f"{100 * row['mean']:.1f}{spread}", f"{100 * row['paper_mean']:.1f}{printed}"
    return [ours, f"{row['n']} of {row['listed']}", theirs, difference, row["verdict"]]


def _beyond_the_paper(cells: pd.DataFrame, rates: pd.DataFrame) -> list[str]:
    """Runs that no cell is about, so that nothing that was run goes unmentioned."""
    known = set(zip(cells.task, cells.method, strict=True))
    others = set(zip(rates.task, rates.method, strict=True)) - known
    if not others:
        return []
    names = ", ".join(sorted({f"{method} on {task}" for task, method in others}))
    return ["### Runs without a cell in the paper", "", f"{names}. They are in `metrics.csv` and `statistics.csv`.", ""]


def _pipes(fields: list[str]) -> str:
    return "| " + " | ".join(str(field).replace("|", r"\|") for field in fields) + " |"
