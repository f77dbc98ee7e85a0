"""The logger ``dfp`` of a run. It writes to the run's ``train.log`` and to the terminal, with a progress bar."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

LINE_S = 30.0  # seconds between progress lines
BAR_S = 0.5

log = logging.getLogger("dfp")

_speaking: ContextVar[Path | None] = ContextVar("speaking", default=None)  # folder of the run that logs now


@contextlib.contextmanager
def lines_of(folder: Path) -> Iterator[None]:
    """Send the lines that are logged in this block to the console of one run only, of several in the process."""
    token = _speaking.set(folder)
    try:
        yield
    finally:
        _speaking.reset(token)


@contextlib.contextmanager
def lines_on_stderr() -> Iterator[None]:
    """Show the logger's lines on standard error, for a command that is not a run."""
    handler, level = logging.StreamHandler(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class Console:
    """The handlers of the logger during a run, and the run's progress. ``total``: steps of its stage."""

    def __init__(self, file: Path, title: str, total: int) -> None:
        self._file = file
        self._title = title
        self._total = total
        self._last: tuple[float, int] | None = None  # time and step of the last line
        self._handlers: list[logging.Handler] = []
        self._bar: Progress | None = None
        if sys.stderr.isatty() and _speaking.get() is None:  # bars of several runs would overwrite each other
            self._bar = Progress(
                TextColumn(f"{title} {{task.completed}}/{{task.total}}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=RichConsole(stderr=True),
                refresh_per_second=1 / BAR_S,
            )
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Console:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        stamped = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        stamped.converter = time.gmtime
        file = _LogFile(self._file)
        file.setFormatter(stamped)
        if self._bar is None:
            terminal = logging.StreamHandler()
            terminal.setFormatter(logging.Formatter(f"{self._title}: %(message)s"))
        else:
            self._bar.start()
            terminal = RichHandler(
                console=self._bar.console, show_time=False, show_level=False, show_path=False, markup=False
            )
            terminal.addFilter(lambda record: not getattr(record, "on_bar", False))
        self._handlers = [file, terminal]
        for handler in self._handlers:
            handler.addFilter(lambda _: _speaking.get() in (None, self._file.parent))
            log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False  # a library that gives the root logger a handler must not print every line again
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        for handler in self._handlers:
            log.removeHandler(handler)
            handler.close()
        log.propagate = not log.handlers

    def progress(self, step: int, terms: dict[str, float]) -> float | None:
        """Show the step and the terms. Returns the steps per second since the last line, when a line was due."""
        now = time.monotonic()
        if self._bar is not None:
            losses = " ".join(f"{name} {value:.3g}" for name, value in terms.items() if name.endswith("loss"))
            self._bar.update(self._task, completed=step, description=losses)
        if self._last is None:
            self._last = (now, step)
            return None
        elapsed = now - self._last[0]
        if elapsed < LINE_S and step < self._total:
            return None
        rate = (step - self._last[1]) / max(elapsed, 1e-9)
        self._last = (now, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in terms.items())
        left = _clock((self._total - step) / rate) if rate else "?"
        log.info("step %d/%d  %.1f steps/s  %s left  %s", step, self._total, rate, left, shown, extra={"on_bar": True})
        return rate


def _clock(seconds: float) -> str:
    """``1:02:03``, ``2:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _LogFile(logging.FileHandler):
    """A log file that ignores errors: a full disk must not stop training."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore the error."""

    def close(self) -> None:
        """Close the file, and ignore what could not be written."""
        with contextlib.suppress(OSError):
            super().close()


def table_console(highlight: bool = True) -> RichConsole:
    """A console for tables, at least 80 columns wide, because rich drops cells in a narrower one.

    A terminal with fewer columns wraps the lines.
    """
    console = RichConsole(highlight=highlight)
    console.width = max(console.width, 80 if console.is_terminal else 120)
    return console


def print_cases(lines: list[dict[str, Any]]) -> None:
    """Print rows with equal keys as a table, on a terminal only. Elsewhere they were printed before, for programs."""
    if not lines or not sys.stdout.isatty():
        return
    table = Table(*lines[0])
    for line in lines:
        table.add_row(*("" if value is None else str(value) for value in line.values()))
    table_console().print(table)
