"""The paper's figures, from runs: ``figure<n>.png``, ``.pdf``, and ``.csv`` with every number that is drawn.

Numbers and drawing are apart: :func:`curves` computes, :func:`draw` sees nothing else. Rates are fractions in [0, 1]
in the CSV file and percent on the axes. The same runs give the same bytes.

Figure 1 draws both phases ("success rate over training steps"). Figures 3 to 5 draw "the online phase": from the
evaluation at the switch on, where the curves begin, with the end of the offline phase as a grey margin.
"""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator, MultipleLocator

from dfp.files import write_atomically
from dfp.plan.run_table import experiment_runs
from dfp.report.collect import evaluations
from dfp.report.figures.drawing import OFFLINE, STYLE, csv_text, pens, short_labels, write_drawing
from dfp.report.figures.gallery import write_gallery
from dfp.report.figures.published import SOURCE, published_curves
from dfp.report.statistics import over_seeds, t_interval
from dfp.spec import ConfigError

BOTH_PHASES, GALLERY, ONLINE_PHASE = (1,), 2, (3, 4, 5)
FIGURES = (*BOTH_PHASES, GALLERY, *ONLINE_PHASE)
MARGIN = 0.08  # of the online phase: how much of the offline phase an online figure shows
BOTH_AXIS = "Training steps (offline gradient steps, then online environment steps)"
ONLINE_AXIS = "Online environment steps, counted on from the offline gradient steps"
PUBLISHED_PEN: dict[str, Any] = {"linestyle": (0, (1, 1.2)), "linewidth": 1.2}


def write_figure(number: int, results_dir: Path, partial: bool = False, published: bool = True) -> list[Path]:
    """Write ``figure<number>.png``, ``.pdf`` and ``.csv`` below ``results_dir`` and return their paths.

    With ``partial``, unfinished runs give what they have; with ``published``, Figure 1 also has the curves that others
    published. Raises :class:`ConfigError` if the number is not one of :data:`FIGURES`, or as
    :func:`~dfp.report.collect.evaluations` does.
    """
    if number not in FIGURES:
        raise ConfigError(f"figure {number}: not one of the figures made here: {', '.join(map(str, FIGURES))}")
    if number == GALLERY:
        return write_gallery(results_dir)
    frame = learning_curves(number, results_dir, partial)
    others, _ = published_curves(frame if published and number in BOTH_PHASES else frame.iloc[:0])
    drawn = [frame.assign(source="this run"), *([others.assign(source=SOURCE)] if len(others) else [])]
    figure = draw(frame, others, online=number in ONLINE_PHASE)
    stem = results_dir / f"figure{number}"
    return [*write_drawing(stem, figure), write_atomically(stem.with_suffix(".csv"), csv_text(pd.concat(drawn)))]


def learning_curves(number: int, results_dir: Path, partial: bool = False) -> pd.DataFrame:
    """The :func:`curves` of a figure: of both phases, or from the switch on."""
    runs = experiment_runs(results_dir, f"figure{number}")
    tidy = evaluations(results_dir, runs, partial)
    if number in ONLINE_PHASE:
        switch = tidy.run.map(runs.drop_duplicates("run").set_index("run").offline_steps)
        tidy = tidy.loc[tidy.step >= switch]
    return curves(tidy, runs)


def curves(tidy: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """One row per task, method and evaluated step, in the order of ``runs``.

    Columns: ``task, task_title, method, label, color, offline_steps, online_steps``, ``listed`` (seeds in the run
    table), ``step``, ``mean`` over seeds, ``n`` (seeds evaluated there), ``low`` and ``high`` of the mean's 95 %
    t-interval (NaN for one seed), ``finished`` (seeds evaluated at the last step). A task and method without any
    evaluation keeps one row, with n = 0.
    """
    cell = ["task", "task_title", "method", "label", "color", "offline_steps", "online_steps"]
    cells = runs.groupby(cell, sort=False).agg(listed=("seed", "count")).reset_index()
    points = t_interval(over_seeds(tidy, ["task", "method", "step"])).drop(columns="std").sort_values("step")
    frame = cells.merge(points, on=["task", "method"], how="left")
    frame = frame.astype({"step": "Int64"}).assign(n=frame.n.fillna(0).astype(int))
    at_end = frame.n.where(frame.step == frame.offline_steps + frame.online_steps, 0)
    return frame.assign(finished=at_end.groupby([frame.task, frame.method]).transform("max"))


def draw(frame: pd.DataFrame, published: pd.DataFrame | None = None, online: bool = False) -> Figure:
    """Draw :func:`curves`: a panel per task, a line per method, its interval as a band, the offline phase on grey.

    ``published``: curves of others, ``task, method, step, mean``, of which a line is thin, dotted and has no marker.
    ``online``: the online phase, with a margin of the offline one.
    """
    panels = frame.task.nunique()
    rows = ceil(panels / 3)
    columns = ceil(panels / rows)
    lines = pens(frame)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(3.1 * columns, 5.6), 2.3 * rows + 1.3), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axes in grid[panels:]:
            axes.remove()
        for axes, (task, panel) in zip(grid, frame.groupby("task", sort=False), strict=False):
            _panel(axes, panel, lines, online)
            if published is not None:
                _published(axes, published.loc[published.task == task], lines)
        figure.supxlabel(ONLINE_AXIS if online else BOTH_AXIS, fontsize=9)
        figure.supylabel("Success rate (%)", fontsize=9)
        handles = [*(Line2D([], [], **pen) for pen in lines.values())]
        if published is not None and len(published):
            handles.append(Line2D([], [], color="0.2", label=SOURCE, **PUBLISHED_PEN))
        handles += [Patch(facecolor=OFFLINE, label="offline phase"), Patch(fc="w", ec="0.7", label="online phase")]
        figure.legend(
            handles=handles,
            loc="outside upper center",
            ncols=_legend_columns(len(handles), columns),
            title=note(frame),
            fontsize=8,
            title_fontsize=8,
            frameon=False,
        )
    return figure


def _legend_columns(entries: int, panels: int) -> int:
    """As many as fit above the panels; two rows of about the same length if one row is too short."""
    fit = 6 if panels == 3 else 3
    return entries if entries <= fit else min(fit, ceil(entries / 2))


def note(frame: pd.DataFrame) -> str:
    """The note of a figure: what a line and its band are, with the number of seeds."""
    shared, _ = short_labels(list(frame.label.unique()))
    method = f"{shared}. " if shared else ""
    progress = "" if _finished(frame) else f" ({_progress(frame)})"
    if frame.n.max() <= 1:
        return f"{method}One seed per line{progress}, so no interval"
    return f"{method}Mean over {frame.listed.max()} seeds{progress}; band: 95 % t-interval"


def _finished(frame: pd.DataFrame) -> bool:
    return bool((frame.finished == frame.listed).all())


def _progress(frame: pd.DataFrame) -> str:
    fewest, most = frame.finished.min(), frame.finished.max()
    return f"{fewest if fewest == most else f'{fewest} to {most}'} of {frame.listed.max()} finished"


def _panel(axes: Axes, panel: pd.DataFrame, lines: dict[str, dict[str, Any]], online: bool) -> None:
    first = panel.iloc[0]
    left = first.offline_steps - MARGIN * first.online_steps if online else 0
    axes.axvspan(left, first.offline_steps, color=OFFLINE, linewidth=0, zorder=0)
    for method, line in panel[panel.n > 0].groupby("method", sort=False):
        pen = lines[str(method)]
        steps = line.step.astype(float)
        axes.fill_between(steps, 100 * line.low, 100 * line.high, color=pen["color"], alpha=0.2, linewidth=0)
        axes.plot(steps, 100 * line["mean"], markevery=ceil(len(line) / 20), clip_on=False, **pen)
    if not panel.n.any():
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center", color="0.4", fontsize=9)
    axes.set_title(first.task_title + ("" if _finished(panel) else f" ({_progress(panel)})"), fontsize=10)
    axes.set_xlim(left, first.offline_steps + first.online_steps)
    axes.set_ylim(-3, 103)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MultipleLocator(25))
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="0.8", linewidth=0.5)
    sns.despine(ax=axes)


def _published(axes: Axes, curves: pd.DataFrame, lines: dict[str, dict[str, Any]]) -> None:
    for method, curve in curves.groupby("method", sort=False):
        pen = lines[str(method)]
        label = f"{pen['label']}, {SOURCE}"
        axes.plot(curve.step, 100 * curve["mean"], color=pen["color"], label=label, zorder=1.5, **PUBLISHED_PEN)
