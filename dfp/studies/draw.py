"""The figures beyond the paper, each drawn from a CSV file that a command of `dfp/commands/study.py` computed."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogFormatterMathtext, LogLocator, MaxNLocator
from scipy.special import stdtrit

from dfp.report.figures.drawing import OFFLINE, STYLE, pens, write_drawing
from dfp.spec import ConfigError

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.45"
ARROW = 4  # the arrows of the field are drawn at 1/ARROW of their length
PHASES = {"offline": "end of offline", "online": "end of online"}


def write_study(name: str, results_dir: Path) -> list[Path]:
    """Draw ``<name>.png`` and ``.pdf`` from ``<name>.csv`` below ``results_dir`` and return their paths.

    Raises :class:`ConfigError` if the name is not in :data:`STUDIES`, or the CSV file is missing or does not fit.
    """
    if name not in STUDIES:
        raise ConfigError(f"study '{name}': not one of the studies made here: {', '.join(STUDIES)}")
    source, draw = STUDIES[name]
    path = results_dir / source
    try:
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
        figure = draw(frame)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `dfp study {name}` computes it") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ConfigError(f"{path}: not the numbers of '{name}': {' '.join(str(error).split())}") from None
    return write_drawing(results_dir / name, figure)


# --------------------------------------------------------------------------- theory


def draw_theory(points: pd.DataFrame) -> Figure:
    """Convergence, bound and dissipation: ``panel, series, x, y`` of :func:`dfp.studies.theory.points.points`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 6.4), layout="constrained")
        panels = dict(zip(("decomposition", "candidates", "bound", "flow"), figure.subplots(2, 2).flat, strict=True))
        parts = {name: points.loc[points.panel == name] for name in panels}
        _decomposition(panels["decomposition"], parts["decomposition"])
        _candidates_limit(panels["candidates"], parts["candidates"])
        _bound(panels["bound"], parts["bound"])
        _flow(panels["flow"], parts["flow"])
        for axes in panels.values():
            axes.tick_params(labelsize=8)
            axes.legend(frameon=False, fontsize=8)
            sns.despine(ax=axes)
    return figure


def _series(part: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    rows = part[part.series == name]
    return rows.x.to_numpy(), rows.y.to_numpy()


def _title(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=9.5)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)


def _decomposition(axes: Axes, part: pd.DataFrame) -> None:
    x, y = _series(part, "closed form")
    axes.loglog(x, y, "-", color="0.2", label="closed form (normal KDEs)")
    axes.loglog(x, y[0] * (x / x[0]) ** 2, ":", color=GREY, label="h² guide")
    x, y = _series(part, "measured")
    axes.loglog(x, y, "o", color=ORANGE, label="Eq. 3 on 5,001 samples each")
    _ticks(axes, x)
    _title(axes, "Eq. 14: Q ascent + trust region = 4.3, as h → 0", "bandwidth h", "|V / h² − 4.3|, at a = 0.3")


def _candidates_limit(axes: Axes, part: pd.DataFrame) -> None:
    x, y = _series(part, "measured")
    (_, low), (_, high) = _series(part, "low"), _series(part, "high")
    axes.loglog(x, y[-1] * (x / x[-1]) ** -0.5, ":", color=GREY, label=r"$N^{-1/2}$ guide")
    axes.errorbar(
        x, y, (y - low, high - y), fmt="o", color=ORANGE, markersize=4, label="RMS of 256 draws, 95 % interval"
    )
    _ticks(axes, x)
    _title(axes, "Prop. 1 (i): top-K loss → level-set loss, K/N = 1/4", "candidates N", "relative error of the loss")


def _bound(axes: Axes, part: pd.DataFrame) -> None:
    (x, bound), (_, measured) = _series(part, "bound"), _series(part, "measured")
    axes.vlines(x, measured, bound, color="0.85", linewidth=0.8, zorder=1)
    axes.loglog(x, bound, "_", color="0.2", markersize=8, label="bound C TV; C differs from pair to pair")
    axes.loglog(x, measured, "o", color=ORANGE, markersize=4, label="measured")
    _ticks(axes, np.array([0.1, 0.2, 0.4, 0.8]))
    axes.yaxis.set_major_locator(LogLocator(base=100.0))
    axes.yaxis.set_major_formatter(LogFormatterMathtext())
    axes.set_ylim(top=100 * bound.max())  # room for the legend
    title = f"Prop. 1 (ii): bias of the level set, {len(x)} pairs (ρ, α)"
    _title(axes, title, "TV(level set, π⁺)", "|difference of losses|")


def _flow(axes: Axes, part: pd.DataFrame) -> None:
    axes.semilogy(*_series(part, "closed form"), "-", color="0.2", label="πθ → π⁺, exact")
    x, y = _series(part, "measured")
    axes.semilogy(x[::5], y[::5], "o", color=ORANGE, markersize=4, label="πθ → π⁺, 501 particles")
    axes.semilogy(*_series(part, "two modes"), "--", color=BLUE, label="one mode → two, 500 particles (KDE)")
    axes.semilogy(*_series(part, "masses"), ":", color=BLUE, label="KL of the two modes' masses alone")
    axes.set_ylim(top=15)  # room for the legend
    _title(axes, "Eq. 6: KL along the flow of the field", "flow time t", r"KL($q_t$ ‖ target)")


def _ticks(axes: Axes, x: np.ndarray) -> None:
    """Ticks at ``x``, and at 1, 2 and 5 of each power of ten on the other axis."""
    axes.set_xticks(x, [f"{value:g}" for value in x])
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


# --------------------------------------------------------------------------- the field


def draw_field(frame: pd.DataFrame) -> Figure:
    """A panel per stage: data, top-K positives, the policy's samples and the field as arrows."""
    stages = frame.drop_duplicates("stage")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.9, 7.4), layout="constrained")
        grid = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
        for axes, (_, stage) in zip(grid, stages.iterrows(), strict=True):
            part = frame.loc[frame.stage == stage.stage]
            _stage(axes, part)
            name = stage.stage.replace("L_BC", "$L_{BC}$").replace("L_topK", "$L_{topK}$")
            samples = part[part.kind == "sample"]
            worth = f"mean Q {samples.q.mean():.2f}; {(samples.x > 0).mean():.0%} of samples right of 0"
            axes.set_title(f"{name} (update {stage.step:,})\n{worth}", fontsize=9)
        figure.supxlabel("action, first coordinate", fontsize=9)
        figure.supylabel("action, second coordinate", fontsize=9)
        handles = {}  # a stage may lack a kind
        for axes in grid:
            handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(
            handles=list(handles.values()),
            labels=list(handles),
            loc="outside upper center",
            ncols=3,
            fontsize=8,
            frameon=False,
            title=f"One seed, a toy with one state. Arrows: the field that trains it, at 1/{ARROW} of its length",
            title_fontsize=8,
        )
    return figure


def _stage(axes: Axes, part: pd.DataFrame) -> None:
    kinds = dict(iter(part.groupby("kind")))
    for kind, marker, color, size, label in (
        ("data", "s", "0.72", 9, "data"),
        ("sample", "o", ORANGE, 9, "samples of the policy"),
        ("top-K", "^", BLUE, 14, r"top-K of the candidates of $\pi_{old}$"),
    ):
        if kind in kinds:
            axes.scatter(kinds[kind].x, kinds[kind].y, s=size, marker=marker, color=color, linewidth=0, label=label)
    arrows = kinds["arrow"]
    axes.quiver(
        arrows.x, arrows.y, arrows.dx, arrows.dy,
        angles="xy", scale_units="xy", scale=ARROW, width=0.0028, color="0.15",
    )  # fmt: skip
    axes.set_xlim(-1.1, 1.1)
    axes.set_ylim(-1.1, 1.1)
    axes.set_aspect("equal")
    axes.tick_params(labelsize=8)


# --------------------------------------------------------------------------- mean_shift against joint


def draw_normalisation(frame: pd.DataFrame) -> Figure:
    """A row per task: spread of the candidates, worth by rank at the end of each phase, success over the steps."""
    lines = pens(frame)
    tasks = list(frame.groupby("task_title", sort=False))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.6, 2.7 * max(len(tasks), 1) + 0.7), layout="constrained")
        grid = figure.subplots(max(len(tasks), 1), 4, squeeze=False)
        for row, (title, part) in zip(grid, tasks, strict=False):
            spread, worth, success = (part.loc[part.quantity == name] for name in ("spread", "q", "success_rate"))
            _by_phase(row[0], spread, lines)
            row[2].sharey(row[1])
            for axes, (phase, name) in zip(row[1:3], PHASES.items(), strict=True):
                _band(axes, worth.loc[worth.phase == phase], lines)
                axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
                _title(
                    axes,
                    f"worth of the candidates, {name}",
                    "rank",
                    "Q − mean Q of the state's" if phase == "offline" else "",
                )
            _band(row[3], success.assign(value=100 * success.value), lines, cut=False)
            row[0].set_ylim(bottom=0)
            row[3].set_ylim(-3, 103)
            switch = success.loc[success.phase == "offline", "x"].max() if len(success) else 0.0
            row[3].axvspan(0, float(switch), color=OFFLINE, linewidth=0, zorder=0)
            row[3].set_xlim(left=0)
            row[3].xaxis.set_major_formatter(EngFormatter(sep=""))
            _title(row[0], f"{title}:\nspread of the candidates", "", "std per action coordinate")
            _title(row[3], "success (offline phase on grey)", "training steps", "success rate (%)")
        for axes in grid.flat:
            axes.tick_params(labelsize=8)
            sns.despine(ax=axes)
        if tasks:
            grid[0, 0].legend(frameon=False, fontsize=8)
        figure.suptitle(_seeds(frame.loc[frame.quantity != "q"], "value"), fontsize=9)
    return figure


def _by_phase(axes: Axes, spread: pd.DataFrame, lines: dict) -> None:
    for method, part in spread.groupby("method", sort=False):
        mean = part.groupby("phase").value.mean().reindex(list(PHASES))
        axes.plot([0, 1], mean, **lines[str(method)])
        axes.plot(part.phase.map(list(PHASES).index), part.value, ".", color=lines[str(method)]["color"], alpha=0.5)
    axes.set_xticks([0, 1], list(PHASES.values()))
    axes.set_xlim(-0.3, 1.3)


def _band(axes: Axes, part: pd.DataFrame, lines: dict, cut: bool = True) -> None:
    """Mean over seeds against ``x``, with its 95 % t-interval if there are several."""
    for method, rows in part.groupby("method", sort=False):
        summary = _interval(rows).sort_values("x")
        x = summary.x.astype(float)
        axes.fill_between(x, summary.low, summary.high, color=lines[str(method)]["color"], alpha=0.2, linewidth=0)
        axes.plot(x, summary["mean"], clip_on=cut, **lines[str(method)])


def _interval(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean of ``value`` over seeds at every ``x``, with its 95 % t-interval, which is not cut at any bound."""
    summary = rows.groupby("x").value.agg(["mean", "std", "count"]).reset_index()
    half = stdtrit(np.maximum(summary["count"] - 1, 1), 0.975) * summary["std"] / np.sqrt(summary["count"])
    return summary.assign(low=summary["mean"] - half, high=summary["mean"] + half)


def _seeds(frame: pd.DataFrame, value: str) -> str:
    """How many seeds have a ``value``: the fewest and the most of any task, method, quantity and phase."""
    cell = [name for name in ("task", "method", "quantity", "phase") if name in frame]
    have = frame.seed.where(frame[value].notna()).groupby([frame[name] for name in cell]).nunique()
    if frame.empty:
        return "no run has saved a state yet"
    listed = int(frame.listed.max())
    done = f"{have.min()}" if have.min() == have.max() else f"{have.min()} to {have.max()}"
    interval = {0: "", 1: ", so no interval"}.get(int(have.max()), "; band: 95 % t-interval of the mean")
    return f"n = {done} of {listed} seed{'s' if listed > 1 else ''}{interval}"


# --------------------------------------------------------------------------- candidates by rank


def draw_candidates(frame: pd.DataFrame) -> Figure:
    """A panel per task: Q of the N candidates by rank less that of the data, end of online; the K best on grey."""
    online = frame.loc[frame.phase == "online"]
    tasks = list(online.groupby("task_title", sort=False))
    lines = pens(frame)
    rows = max(ceil(len(tasks) / 3), 1)
    columns = max(ceil(len(tasks) / rows), 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(3.2 * columns, 4.6), 2.6 * rows + 0.9), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[len(tasks) :]:
            axes.remove()
        for axes, (title, part) in zip(grid, tasks, strict=False):
            _title(axes, title, r"rank among the N candidates of $\pi_{old}$", "mean Q − mean Q of the data's")
            axes.tick_params(labelsize=8)
            sns.despine(ax=axes)
            part = part.dropna(subset="q")
            if part.empty:
                axes.text(
                    0.5,
                    0.5,
                    "no state of the online phase yet",
                    transform=axes.transAxes,
                    ha="center",
                    color="0.4",
                    fontsize=9,
                )
                continue
            first = part.iloc[0]
            axes.set_title(f"{title} ({first.states:.0f} states of the data)", fontsize=9.5)
            best = f"the K = {first.positives:.0f} positives"
            axes.axvspan(0.5, first.positives + 0.5, color=OFFLINE, linewidth=0, zorder=0, label=best)
            # Seed by seed: critics of two seeds differ more in level than a critic's candidates do among themselves.
            _band(axes, part.assign(x=part["rank"], value=part.q - part.q_data), lines)
            axes.axhline(0.0, color="0.3", linestyle=":", linewidth=1.2, label="the data's own chunks")
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            axes.set_xlim(0.5, first.candidates + 0.5)
            axes.legend(frameon=False, fontsize=7.5)
        figure.suptitle(_seeds(online, "q"), fontsize=9)
    return figure


STUDIES: dict[str, tuple[str, Callable[[pd.DataFrame], Figure]]] = {
    "theory": ("theory_points.csv", draw_theory),
    "field": ("field.csv", draw_field),
    "normalisation": ("normalisation.csv", draw_normalisation),
    "candidates": ("candidates.csv", draw_candidates),
}
