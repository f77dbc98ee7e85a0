"""The study's figures: lines with bands (learning curves, cost, equality) and differences with their intervals.

They are narrow, one panel above the other, so that they can be read on a phone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MultipleLocator

from dfp.plan.catalogue import base_method
from dfp.report.figures.drawing import OFFLINE, STYLE, pens, scale

WIDTH = 4.6  # inches
HERE, RELEASE_COLOR = "#0072B2", "0.35"
BAND = "band: 95 % t-interval over seeds"


class Line(NamedTuple):
    """A mean over seeds along ``x``, with its interval."""

    label: str
    pen: dict[str, Any]
    points: pd.DataFrame  #: x, mean, low, high, n; rates as fractions, NaN bounds for one seed


def method_pens(methods: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """:func:`~dfp.report.figures.drawing.pens`, in which a variant never has its method's own colour."""
    lines = pens(methods)
    variants = [method for method in lines if base_method(method) != method]
    for place, method in enumerate(variants):
        color = methods.loc[methods.method == method, "color"].iloc[0]
        lines[method]["color"] = scale(color, 3)[2 * (place % 2)]
    return lines


def draw_lines(panels: dict[str, list[Line]], x: str, switch: float | None = None) -> Figure:
    """A panel per title; success in percent over ``x``, the offline phase, up to ``switch``, on grey."""
    steps = switch is not None
    with matplotlib.rc_context(STYLE):
        legend_rows = max((len(lines) + 1) // 2 for lines in panels.values())
        figure = Figure(figsize=(WIDTH, (2.7 + 0.22 * legend_rows) * len(panels) + 0.3), layout="constrained")
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (title, lines) in zip(grid, panels.items(), strict=True):
            if switch is not None:
                axes.axvspan(0, switch, color=OFFLINE, linewidth=0, zorder=0)
                for place, phase in ((0.01, "offline"), (switch, "online")):
                    axes.text(place, 1.0, f" {phase}", transform=axes.get_xaxis_transform(), va="top", fontsize=8)
            for line in lines:
                mean, low, high = (100 * line.points[name] for name in ("mean", "low", "high"))
                axes.fill_between(line.points.x, low, high, color=line.pen["color"], alpha=0.15, linewidth=0)
                label = f"{line.label} (n={line.points.n.max()})"
                axes.plot(line.points.x, mean, clip_on=False, **(line.pen | {"label": label}))
            axes.set(xlim=(0, None), ylim=(-3, 112))
            axes.yaxis.set_major_locator(MultipleLocator(25))
            axes.xaxis.set_major_formatter(EngFormatter(sep="") if steps else "{x:g}")
            axes.grid(axis="y", color="0.85", linewidth=0.6)
            axes.tick_params(labelsize=9)
            axes.set_title(title, fontsize=10, loc="left")
            axes.set_ylabel("success rate (%)", fontsize=9)
            axes.legend(
                loc="lower center", bbox_to_anchor=(0.5, 1.09), ncols=2, frameon=False, fontsize=9, handlelength=2.6
            )
            sns.despine(ax=axes)
        banded = any(line.points.low.notna().any() for lines in panels.values() for line in lines)
        figure.supxlabel(f"{x}\n{BAND if banded else 'one seed: no interval'}", fontsize=9)
    return figure


def draw_differences(rows: pd.DataFrame) -> Figure:
    """A line per difference, its name above: ``name, value, low, high``, rates as fractions; 0 is no difference."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.8 + 0.42 * max(len(rows), 1)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color="0.3", linewidth=0.8)
        for place, row in enumerate(rows.to_dict("records")):
            axes.plot([100 * row["low"], 100 * row["high"]], [place, place], color=HERE, linewidth=2)
            axes.plot([100 * row["value"]], [place], "o", color=HERE, markersize=5)
            axes.text(
                0, place - 0.32, row["name"], transform=axes.get_yaxis_transform(), fontsize=8, va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            )  # fmt: skip
        axes.set(yticks=[], ylim=(len(rows) - 0.5, -0.8))
        axes.set_xlabel("difference of the means, points\nbar: 95 % bootstrap interval over seeds", fontsize=9)
        axes.tick_params(axis="x", labelsize=9)
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        sns.despine(ax=axes, left=True)
    return figure
