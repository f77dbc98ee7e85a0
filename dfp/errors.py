"""The exit codes of ``dfp``, their meanings, and the base class of errors that have one."""

from __future__ import annotations

import errno
from typing import ClassVar

DONE = 0
CRASHED = 1  # Python's own, after a traceback
BAD_INPUT = 2
STOPPED = 3
FAILED_CHECK = 4
UNFINISHED = 75  # EX_TEMPFAIL: everything is saved, the same command continues
INTERRUPTED = 130  # 128 + SIGINT
KILLED = 137  # 128 + SIGKILL

MEANING: dict[int, str] = {
    DONE: "done",
    CRASHED: "a bug, or an error of a simulator: a traceback is in the job's log",
    BAD_INPUT: "bad input: configuration, data, checkpoint or folder; the message names it",
    STOPPED: "training had to stop: a value is not finite, the data has changed, or the device is missing or too slow",
    FAILED_CHECK: "a check failed",
    UNFINISHED: "the deadline came, another job asked for the run, or the disk was full: the same command continues",
    INTERRUPTED: "interrupted from the keyboard: the same command continues from the last checkpoint",
    KILLED: "killed: out of memory, cancelled, preempted, past the time limit, or the node failed",
}

# Replacements for system messages that are too short.
_IN_FULL = {
    errno.EEXIST: "a file is in the place of a folder; move it away, or choose another folder",
    errno.ENOTDIR: "a file is in the place of a folder of this path; move it away, or choose another folder",
    errno.EISDIR: "a folder is in the place of a file; move it away",
    errno.ENOSPC: "no space left on the disk; make room, then run the same command again",
    errno.EDQUOT: "the disk quota is used up; make room, then run the same command again",
    errno.EFBIG: "larger than a file may be here (`ulimit -f` says how large)",
    errno.EROFS: "the file system is read-only; choose another folder",
}


class DfpError(Exception):
    """An error whose text is one line for the user. The program ends with ``exit_code``."""

    exit_code: ClassVar[int] = BAD_INPUT


class ConfigError(DfpError):
    """Bad input."""


def exit_code(error: BaseException) -> int | None:
    """The exit code of an error that the user gets as one line; None for an error that needs its traceback."""
    if isinstance(error, DfpError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if is_disk_full(error):
        return UNFINISHED
    return BAD_INPUT if isinstance(error, OSError) and error.filename else None


def one_line(error: BaseException) -> str:
    """The text of an error in one line; for an error of a file, its path and what is wrong."""
    if isinstance(error, OSError) and error.strerror and (error.filename or is_disk_full(error)):
        return f"{error.filename2 or error.filename or 'output'}: {_IN_FULL.get(error.errno or 0, error.strerror)}"
    return " ".join(str(error).split())


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for lack of space or quota. Trying again may help once there is room."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
