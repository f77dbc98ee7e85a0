"""Learning curves so far, as small SVG pictures without a plotting library: a panel per task and kind of run.

Faint lines are seeds. The strong line is the mean over all seeds of a method that have begun, drawn only as far as
every one of them has come: a mean over the fastest few would bend where a slow one drops out.
"""

from __future__ import annotations

import csv
import html
import statistics
from pathlib import Path
from typing import NamedTuple

from dfp.attempts import read_progress
from dfp.report.collect import read_runs

WIDTH, HEIGHT = 360.0, 236.0  # of a panel, pixels
LEFT, RIGHT, TOP, BOTTOM = 44.0, 12.0, 24.0, 40.0  # margins

Points = list[tuple[int, float]]  # (step over both phases, success rate)


DASHES = (
    "none",
    "7 3",
    "2 3",
    "9 3 2 3",
    "12 4",
    "4 2 1 2",
)  # tells the variants of a method apart, which share a colour


class Curve(NamedTuple):
    """A method on a task."""

    label: str
    color: str
    dash: str
    seeds: list[Points]  # of those that have an evaluation
    planned: int  # seeds


class Panel(NamedTuple):
    """A task, in the offline-to-online tables or in the offline one."""

    title: str
    switch: int  # step at which the offline phase ends
    end: int  # step at which the run ends
    curves: list[Curve]


def panels(results_dir: Path) -> list[Panel]:
    """Every task's curves, in the order of ``runs.csv``; a task without any evaluation yet has a panel all the same."""
    runs = read_runs(results_dir).drop_duplicates(["stage", "task", "method", "seed"])
    found = []
    for _, rows in runs.groupby(["stage", "task"], sort=False):
        first = rows.iloc[0]
        curves = []
        for _, cell in rows.groupby("method", sort=False):
            seeds = [_points(results_dir, run) for run in cell.to_dict("records")]
            label, color = cell.iloc[0].label, cell.iloc[0].color
            dash = DASHES[sum(curve.color == color for curve in curves) % len(DASHES)]
            curves.append(Curve(label, color, dash, [one for one in seeds if one], len(seeds)))
        title = first.task_title + (", offline RL" if first.stage == "offline" else "")
        end = int(first.offline_steps + first.online_steps)
        found.append(Panel(title, int(first.offline_steps), end, curves))
    return found


def _points(results_dir: Path, run: dict) -> Points:
    folders = dict.fromkeys((run["pretrained"], run["run"]))
    return [point for folder in folders for point in read_points(results_dir / folder)]


def read_points(folder: Path) -> Points:
    """Success rates of a run so far, from ``metrics.csv`` or else ``progress.json``."""
    try:
        with (folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        rows = read_progress(folder).get("metrics", [])
    return [(int(row["step"]), float(row["success_rate"])) for row in rows]


def mean_curve(seeds: list[Points]) -> Points:
    """Mean success rate at every step that all seeds have reached."""
    rates: dict[int, list[float]] = {}
    for step, rate in (point for seed in seeds for point in seed):
        rates.setdefault(step, []).append(rate)
    return [(step, statistics.mean(found)) for step, found in sorted(rates.items()) if len(found) == len(seeds)]


def svg(panel: Panel) -> str:
    """The panel as an ``<svg>`` element: success rate in per cent over steps, the offline phase shaded."""
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(step: float, rate: float) -> str:
        return f"{LEFT + wide * step / panel.end:.1f},{TOP + high * (1 - rate):.1f}"

    shaded = wide * panel.switch / panel.end
    parts = [
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" width="{WIDTH:g}" height="{HEIGHT:g}" role="img">',
        f'<text x="{LEFT:g}" y="15" class="title">{html.escape(panel.title)}</text>',
        f'<rect x="{LEFT:g}" y="{TOP:g}" width="{shaded:.1f}" height="{high:g}" class="offline"/>',
    ]
    for per_cent in (0, 25, 50, 75, 100):
        y = TOP + high * (1 - per_cent / 100)
        parts.append(f'<path d="M{LEFT:g} {y:.1f}h{wide:g}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 5:g}" y="{y + 4:.1f}" class="tick" text-anchor="end">{per_cent}</text>')
    for step in dict.fromkeys((0, panel.switch, panel.end)):
        x = LEFT + wide * step / panel.end
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 24:g}" class="tick" text-anchor="middle">{steps(step)}</text>')
    axis = "gradient steps, offline" if panel.switch == panel.end else "steps: offline (shaded), then online"
    parts.append(f'<text x="{LEFT + wide / 2:.1f}" y="{HEIGHT - 7:g}" class="axis" text-anchor="middle">{axis}</text>')
    middle = TOP + high / 2
    parts.append(
        f'<text transform="translate(11 {middle:.1f}) rotate(-90)" class="axis" text-anchor="middle">success, %</text>'
    )
    for curve in panel.curves:
        style = f'stroke="{html.escape(curve.color)}" stroke-dasharray="{curve.dash}"'
        for kind, points in [*(("seed", seed) for seed in curve.seeds), ("mean", mean_curve(curve.seeds))]:
            places = " ".join(at(step, rate) for step, rate in points)
            parts.append(f'<polyline points="{places}" {style} class="{kind}"/>')
            parts += [_dot(place, curve.color, kind) for place in places.split()]
    if not any(curve.seeds for curve in panel.curves):
        x = LEFT + wide / 2
        parts.append(f'<text x="{x:.1f}" y="{middle:.1f}" class="axis" text-anchor="middle">no evaluation yet</text>')
    return "".join([*parts, "</svg>"])


def _dot(place: str, color: str, kind: str) -> str:
    x, y = place.split(",")
    return f'<circle cx="{x}" cy="{y}" r="2" fill="{html.escape(color)}" class="{kind}"/>'


def legend(panel: Panel) -> str:
    """A method's colour, its seeds, and its latest mean."""
    items = []
    for curve in panel.curves:
        mean = mean_curve(curve.seeds)
        last = f", {100 * mean[-1][1]:.0f} % at {steps(mean[-1][0])}" if mean else ""
        items.append(
            f'<li><svg width="26" height="8"><path d="M0 4h26" stroke="{html.escape(curve.color)}" stroke-width="2" '
            f'stroke-dasharray="{curve.dash}"/></svg> {html.escape(curve.label)}: '
            f"n = {len(curve.seeds)} of {curve.planned}{last}</li>"
        )
    return f"<ul>{''.join(items)}</ul>"


def steps(count: int) -> str:
    """``1.5M``, ``20k``, ``400``."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if count >= size:
            return f"{count / size:.4g}{letter}"
    return str(count)
