"""``attempts.jsonl``: every attempt at a run, from which step to which, where, and how it ended.

Append-only, a line of JSON per event; all times are UTC. An attempt writes a ``start`` and an ``end``. A killed attempt
writes no end. The next attempt writes it, with the time of the last sign of life. Nothing here changes a result.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import multiprocessing
import os
import re
import time
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError

from dfp.errors import CRASHED, DONE, KILLED, MEANING, UNFINISHED, exit_code, one_line
from dfp.files import naming
from dfp.runs.layout import ATTEMPTS, PROGRESS, read_object
from dfp.runs.lease import this_process
from dfp.spec import NonNegativeInt, PositiveInt


class Attempt(NamedTuple):
    """One attempt. Times are seconds since 1970. A value that is not known, or not known yet, is None."""

    number: int  #: from 1
    host: str
    pid: int
    job: str | None  #: SLURM's job id
    started: float
    from_step: int  #: step of the checkpoint that the attempt continued from; 0 without a checkpoint
    ended: float | None = None
    code: int | None = None  #: exit code
    reason: str | None = None  #: ``finished``, ``unfinished``, ``killed`` or ``failed: <one line>``
    step: int | None = None  #: the last known step
    peak_mb: int | None = None  #: main memory at its peak, simulators included, MB (10^6 bytes)
    seconds: float | None = None  #: duration by a monotonic clock; None for a killed attempt

    @property
    def failed(self) -> bool:
        """Whether the attempt ended with an error, which the next attempt may meet again."""
        return self.reason is not None and self.reason.startswith("failed")


def read_attempts(folder: Path) -> list[Attempt]:
    """The attempts at the run in ``folder``, in order; none if there is no record.

    A line that is not an event is skipped: a full disk or a killed writer may have cut it.
    """
    try:
        lines = (folder / ATTEMPTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    attempts: dict[int, Attempt] = {}
    for line in lines:
        try:
            event = _EVENT.validate_json(line)
        except ValidationError:
            continue
        number = event.attempt
        if isinstance(event, _Start):
            started = event.time.timestamp()
            attempts[number] = Attempt(number, event.host, event.pid, event.job, started, event.step)
        elif number in attempts:
            end = event.model_dump(exclude={"attempt", "event", "time"})
            attempts[number] = attempts[number]._replace(ended=event.time.timestamp(), **end)
    return list(attempts.values())


class _Start(BaseModel):
    attempt: PositiveInt
    event: Literal["start"]
    time: AwareDatetime
    host: str
    pid: int
    job: str | None
    step: NonNegativeInt


class _End(BaseModel):
    attempt: PositiveInt
    event: Literal["end"]
    time: AwareDatetime
    code: Literal[tuple(MEANING)]  # pyright: ignore[reportInvalidTypeForm] the exit codes, which are spelt once
    reason: str
    step: NonNegativeInt
    peak_mb: NonNegativeInt | None = None
    seconds: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None


_EVENT: TypeAdapter[_Start | _End] = TypeAdapter(Annotated[_Start | _End, Field(discriminator="event")])


class AttemptLog:
    """Writes the record of the attempt that holds the folder's lease.

    Make it before this attempt writes to the folder, because it first looks for the last write of the attempt before.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last_sign = last_sign_of_life(folder)
        self._earlier: list[Attempt] = []
        self._started: float | None = None  # seconds since 1970
        self._clock = 0.0  # time.monotonic() at the start, because the system's clock may be set

    @property
    def number(self) -> int:
        """Which attempt this is, from 1."""
        return len(self._earlier) + 1

    def start(self, step: int) -> None:
        """Begin an attempt that continues from ``step``. If the attempt before was killed, write its end first."""
        earlier = read_attempts(self._folder)
        if earlier and earlier[-1].reason is None:
            earlier[-1] = killed = close_killed(earlier[-1], read_progress(self._folder), self._last_sign, step)
            self._append(killed.number, "end", killed.ended, code=killed.code, reason=killed.reason, step=killed.step)
        self._earlier = earlier
        self._started, self._clock = time.time(), time.monotonic()
        self._append(self.number, "start", self._started, **this_process(), step=step)

    def end(self, error: BaseException | None, step: int) -> None:
        """End the attempt at ``step``: with ``error``, or as finished if there is none."""
        if self._started is not None:
            code, reason = outcome(error)
            how = {"code": code, "reason": reason, "step": step, "peak_mb": peak_mb(), "seconds": self._seconds()}
            self._append(self.number, "end", time.time(), **how)
            self._started = None

    def spent_s(self) -> float:
        """Seconds of all attempts so far, this one and lost work included."""
        return spent_s(self._earlier, time.time()) + (0.0 if self._started is None else self._seconds())

    def _seconds(self) -> float:
        return round(time.monotonic() - self._clock, 3)

    def _append(self, number: int, event: str, at: float | None, **content: Any) -> None:
        assert at is not None
        moment = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"attempt": number, "event": event, "time": moment, **content}) + "\n"
        path = self._folder / ATTEMPTS
        with naming(path), path.open("a+b") as file:
            if file.tell() and not _ends_with_newline(file.fileno(), file.tell()):
                line = "\n" + line  # after a torn line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def outcome(error: BaseException | None) -> tuple[int, str]:
    """Exit code and reason of an attempt that ended with ``error``, or without one."""
    if error is None:
        return DONE, "finished"
    code = exit_code(error)
    if code == UNFINISHED:
        return code, "unfinished"
    text = one_line(error)
    if code is None or not text:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return CRASHED if code is None else code, f"failed: {text}"


def peak_mb() -> int | None:
    """Main memory of this process and its living children, MB (10^6 bytes); None on systems other than Linux.

    This is the sum of the peaks of the processes. It is an upper bound of their common peak: shared memory is counted
    once per process, and the peaks may be at different times. getrusage is not used, because its peak includes that of
    the process that started this one.
    """
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    kib = sum(int(peak) for pid in pids for peak in re.findall(r"^VmHWM:\s+(\d+) kB$", _status(pid), re.MULTILINE))
    return round(kib * 1024 / 1e6) or None


def _status(pid: int | None) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:  # no such folder on this system, or the child has just ended
        return ""


def close_killed(attempt: Attempt, progress: Progress | None, last_sign: float, saved: int) -> Attempt:
    """``attempt`` with the end that the files of the run show.

    Args:
      progress: content of ``progress.json``; ignored if an earlier attempt wrote it.
      last_sign: the attempt's last sign of life, seconds since 1970.
      saved: step of the newest checkpoint.
    """
    reported = progress.step if progress is not None and progress.attempts == attempt.number else 0
    ended, step = max(attempt.started, last_sign), max(attempt.from_step, saved, reported)
    return attempt._replace(ended=ended, code=KILLED, reason="killed", step=step)


def last_sign_of_life(folder: Path) -> float:
    """When a file in ``folder`` was last written, seconds since 1970; 0 if there is no file."""
    times = [0.0]
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):  # another process that works here may have deleted the file
                times.append(path.stat().st_mtime)
    return max(times)


def spent_s(attempts: list[Attempt], now: float) -> float:
    """Seconds of all attempts. An attempt without an end counts until ``now``."""
    return sum(
        max(0.0, (now if one.ended is None else one.ended) - one.started) if one.seconds is None else one.seconds
        for one in attempts
    )


class Progress(BaseModel):
    """The part of ``progress.json`` that is read again."""

    step: NonNegativeInt
    total: PositiveInt  #: steps that the attempt was started for
    attempts: PositiveInt  #: number of the attempt that wrote it
    updated: AwareDatetime
    metrics: list[dict[str, Any]] = []  #: evaluations so far


def read_progress(folder: Path) -> Progress | None:
    """Content of ``progress.json``; None if there is none, or none that can be read."""
    try:
        return Progress.model_validate(read_object(folder / PROGRESS))
    except ValidationError:
        return None


def _ends_with_newline(descriptor: int, size: int) -> bool:
    return os.pread(descriptor, 1, size - 1) == b"\n"
