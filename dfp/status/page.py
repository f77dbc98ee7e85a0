"""The overview as one HTML file: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import html
from pathlib import Path

from dfp.files import write_atomically
from dfp.status import curves
from dfp.status.overview import Overview
from dfp.status.runs import STATES, RunState, State, counts
from dfp.status.terminal import COLUMNS, fields, hours, shown_runs

STYLE = Path(__file__).with_name("page.css")
TITLE = "Runs of DFP-repro"


def write_page(view: Overview, path: Path) -> Path:
    """Write the page, whole or not at all; returns its path."""
    return write_atomically(path, page(view))


def page(view: Overview) -> str:
    """The page's HTML."""
    body = [
        f"<h1>{TITLE}</h1>",
        f"<p>{html.escape(str(view.results_dir))}, read {view.made:%Y-%m-%d %H:%M:%S %Z}</p>",
        f"<p>{html.escape(hours(view))}</p>",
        "<h2>Tables and figures</h2>",
        _summary(view),
        "<h2>Runs</h2>",
        _runs(shown_runs(view, everything=True)),
        "<h2>Curves so far</h2>",
        "<p>Success rate at each evaluation. Faint: seeds; strong: their mean, as far as every seed that has begun has "
        "come. n: seeds with an evaluation, of those planned. Shaded: the offline phase.</p>",
        f'<div class="panels">{"".join(map(_panel, curves.panels(view.results_dir)))}</div>',
    ]
    head = f'<meta charset="utf-8"><title>{TITLE}</title><style>\n{STYLE.read_text()}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{"\n".join(body)}\n</body></html>\n'


def _summary(view: Overview) -> str:
    head = "".join(f'<th class="n">{name}</th>' for name in (*STATES, "all"))
    rows = [_counts(line.experiment, line.counts, "") for line in view.lines]
    rows.append(_counts("all runs", counts(view.runs), ' class="all"'))
    return f"<table><thead><tr><th>needed by</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _counts(name: str, found: dict[State, int], mark: str) -> str:
    cells = "".join(f'<td class="n{"" if found[state] else " zero"}">{found[state]}</td>' for state in STATES)
    return f'<tr{mark}><td>{html.escape(name)}</td>{cells}<td class="n">{sum(found.values())}</td></tr>'


def _runs(runs: list[RunState]) -> str:
    head = "".join(f"<th{_numeric(name)}>{name}</th>" for name in COLUMNS)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, runs))}</tbody></table>"


def _row(run: RunState) -> str:
    cells = []
    for name, text in zip(COLUMNS, fields(run), strict=True):
        shown = html.escape(text)
        if name == "state":
            shown = f'<b class="state {text}">{shown}</b>'
        elif name == "step":
            shown = f'<progress max="{run.planned.total}" value="{run.step}"></progress>{shown}'
        kind = _numeric(name) or (f' class="{name}"' if name in ("run", "note") else "")
        cells.append(f"<td{kind}>{shown}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _numeric(name: str) -> str:
    return ' class="n"' if name in ("step", "speed", "left", "attempts") else ""


def _panel(panel: curves.Panel) -> str:
    return f"<figure>{curves.svg(panel)}{curves.legend(panel)}</figure>"
