"""What a run shows: a progress bar on a terminal, plain lines elsewhere, and always plain lines in its log file."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from dfp.files import is_disk_full

LINE_S = 30.0  # seconds between progress lines
BAR_S = 0.5


class Console:
    """One run's output. ``total``: steps of its stage."""

    def __init__(self, log: Path, title: str, total: int) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._file = log.open("a")
        self._total = total
        self._bar: Progress | None = None
        self._last: tuple[float, int] | None = None  # time and step of the last line
        if sys.stderr.isatty():
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
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        with _unless_full():
            self._file.close()

    def line(self, text: str) -> None:
        """One line, with a time stamp."""
        stamped = f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {text}"
        with _unless_full():
            print(stamped, file=self._file, flush=True)
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(stamped, file=sys.stderr, flush=True)

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
        text = f"step {step}/{self._total}  {rate:.1f} steps/s  {shown}"
        if self._bar is None:
            self.line(text)
        else:
            with _unless_full():
                print(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {text}", file=self._file, flush=True)
        return rate


@contextlib.contextmanager
def _unless_full() -> Iterator[None]:
    """A log that cannot be written is no reason to stop training."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise


def print_cases(lines: list[dict[str, Any]]) -> None:
    """Rows with equal keys as a table, on a terminal only: elsewhere they were printed already, for programs."""
    if not lines or not sys.stdout.isatty():
        return
    table = Table(*lines[0])
    for line in lines:
        table.add_row(*("" if value is None else str(value) for value in line.values()))
    RichConsole().print(table)
