"""Performance profiles, drawn: for each rate, the share of a method's runs whose last evaluation is above it."""

from __future__ import annotations

from math import ceil

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from dfp.report.figures.drawing import STYLE, pens

RATE_AXIS = "Success rate r at the last evaluation (%)"
SHARE_AXIS = "Runs above r (%)"
BAND = "band: 95 % stratified bootstrap interval"
NO_BAND = "no bands: a task has one seed"


def draw(statistics: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """A panel per comparison, a step line per method, its interval as a band.

    A curve further to the right is better. The area under it is the mean of the method's rates, each rounded up to 5
    points. All methods of a panel are drawn from the same tasks and seeds.

    Args:
      statistics: the rows of ``statistics.csv``; those of the profiles are drawn.
      runs: the run table, for titles, labels and colours.
    """
    profiles = statistics.loc[statistics.statistic == "performance_profile"]
    grouped = profiles.groupby("experiment", sort=False)
    comparisons = [(experiment, panel) for experiment, panel in grouped if panel.method.nunique() > 1]
    columns = min(2, max(1, len(comparisons)))
    rows = max(1, ceil(len(comparisons) / columns))
    titles = dict(zip(runs.experiment, runs.title, strict=True))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6 * columns, 3.0 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes in grid[len(comparisons) :]:
            axes.remove()
        for axes, (experiment, panel) in zip(grid, comparisons, strict=False):
            _panel(axes, panel, runs.loc[runs.experiment == experiment])
            axes.set_title(f"{experiment}: {titles[experiment]}\n{_number(panel)}", fontsize=8)
        figure.supxlabel(RATE_AXIS, fontsize=9)
        figure.supylabel(SHARE_AXIS, fontsize=9)
    return figure


def _panel(axes: Axes, panel: pd.DataFrame, runs: pd.DataFrame) -> None:
    lines = pens(runs)
    for method, points in panel.groupby("method", sort=False):
        pen = lines[str(method)]
        end = pd.DataFrame({"threshold": [1.0], "value": 0.0, "low": 0.0, "high": 0.0})  # nothing is above 100 %
        points = 100 * pd.concat([points[list(end)], end])
        axes.step(points.threshold, points.value, where="post", **pen, markevery=3, alpha=0.9)
        band = {"color": pen["color"], "alpha": 0.15, "linewidth": 0}  # NaN bounds draw nothing
        axes.fill_between(points.threshold, points.low, points.high, step="post", **band)
    axes.set(xlim=(0, 100), ylim=(-2, 102))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(25))
    axes.tick_params(labelsize=7, labelbottom=True, labelleft=True)
    axes.grid(color="0.93", linewidth=0.6)
    drawn = [Line2D([], [], **lines[str(method)]) for method in panel.method.unique()]
    axes.legend(handles=drawn, fontsize=6.5, frameon=False, loc="upper right", ncols=2 if len(drawn) > 6 else 1)


def _number(panel: pd.DataFrame) -> str:
    least, most = panel.runs.min(), panel.runs.max()
    number = f"{least}" if least == most else f"{least} to {most}"
    return f"{number} runs per method on {panel.tasks.max()} tasks; {NO_BAND if panel.low.isna().all() else BAND}"
