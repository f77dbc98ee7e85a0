"""The exit codes of ``python -m dfp``, in one place: what they are, which error gives which, what they mean."""

from dfp.files import is_disk_full

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
    STOPPED: "training had to stop: a loss was not finite, or there was no GPU",
    FAILED_CHECK: "a check failed",
    UNFINISHED: "the deadline came, another job asked for the run, or the disk was full: the same command continues",
    INTERRUPTED: "interrupted from the keyboard: the same command continues from the last checkpoint",
    KILLED: "killed: out of memory, cancelled, preempted, past the time limit, or the node failed",
}

# By name: importing the classes would load JAX for every command.
_OF_ERROR = {
    "ConfigError": BAD_INPUT,
    "DataError": BAD_INPUT,
    "CheckpointError": BAD_INPUT,
    "RunFolderError": BAD_INPUT,
    "TrainingError": STOPPED,
    "Unfinished": UNFINISHED,
    "KeyboardInterrupt": INTERRUPTED,
}


def exit_code(error: BaseException) -> int | None:
    """The code of an error that is one of ours, or a full disk; none for any other."""
    if is_disk_full(error):
        return UNFINISHED
    return _OF_ERROR.get(type(error).__name__)
