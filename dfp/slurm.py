"""What SLURM says, as text in and plain values out. Asking is apart from reading, so that reading can be tested."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence

ASK_S = 30.0  # a controller that does not answer must not hold up a report

Ask = Callable[[Sequence[str]], str | None]  # a command's output; none where it is missing or fails


def ask(command: Sequence[str]) -> str | None:
    """Standard output of one of SLURM's commands; none where it is not on the PATH, fails or does not answer."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, check=True)
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
    """A time limit as SLURM writes it, ``[days-]hours:minutes:seconds``, in minutes; ``UNLIMITED`` is infinite.

    Raises ``ValueError`` where it is none.
    """
    if text.upper() in ("UNLIMITED", "INFINITE", "NONE"):
        return float("inf")
    days, dash, clock = text.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
        hours, mins, secs = parts + [0] * (3 - len(parts)) if dash or len(parts) == 3 else [0, *parts, 0][:3]
        return int(days or 0) * 24 * 60 + hours * 60 + mins + secs / 60
    except ValueError:
        raise ValueError(f"'{text}' is no time limit of SLURM's") from None


def seconds(text: str) -> float:
    """A duration of ``scontrol show config``, ``300 sec``; ``ValueError`` where it is none."""
    match = re.match(r"(\d+)", text)
    if match is None:
        raise ValueError(f"'{text}' is no number of seconds")
    return float(match[1])


JOB_COLUMNS = ("JobID", "State", "ExitCode", "Elapsed", "NodeList")


def jobs(ids: Sequence[str], query: Ask = ask) -> list[dict[str, str]]:
    """What SLURM still knows of these jobs: its accounting, or where there is none the controller's memory.

    Rows with :data:`JOB_COLUMNS`; a job that neither knows has none.
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
