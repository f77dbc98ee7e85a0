"""``train.csv``: everything that training measures, a row per value: the terms of the losses and the evaluations.

Append-only. A restart cuts the rows that came after its checkpoint. They are made again, and only their time differs.
Apart from the times, the file is therefore a function of the spec: a term is the mean over the updates since the row
before, and the steps of the rows depend only on the length of the stage.
"""

from __future__ import annotations

import datetime
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dfp.errors import ConfigError, is_disk_full
from dfp.files import naming, write_atomically
from dfp.runs.layout import METRIC_TYPES, VALUE_LOG

HEADER = "step,phase,name,value,time\n"
PHASES = ("offline", "online")
EVALUATED = ("success_rate", "return_mean", "length_mean")  # rows of an evaluation; all others are terms of the losses
NAME = re.compile(r"[\w./-]+")  # of a term; an agent from elsewhere may name a group first, as in critic/q_mean
TAIL_BYTES = 4096  # more than the rows of one step

assert set(EVALUATED) < set(METRIC_TYPES)


class Value(NamedTuple):
    """One row."""

    step: int  #: counted from the start of the offline phase, in both phases
    phase: str  #: offline or online
    name: str
    value: float
    time: datetime.datetime  #: UTC, when the row was written


def interval(total: int) -> int:
    """Steps between two rows of a term, in a stage of ``total`` steps."""
    return max(1, min(1000, total // 50))


def require_names(names: Iterable[str], source: str) -> None:
    """Raises :class:`ConfigError` for the first name whose rows would look like damaged rows or like evaluations."""
    for name in names:
        if not NAME.fullmatch(name) or name in EVALUATED:
            raise ConfigError(
                f"{source}: a term cannot be called '{name}' in {VALUE_LOG}; allowed: letters, digits, _ . / and -, "
                f"but not {', '.join(EVALUATED)}"
            )


class ValueLog:
    """Writes the file of a run."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / VALUE_LOG
        self._size = 0  # bytes
        self._pending = ""

    def start(self, step: int) -> int:
        """Cut the rows after ``step`` and damaged lines; return the number of damaged lines.

        Raises ``OSError`` if the file is there but cannot be read; the file is then unchanged.
        """
        text, damaged = HEADER, 0
        for line in _lines(self._path):
            value = _parsed(line)
            damaged += value is None
            if value is not None and value.step <= step:
                text += f"{line}\n"
        write_atomically(self._path, text)
        self._size = len(text.encode())
        return damaged

    def add(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """Append a row per value. If the disk is full, the rows wait for the next call."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        self._pending += "".join(f"{step},{phase},{name},{float(value)!r},{now}\n" for name, value in values.items())
        content = self._pending.encode()
        try:
            with naming(self._path), self._path.open("ab", buffering=0) as file:
                written = file.write(content)
                os.fsync(file.fileno())
        except OSError as error:
            if not is_disk_full(error):
                raise
            written = 0
        if written < len(content):
            os.truncate(self._path, self._size)
        else:
            self._size, self._pending = self._size + len(content), ""


def read_values(folder: Path) -> list[Value]:
    """The rows of a run, in the order they were written; lines that are damaged or torn are skipped.

    Raises ``OSError`` if the file is there but cannot be read.
    """
    return [value for line in _lines(folder / VALUE_LOG) if (value := _parsed(line)) is not None]


def latest_values(folder: Path) -> dict[str, Value]:
    """The last row of each name among the last :data:`TAIL_BYTES` of the file; none if it cannot be read."""
    try:
        return {value.name: value for line in _lines(folder / VALUE_LOG, TAIL_BYTES) if (value := _parsed(line))}
    except OSError:
        return {}


def _lines(path: Path, tail: int | None = None) -> Iterator[str]:
    """The whole lines of the file, or of its last ``tail`` bytes, without the header; none if no file is there."""
    try:
        file = path.open("rb")
    except (FileNotFoundError, IsADirectoryError):
        return
    with file:
        first = 0 if tail is None else max(0, file.seek(0, os.SEEK_END) - tail)
        file.seek(first)
        lines = file.read().decode(errors="replace").split("\n")[:-1]
    for line in lines[1:] if first else lines:  # the first line of a tail may be torn
        if line and line != HEADER[:-1]:
            yield line


def _parsed(line: str) -> Value | None:
    try:
        step, phase, name, value, moment = line.split(",")
        row = Value(int(step), phase, name, float(value), datetime.datetime.fromisoformat(moment))
    except ValueError:
        return None
    whole = row.step >= 0 and phase in PHASES and NAME.fullmatch(name) is not None and math.isfinite(row.value)
    return row if whole and row.time.tzinfo is not None else None
