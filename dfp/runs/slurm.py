"""Ask SLURM's commands and parse what they print. Parsing is separate, so that it can be tested."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence

ASK_S = 30.0  # seconds to wait for an answer, so that a controller that is down does not hold up a report
# What is left of an allocation for the last block of work, the checkpoint and the shutdown: so many seconds, but at
# most this share of a short allocation.
SLURM_MARGIN_S = 180.0
SLURM_MARGIN = 0.2

Ask = Callable[[Sequence[str]], str | None]  # a command's output; none if it is missing or fails


def ask(command: Sequence[str]) -> str | None:
    """Standard output of one of SLURM's commands; none if it is not on the PATH, fails or does not answer."""
    if shutil.which(command[0]) is None:
        return None
    try:
        environment = os.environ | {"SLURM_TIME_FORMAT": "standard"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=ASK_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def parse_config(text: str) -> dict[str, str]:
    """``scontrol show config``: its lines ``Key = value``, without headings."""
    found = {}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if separator and re.fullmatch(r"[A-Za-z_]\w*\s*", key):
            found.setdefault(key.strip(), value.strip())
    return found


def parse_records(text: str) -> list[dict[str, str]]:
    """``scontrol --oneliner show ...``: a record per line, ``Key=value`` with blanks between, values without any."""
    return [dict(re.findall(r"(\w[\w:/]*)=(\S*)", line)) for line in text.splitlines() if "=" in line]


def parse_table(text: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Output of ``--parsable2 --noheader``: cells separated by ``|``, one row per line."""
    rows = [line.split("|") for line in text.splitlines() if line.strip()]
    return [dict(zip(columns, row, strict=True)) for row in rows if len(row) == len(columns)]


def minutes(text: str) -> float:
    """A time limit in minutes, from any of SLURM's forms; ``UNLIMITED`` is infinite.

    The forms are ``minutes``, ``minutes:seconds``, ``hours:minutes:seconds`` and ``days-hours[:minutes[:seconds]]``.
    Raises ``ValueError`` for any other text.
    """
    if text.upper() in ("UNLIMITED", "INFINITE", "NONE"):
        return float("inf")
    days, dash, clock = text.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
        hours, mins, secs = parts + [0] * (3 - len(parts)) if dash or len(parts) == 3 else [0, *parts, 0][:3]
        return int(days or 0) * 24 * 60 + hours * 60 + mins + secs / 60
    except ValueError:
        raise ValueError(f"'{text}' is not a time limit of SLURM's") from None


def seconds(text: str) -> float:
    """Seconds of a duration in ``scontrol show config``, such as ``300 sec``; ``ValueError`` for any other text."""
    match = re.match(r"(\d+)", text)
    if match is None:
        raise ValueError(f"'{text}' is not a number of seconds")
    return float(match[1])


JOB_COLUMNS = ("JobID", "State", "ExitCode", "Elapsed", "NodeList")


def jobs(ids: Sequence[str], query: Ask = ask) -> list[dict[str, str]]:
    """What SLURM still knows of these jobs, from its accounting or, without accounting, from the controller.

    Returns rows with :data:`JOB_COLUMNS`. A job that SLURM does not know has no row.
    """
    if not ids:
        return []
    columns = ",".join(JOB_COLUMNS)
    answer = query(("sacct", "-X", "-n", "-P", "-D", "-j", ",".join(ids), "-o", columns))
    if answer and (rows := parse_table(answer, JOB_COLUMNS)):
        return rows
    rows = []
    for job in ids:
        for record in parse_records(query(("scontrol", "--oneliner", "show", "job", job)) or ""):
            names = ("JobId", "JobState", "ExitCode", "RunTime", "NodeList")
            rows.append({column: record.get(name, "") for column, name in zip(JOB_COLUMNS, names, strict=True)})
    return rows


def deadline(minutes: float | None) -> float | None:
    """When a run must be saved: at the given limit or shortly before the SLURM allocation ends, whichever is first.

    The result is a value of ``time.monotonic`` in seconds, so that setting the system's clock does not move it. It is
    None without a limit.
    """
    limits = [] if minutes is None else [60.0 * minutes]
    if (allocation := slurm_allocation()) is not None:
        start, end = allocation
        limits.append(end - min(SLURM_MARGIN_S, SLURM_MARGIN * (end - start)) - time.time())
    return time.monotonic() + min(limits) if limits else None


def slurm_allocation() -> tuple[float, float] | None:
    """Start and end of this SLURM job, seconds since 1970; None outside SLURM or without a time limit."""
    job = os.environ.get("SLURM_JOB_ID")
    start, end = (os.environ.get(f"SLURM_JOB_{name}_TIME", "") for name in ("START", "END"))
    if job is None or (start.isdigit() and end.isdigit()):
        return (float(start), float(end)) if start.isdigit() and end.isdigit() else None
    # Before version 22.05.6 SLURM does not set them.
    answer = ask(("squeue", "--noheader", f"--jobs={job}", "--format=%S %e")) or ""
    try:
        start_s, end_s = (datetime.datetime.fromisoformat(text).timestamp() for text in answer.split())
    except ValueError:  # no answer, or "NONE": no limit
        return None
    return start_s, end_s
