"""How ``dfp`` ends: the exit codes, what each means, and the base of the errors that carry one."""

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
KILLED = 137  # 128 + SIGKILL: nobody was left to say it

MEANING: dict[int, str] = {
    DONE: "done",
    CRASHED: "an error that is nobody's input: a traceback is in the job's log",
    BAD_INPUT: "bad input: configuration, data, checkpoint or folder; the message names it",
    STOPPED: "training had to stop: a number was not finite, or there was no GPU",
    FAILED_CHECK: "a check failed",
    UNFINISHED: "the deadline came, another job asked for the run, or the disk was full: the same command continues",
    INTERRUPTED: "interrupted from the keyboard: the same command continues from the last checkpoint",
    KILLED: "killed: out of memory, cancelled, preempted, past the time limit, or the node failed",
}

# What the system says of a path in too few words.
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
    """Bad input: one line that names the thing, where it is and what is allowed."""


def exit_code(error: BaseException) -> int | None:
    """The exit code of an error that is one line for the user; None for an error that needs its traceback."""
    if isinstance(error, DfpError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if is_disk_full(error):
        return UNFINISHED
    return BAD_INPUT if isinstance(error, OSError) and error.filename else None


def one_line(error: BaseException) -> str:
    """The text of an error in one line: of a file's, its path and what is wrong with it."""
    if isinstance(error, OSError) and error.strerror and (error.filename or is_disk_full(error)):
        return f"{error.filename2 or error.filename or 'output'}: {_IN_FULL.get(error.errno or 0, error.strerror)}"
    return " ".join(str(error).split())


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of space or quota: somebody may make room, so that trying again can help."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
