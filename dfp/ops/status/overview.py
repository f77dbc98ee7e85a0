"""All runs together: counts per table and figure, and the time that is used and left."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple

from dfp.errors import DONE, FAILED_CHECK, UNFINISHED
from dfp.ops.status.runs import RunState, State, counts, run_states


class Line(NamedTuple):
    """A table or figure and how many of its runs, pretrainings among them, are in which state."""

    experiment: str
    counts: dict[State, int]


class Overview(NamedTuple):
    """Everything that ``status`` shows."""

    results_dir: Path
    made: datetime.datetime
    runs: list[RunState]
    lines: list[Line]
    hours_used: float  #: of all attempts, lost work included
    hours_left: float | None  #: none if nothing has run yet that could tell
    unknown: int  #: runs without an estimate, left out of hours_left
    unit: str  #: GPU-hours, CPU-hours, or hours of both


def overview(results_dir: Path) -> Overview:
    """Read every run folder. Raises :class:`dfp.spec.ConfigError` if there is no run table."""
    runs = run_states(results_dir)
    left = seconds_left(runs)
    known = [seconds for seconds in left if seconds is not None]
    return Overview(
        results_dir=results_dir,
        made=datetime.datetime.now(datetime.UTC),
        runs=runs,
        lines=experiment_lines(runs),
        hours_used=sum(run.spent_s for run in runs) / 3600.0,
        hours_left=sum(known) / 3600.0 if known else None,
        unknown=len(left) - len(known),
        unit=unit(runs),
    )


def experiment_lines(runs: list[RunState]) -> list[Line]:
    """Counts by experiment, in the order of ``runs.csv``. A run that two of them need is counted in both."""
    names = dict.fromkeys(name for run in runs for name in run.planned.experiments)
    return [Line(name, counts(run for run in runs if name in run.planned.experiments)) for name in names]


def unit(runs: list[RunState]) -> str:
    """The unit of the hours, by the devices of the runs that are done. A run counts as one device."""
    kinds = {"CPU" if run.device.startswith("cpu") else "GPU" for run in runs if run.device}
    return f"{kinds.pop()}-hours" if len(kinds) == 1 else "hours"


# From the most similar to the least: the runs from which seconds per step are taken.
_ALIKE: tuple[Callable[[RunState], Hashable], ...] = (
    lambda run: (run.planned.stage, run.planned.task, run.planned.methods),
    lambda run: (run.planned.stage, run.planned.methods),
    lambda run: (run.planned.stage, run.planned.task),
    lambda run: run.planned.stage,
)


def seconds_left(runs: list[RunState]) -> list[float | None]:
    """Seconds to the end of each run: at its own speed while it runs, else at that of runs like it; none if unknown."""
    speeds: list[dict[Hashable, list[float]]] = [{} for _ in _ALIKE]
    for run in runs:
        if (speed := seconds_per_step(run)) is not None:
            for alike, known in zip(_ALIKE, speeds, strict=True):
                known.setdefault(alike(run), []).append(speed)
    return [_left(run, speeds) for run in runs]


def _left(run: RunState, speeds: list[dict[Hashable, list[float]]]) -> float | None:
    if run.state == "done":
        return 0.0
    if run.eta_s is not None:
        return run.eta_s
    for alike, known in zip(_ALIKE, speeds, strict=True):
        if times := known.get(alike(run)):
            return max(0, run.planned.total - run.step) * statistics.mean(times)
    return None


def seconds_per_step(run: RunState) -> float | None:
    """Of a run that is done or running, lost work and evaluations included."""
    if run.state == "done":
        return run.spent_s / run.planned.total
    return 1.0 / run.rate if run.rate else None


def exit_status(runs: list[RunState]) -> int:
    """For scripts: 0 all done, 4 something failed or stalled, 75 the rest is running or waiting."""
    found = counts(runs)
    if found["failed"] or found["stalled"]:
        return FAILED_CHECK
    return DONE if found["done"] == len(runs) else UNFINISHED


def as_json(view: Overview) -> dict[str, Any]:
    """The overview for programs. Times are in seconds, ``hours_*`` in hours; a missing value is null."""
    return {
        "results_dir": str(view.results_dir),
        "made": view.made.isoformat(timespec="seconds"),
        "counts": counts(view.runs),
        "experiments": {line.experiment: line.counts for line in view.lines},
        "hours_used": round(view.hours_used, 3),
        "hours_left": None if view.hours_left is None else round(view.hours_left, 3),
        "runs_without_estimate": view.unknown,
        "unit": view.unit,
        "runs": [_run_json(run) for run in view.runs],
    }


def _run_json(run: RunState) -> dict[str, Any]:
    return {**run.planned._asdict(), **{name: value for name, value in run._asdict().items() if name != "planned"}}
