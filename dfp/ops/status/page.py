"""The overview as one HTML file: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import base64
from pathlib import Path

from dfp.files import write_atomically
from dfp.ops.status.curves import pictures
from dfp.ops.status.overview import Overview
from dfp.ops.status.runs import STATES, counts
from dfp.ops.status.terminal import COLUMNS, NUMERIC, fields, hours, shown_runs
from dfp.report.pages import render


def write_page(view: Overview, path: Path) -> Path:
    """Write the page, whole or not at all; returns its path."""
    return write_atomically(path, page(view))


def page(view: Overview) -> str:
    """The page's HTML."""
    return render(
        "status.html",
        view=view,
        hours=hours(view),
        states=STATES,
        lines=[*view.lines, ("all runs", counts(view.runs))],
        columns=COLUMNS,
        numeric=NUMERIC,
        runs=[(run, dict(zip(COLUMNS, fields(run), strict=True))) for run in shown_runs(view, everything=True)],
        pictures=[(title, base64.b64encode(svg).decode()) for title, svg in pictures(view.results_dir)],
    )
