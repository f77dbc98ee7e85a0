"""The paper's figures, from runs: ``figure<n>.png``, ``.pdf``, and ``.csv`` with every number that is drawn.

Numbers and drawing are apart: :func:`curves` computes, :func:`draw` sees nothing else. Rates are fractions in [0, 1]
in the CSV file and percent on the axes. The same runs give the same bytes.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
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
from dfp.report.collect import evaluations, experiment_runs
from dfp.report.gallery import gallery
from dfp.report.statistics import over_seeds, t_interval
from dfp.spec import ConfigError

# One font that matplotlib itself brings, so that machines agree; Type 42 keeps the PDF's text selectable.
STYLE: dict[Any, Any] = sns.axes_style("ticks") | {"font.family": "DejaVu Sans", "pdf.fonttype": 42}
# A method has a dash and a marker besides its colour, so that the lines stay apart in grey.
DASHES = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)))
MARKERS = "osD^vPX*"
OFFLINE = "0.91"


def write_figure(number: int, results_dir: Path, partial: bool = False) -> list[Path]:
    """Write ``figure<number>.png``, ``.pdf`` and ``.csv`` below ``results_dir`` and return their paths.

    With ``partial``, unfinished runs give what they have. Raises :class:`ConfigError` where the number is not one of
    :data:`FIGURES`, or as :func:`~dfp.report.collect.evaluations` does.
    """
    if number not in FIGURES:
        raise ConfigError(f"figure {number}: not one of the figures made here: {', '.join(map(str, FIGURES))}")
    frame, figure = FIGURES[number](results_dir, partial)
    # Left to itself, matplotlib notes its version and the moment.
    contents = {
        "png": _rendered(figure, "png", {"Software": None}),
        "pdf": _rendered(figure, "pdf", {"CreationDate": None}),
        "csv": frame.to_csv(index=False, float_format="%.6g"),
    }
    return [write_atomically(results_dir / f"figure{number}.{kind}", content) for kind, content in contents.items()]


def learning_curves(experiment: str, results_dir: Path, partial: bool) -> tuple[pd.DataFrame, Figure]:
    """Figures 1 and 3 to 5: success rate over the training steps of both phases, one panel per task."""
    runs = experiment_runs(results_dir, experiment)
    frame = curves(evaluations(results_dir, runs, partial), runs)
    return frame, draw(frame)


def task_gallery(results_dir: Path, partial: bool) -> tuple[pd.DataFrame, Figure]:
    """Figure 2: see :func:`dfp.report.gallery.gallery`. No run has a part in it."""
    return gallery(results_dir, STYLE)


FIGURES: dict[int, Callable[[Path, bool], tuple[pd.DataFrame, Figure]]] = {
    2: task_gallery,
    **{number: functools.partial(learning_curves, f"figure{number}") for number in (1, 3, 4, 5)},
}


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


def draw(frame: pd.DataFrame) -> Figure:
    """Draw :func:`curves`: a panel per task, a line per method, its interval as a band, the offline phase on grey."""
    panels = frame.task.nunique()
    rows = ceil(panels / 3)
    columns = ceil(panels / rows)
    pens = _pens(frame)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(3.1 * columns, 5.6), 2.3 * rows + 1.3), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axes in grid[panels:]:
            axes.remove()
        for axes, (_, panel) in zip(grid, frame.groupby("task", sort=False), strict=False):
            _panel(axes, panel, pens)
        figure.supxlabel("Training steps (offline gradient steps, then online environment steps)", fontsize=9)
        figure.supylabel("Success rate (%)", fontsize=9)
        phases = [Patch(facecolor=OFFLINE, label="offline phase"), Patch(fc="w", ec="0.7", label="online phase")]
        figure.legend(
            handles=[*(Line2D([], [], **pen) for pen in pens.values()), *phases],
            loc="outside upper center",
            ncols=6 if columns == 3 else 3,
            title=note(frame),
            fontsize=8,
            title_fontsize=8,
            frameon=False,
        )
    return figure


def note(frame: pd.DataFrame) -> str:
    """What a line and its band are, with the number of seeds."""
    progress = "" if _finished(frame) else f" ({_progress(frame)})"
    if frame.n.max() <= 1:
        return f"One seed per line{progress}, hence no interval"
    return f"Mean over {frame.listed.max()} seeds{progress}; band: 95 % t-interval"


def _finished(frame: pd.DataFrame) -> bool:
    return bool((frame.finished == frame.listed).all())


def _progress(frame: pd.DataFrame) -> str:
    fewest, most = frame.finished.min(), frame.finished.max()
    return f"{fewest if fewest == most else f'{fewest} to {most}'} of {frame.listed.max()} finished"


def _pens(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """How each method's line looks. The last one, which in the paper is its own method, is the solid one."""
    methods = frame.drop_duplicates("method")
    return {
        row["method"]: {
            "label": row["label"],
            "color": row["color"],
            "linestyle": DASHES[place % len(DASHES)],
            "marker": MARKERS[place % len(MARKERS)],
            "markersize": 3.5,
            "linewidth": 1.4,
        }
        for row, place in zip(methods.to_dict("records"), reversed(range(len(methods))), strict=True)
    }


def _panel(axes: Axes, panel: pd.DataFrame, pens: dict[str, dict[str, Any]]) -> None:
    first = panel.iloc[0]
    axes.axvspan(0, first.offline_steps, color=OFFLINE, linewidth=0, zorder=0)
    for method, line in panel[panel.n > 0].groupby("method", sort=False):
        pen = pens[str(method)]
        steps = line.step.astype(float)
        axes.fill_between(steps, 100 * line.low, 100 * line.high, color=pen["color"], alpha=0.2, linewidth=0)
        axes.plot(steps, 100 * line["mean"], markevery=ceil(len(line) / 20), clip_on=False, **pen)
    if not panel.n.any():
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center", color="0.4", fontsize=9)
    axes.set_title(first.task_title + ("" if _finished(panel) else f" ({_progress(panel)})"), fontsize=10)
    axes.set_xlim(0, first.offline_steps + first.online_steps)
    axes.set_ylim(-3, 103)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MultipleLocator(25))
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="0.8", linewidth=0.5)
    sns.despine(ax=axes)


def _rendered(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()
