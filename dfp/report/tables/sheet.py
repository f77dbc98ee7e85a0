"""A table that is ready to be read, and its forms: Markdown, LaTeX and HTML. It knows nothing of what it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

import pandas as pd
from markupsafe import Markup, escape

from dfp.files import pipe_table
from dfp.report.pages import render

Part = tuple[pd.DataFrame, pd.DataFrame]  # text and rank [row, column]: 1 is the best, 2 the second, others unmarked
ARROW = " → "


@dataclass(frozen=True)
class Block:
    """Rows under a title of their own, e.g. what was measured here and what the paper reports."""

    title: str
    heads: list[list[str]]  #: [row, head]
    parts: list[Part]  #: a cell's values, e.g. before and after; an arrow is between them
    evidence: pd.DataFrame | None = None  #: the runs behind a cell [row, column], fewer columns than the block maybe


@dataclass(frozen=True)
class Sheet:
    """A table without markup."""

    number: int
    caption: str
    head: list[str]  #: titles of the columns that say what a row is
    columns: list[tuple[str, str]]  #: (group or nothing, title) of the others
    blocks: list[Block]


def unmarked(text: pd.DataFrame) -> Part:
    """Text in which nothing is the best."""
    return text, pd.DataFrame(float("nan"), index=text.index, columns=text.columns)


def transposed(part: Part) -> Part:
    """Rows and columns exchanged; ranks go with their cells."""
    return part[0].T, part[1].T


def markdown(sheet: Sheet) -> str:
    """The sheet as Markdown: one table per block, the best bold, the second underlined."""
    lines = [f"**Table {sheet.number}.** {sheet.caption}"]
    header = [*sheet.head, *(f"{group}<br>{column}" if group else column for group, column in sheet.columns)]
    for block in sheet.blocks:
        rows = _rows(block, ("{}", "**{}**", "<u>{}</u>"), str)
        lines += ["", f"**{block.title}**", "", *pipe_table(header, rows, text=len(sheet.head))]
    return "\n".join(lines) + "\n"


def latex(sheet: Sheet) -> str:
    r"""The sheet as a tabular to ``\input``; it needs the package ``booktabs`` and nothing else."""
    header = [*sheet.head, *(column for _, column in sheet.columns)]
    lines = [
        f"% Table {sheet.number}. {sheet.caption}",
        r"\providecommand{\checkmark}{\surd}",
        rf"\begin{{tabular}}{{{'l' * len(sheet.head)}{'c' * len(sheet.columns)}}}",
        r"\toprule",
        *_group_lines(sheet),
        _latex_row(map(_escape, header)),
    ]
    for block in sheet.blocks:
        # A title takes no width: it must not stretch the last column.
        title = rf"\makebox[0pt][l]{{\emph{{{_escape(block.title)}}}}}"
        lines += [r"\midrule", rf"\multicolumn{{{len(header)}}}{{l}}{{{title}}} \\"]
        lines += [_latex_row(row) for row in _rows(block, ("{}", r"\textbf{{{}}}", r"\underline{{{}}}"), _escape)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def html_page(sheet: Sheet, results_dir: str) -> str:
    """The sheet as an HTML page. A cell with evidence opens to its runs and to the command that trains them again."""
    heads, blocks = len(sheet.head), []
    for block in sheet.blocks:
        rows = _rows(block, (Markup("{}"), Markup("<strong>{}</strong>"), Markup("<u>{}</u>")), escape)
        blocks.append((block.title, [(row[:heads], _opened(row[heads:], block, at)) for at, row in enumerate(rows)]))
    opens = any(block.evidence is not None for block in sheet.blocks)
    title = f"Table {sheet.number}"
    return render("table.html", title=title, sheet=sheet, blocks=blocks, opens=opens, results=results_dir)


def _opened(values: list[str], block: Block, row: int) -> list[tuple[str, list]]:
    """Each value of a row with the runs behind it; averages, the last row or column, have none."""
    runs = [] if block.evidence is None else block.evidence.iloc[row : row + 1].to_numpy().ravel().tolist()
    return list(zip(values, runs + [[]] * (len(values) - len(runs)), strict=True))


def _group_lines(sheet: Sheet) -> list[str]:
    """The line of the groups and the rules below it, if there are groups."""
    first = len(sheet.head) + 1
    spans, rules = [], []
    for name, members in groupby(group for group, _ in sheet.columns):
        size = len(list(members))
        spans += [rf"\multicolumn{{{size}}}{{c}}{{{_escape(name)}}}"] if name else [""] * size
        rules += [rf"\cmidrule(lr){{{first}-{first + size - 1}}}"] if name else []
        first += size
    return [_latex_row([*[""] * len(sheet.head), *spans]), " ".join(rules)] if rules else []


def _rows(block: Block, marks: tuple[str, str, str], escape: Callable[[str], str]) -> list[list[str]]:
    """Rows of a block with their marks: ``marks`` are those of a plain value, of the best and of the second-best."""
    rows = []
    for row, head in enumerate(block.heads):
        values = [
            [_mark(marks, rank.iat[row, column]).format(escape(text.iat[row, column])) for text, rank in block.parts]
            for column in range(block.parts[0][0].shape[1])
        ]
        rows.append([*map(escape, head), *(escape(ARROW).join(value) for value in values)])
    return rows


def _mark(marks: tuple[str, str, str], rank: float) -> str:
    return marks[int(rank)] if rank in (1, 2) else marks[0]


def _latex_row(fields: Iterable[str]) -> str:
    return " & ".join(fields) + r" \\"


# Greek letters by command, so that any engine sets them.
_GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "η": "eta", "κ": "kappa", "λ": "lambda", "σ": "sigma", "τ": "tau"}
_SYMBOLS = {"±": "pm", "→": "rightarrow", "×": "times", "✓": "checkmark"} | _GREEK
_LATEX = str.maketrans(
    {character: rf"\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"}
    | {"<": "$<$", ">": "$>$", "—": "---"}
    | {character: rf"$\{command}$" for character, command in _SYMBOLS.items()}
)


def _escape(text: str) -> str:
    return text.translate(_LATEX)
