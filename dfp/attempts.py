"""``attempts.jsonl``: every attempt at a run, from which step to which, where, and how it ended.

Append-only, a line of JSON per event; all times are UTC. An attempt writes a ``start`` and an ``end``. One that was
killed writes no end: the next attempt does, with the last sign of life. Nothing here changes a result.
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
from typing import Any, NamedTuple

from dfp.exit_codes import CRASHED, DONE, KILLED, UNFINISHED, exit_code
from dfp.lease import this_process

ATTEMPTS = "attempts.jsonl"


class Attempt(NamedTuple):
    """One attempt. Times are seconds since 1970; what is not known (yet) is none."""

    number: int  # from 1
    host: str
    pid: int
    job: str | None  # SLURM's job id
    started: float
    from_step: int  # of the checkpoint it continued from, 0 without one
    ended: float | None = None
    code: int | None = None  # exit code
    reason: str | None = None  # finished | unfinished | failed: one line | killed
    step: int | None = None  # the last one that is known of
    peak_mb: int | None = None  # main memory at its peak, simulators included

    @property
    def failed(self) -> bool:
        """Whether it ended for a reason that an attempt of the same kind may meet again."""
        return self.reason is not None and self.reason.startswith("failed")


def read_attempts(folder: Path) -> list[Attempt]:
    """The attempts at the run in ``folder``, in order; none where there is no record.

    A line that is no JSON was torn by a full disk or a killed writer, and is skipped.
    """
    try:
        lines = (folder / ATTEMPTS).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    attempts: dict[int, Attempt] = {}
    for line in lines:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        number = event["attempt"]
        if event["event"] == "start":
            who = (event["host"], event["pid"], event["job"])
            attempts[number] = Attempt(number, *who, seconds_since_1970(event["time"]), event["step"])
        elif number in attempts:
            end = {name: event.get(name) for name in ("code", "reason", "step", "peak_mb")}
            attempts[number] = attempts[number]._replace(ended=seconds_since_1970(event["time"]), **end)
    return list(attempts.values())


class AttemptLog:
    """Writes the record of the attempt that holds the folder's lease. Made before anything is written there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last_sign = last_sign_of_life(folder)
        self._earlier: list[Attempt] = []
        self._started: float | None = None

    @property
    def number(self) -> int:
        """Which attempt this is, from 1."""
        return len(self._earlier) + 1

    def start(self, step: int) -> None:
        """Begin an attempt that continues from ``step``; close the one before it where it could not."""
        earlier = read_attempts(self._folder)
        if earlier and earlier[-1].reason is None:
            earlier[-1] = killed = close_killed(earlier[-1], read_progress(self._folder), self._last_sign, step)
            self._append(killed.number, "end", killed.ended, code=killed.code, reason=killed.reason, step=killed.step)
        self._earlier = earlier
        self._started = time.time()
        self._append(self.number, "start", self._started, **this_process(), step=step)

    def end(self, error: BaseException | None, step: int) -> None:
        """End it at ``step``, with the error that ended it or as finished."""
        if self._started is not None:
            code, reason = outcome(error)
            self._append(self.number, "end", time.time(), code=code, reason=reason, step=step, peak_mb=peak_mb())
            self._started = None

    def spent_s(self) -> float:
        """Seconds of all attempts so far, this one and lost work included."""
        now = time.time()
        return spent_s(self._earlier, now) + (0.0 if self._started is None else max(0.0, now - self._started))

    def _append(self, number: int, event: str, at: float | None, **content: Any) -> None:
        assert at is not None
        moment = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"attempt": number, "event": event, "time": moment, **content}) + "\n"
        with (self._folder / ATTEMPTS).open("a+b") as file:
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
    known = code is not None and str(error)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    return CRASHED if code is None else code, f"failed: {' '.join(text.split()).rstrip(':')}"


def peak_mb() -> int | None:
    """Main memory of this process and of its living children, each at its own peak, MB (10^6 bytes); none but on Linux.

    What they share counts for each, and their peaks need not meet, so together they never took more. Not
    getrusage, whose peak begins with that of the process that started this one.
    """
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    kib = sum(int(peak) for pid in pids for peak in re.findall(r"^VmHWM:\s+(\d+) kB$", _status(pid), re.MULTILINE))
    return round(kib * 1024 / 1e6) or None


def _status(pid: int | None) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:  # no such folder on this system, or the child has just ended
        return ""


def close_killed(attempt: Attempt, progress: dict[str, Any], last_sign: float, saved: int) -> Attempt:
    """A killed attempt as far as its traces tell.

    Args:
      progress: content of ``progress.json``; that of an earlier attempt tells nothing of this one.
      last_sign: its last sign of life, seconds since 1970.
      saved: step of the newest checkpoint.
    """
    reported = progress["step"] if progress.get("attempts") == attempt.number else 0
    ended, step = max(attempt.started, last_sign), max(attempt.from_step, saved, reported)
    return attempt._replace(ended=ended, code=KILLED, reason="killed", step=step)


def last_sign_of_life(folder: Path) -> float:
    """When a file of a run was last written, seconds since 1970: heartbeat, progress, log or checkpoint; 0 if none."""
    times = [0.0]
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process works here, and the lease will say so
                times.append(path.stat().st_mtime)
    return max(times)


def spent_s(attempts: list[Attempt], now: float) -> float:
    """Seconds of all attempts; one without an end goes on until ``now``."""
    return sum(max(0.0, (now if one.ended is None else one.ended) - one.started) for one in attempts)


def read_progress(folder: Path) -> dict[str, Any]:
    """Content of ``progress.json``; empty where there is none, or none that can be read."""
    try:
        content = json.loads((folder / "progress.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def seconds_since_1970(moment: str) -> float:
    """A time as run folders write it, ISO 8601 with its zone."""
    return datetime.datetime.fromisoformat(moment).timestamp()


def _ends_with_newline(descriptor: int, size: int) -> bool:
    return os.pread(descriptor, 1, size - 1) == b"\n"
