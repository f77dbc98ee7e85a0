"""Page templates, tables in Markdown's pipe syntax, how pages write numbers, and Markdown files as HTML pages."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from dfp.files import pipe_row, read_text, write_atomically

ABSENT = "—"
# What our Markdown uses besides plain text: a line break in a heading, and the second-best of a column.
MARKUP = re.compile(r"&lt;(br|u|/u)&gt;")


def render(template: str, **values: object) -> str:
    """A template of ``dfp/report/templates`` with its values.

    The public functions of this module are filters there. In templates that end in ``.html`` values are escaped.
    Several empty lines become one.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        function.__name__: function for function in (pipe_row, percent, points, number, plural, ranges)
    }
    return re.sub(r"\n{3,}", "\n\n", environment.get_template(template).render(**values))


def write_page(markdown: Path, target: Path) -> Path:
    """Write a Markdown file of the results as an HTML page, without links to other files, to ``target``; its path."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(read_text(markdown))
    body = (
        MARKUP.sub(r"<\1>", body).replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    )
    return write_atomically(target, render("page.html", title=target.stem, body=Markup(body)))


def percent(row: Mapping[str, float], name: str) -> str:
    """``62.4 % [50.1, 74.7]`` from the fractions ``<name>_mean, _low, _high``; no interval if it is NaN."""
    mean, low, high = (100 * row[f"{name}_{part}"] for part in ("mean", "low", "high"))
    if math.isnan(mean):
        return ABSENT
    return f"{mean:.1f} %" + ("" if math.isnan(low) else f" [{low:.1f}, {high:.1f}]")


def points(row: Mapping[str, float], prefix: str = "", sign: str = "+") -> str:
    """``+12.0 [+3.1, +20.9]``, percentage points, from the fractions ``<prefix>value, low, high``."""
    value, low, high = (100 * row[f"{prefix}{part}"] for part in ("value", "low", "high"))
    return ABSENT if math.isnan(value) else f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def number(value: float, form: str) -> str:
    """``value`` in a format such as ``.1f``; :data:`ABSENT` for NaN."""
    return ABSENT if math.isnan(value) else f"{value:{form}}"


def plural(count: int, noun: str) -> str:
    """``1 seed``, ``5 seeds``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def ranges(values: Iterable[int]) -> str:
    """``0, 2-4`` of 0, 2, 3 and 4."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
