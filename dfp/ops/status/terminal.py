"""The overview as text: tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group
from rich.table import Table
from rich.text import Text

from dfp.ops.status.overview import Overview
from dfp.ops.status.runs import STATES, RunState, State, counts, duration

COLORS: dict[State, str] = {
    "running": "cyan", "stalled": "yellow", "failed": "red", "waiting": "bright_black", "done": "green",
}  # fmt: skip
FOLDED: tuple[State, ...] = ("waiting", "done")  # counted, and listed with --all


def shown_runs(view: Overview, everything: bool) -> list[RunState]:
    """The runs that get a line, by state and then in the order of the run table."""
    states = STATES if everything else [state for state in STATES if state not in FOLDED]
    return [run for state in states for run in view.runs if run.state == state]


def hours(view: Overview) -> str:
    """One line: what is used and what is left."""
    left = "unknown until a run has made steps" if view.hours_left is None else f"about {view.hours_left:,.1f}"
    rest = (
        f", not counting {view.unknown} runs of kinds that have not begun"
        if view.unknown and view.hours_left is not None
        else ""
    )
    return f"{view.unit}: {view.hours_used:,.1f} used, lost work included; {left} left{rest}"


def speed(rate: float | None) -> str:
    """Steps per second in three digits; empty where unknown."""
    return "" if rate is None else f"{rate:.3g}/s"


def fields(run: RunState) -> tuple[str, ...]:
    """A run's cells: state, folder, step, speed, time left, host and job, attempts, note."""
    place = " ".join(part for part in (run.host, f"job {run.job}" if run.job else None) if part)
    return (
        run.state,
        run.planned.folder,
        f"{run.step:,}/{run.planned.total:,}",
        speed(run.rate),
        "" if run.eta_s is None else duration(run.eta_s),
        place,
        str(run.attempts or ""),
        run.note,
    )


COLUMNS = ("state", "run", "step", "speed", "left", "host", "attempts", "note")
NUMERIC = ("step", "speed", "left", "attempts")


def tables(view: Overview, everything: bool) -> Group:
    """The overview as tables, for a terminal."""
    summary = Table("needed by", *STATES, "all", title=f"{view.results_dir}  {view.made:%Y-%m-%d %H:%M:%SZ}")
    for column in summary.columns[1:]:
        column.justify = "right"
    for name, found in [*view.lines, ("all runs", counts(view.runs))]:
        cells = [Text(str(found[state] or "·"), COLORS[state] if found[state] else "bright_black") for state in STATES]
        last = (name, found) in view.lines[-1:]
        summary.add_row(name, *cells, str(sum(found.values())), end_section=last)
    parts: list[Table | Text] = [summary, Text(hours(view))]
    if listed := shown_runs(view, everything):
        runs = Table(*COLUMNS)
        for name in NUMERIC:
            column = runs.columns[COLUMNS.index(name)]
            column.justify, column.no_wrap = "right", True
        for run in listed:
            state, *rest = fields(run)
            runs.add_row(Text(state, COLORS[run.state]), *map(Text, rest))
        parts.append(runs)
    return Group(*parts)


def lines(view: Overview, everything: bool) -> Iterator[str]:
    """The overview as lines, for a pipe or a log: experiments, then runs, with tabs between the cells."""
    for name, found in [*view.lines, ("all runs", counts(view.runs))]:
        yield f"{name}: " + ", ".join(f"{found[state]} {state}" for state in STATES)
    yield hours(view)
    for run in shown_runs(view, everything):
        yield "\t".join(fields(run))
