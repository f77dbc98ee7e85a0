"""The files of a run's folder: their names, the columns of the metrics, and a reader of JSON that may be damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dfp.errors import ConfigError, DfpError
from dfp.files import json_object

RUN = "run.json"  # from the first moment on
CHECKPOINTS = ("checkpoint-0.npz", "checkpoint-1.npz")
ONLINE_ROWS = "online_rows.bin"
PROGRESS = "progress.json"
ATTEMPTS = "attempts.jsonl"
LEASE = "lease.json"
CLAIM = "claim.json"
TEXT_LOG = "train.log"
VALUE_LOG = "train.csv"
FINAL_STATE = "agent.npz"
METRICS = "metrics.csv"
MANIFEST = "manifest.json"  # of a finished run
RECORD = "finished"  # a folder: the results under a second name
ORIGIN = "start.json"  # in the record: what the run started from

FILES = (
    RUN, *CHECKPOINTS, ONLINE_ROWS, PROGRESS, ATTEMPTS, LEASE, CLAIM, TEXT_LOG, VALUE_LOG, FINAL_STATE, METRICS,
    MANIFEST,
)  # fmt: skip

METRIC_TYPES = {
    "phase": "str",
    "step": "int64",
    "success_rate": "float64",
    "episodes": "int64",
    "return_mean": "float64",
    "length_mean": "float64",
    "wall_s": "float64",
    "env_steps": "int64",
}


class RunFolderError(DfpError):
    """The folder cannot be used, in one line."""


def require_files(folder: Path) -> None:
    """Raises :class:`RunFolderError` if a file is in the place of a folder of the run, or the other way round."""
    for path in (*folder.parents[::-1], folder, folder / RECORD):
        if path.exists() and not path.is_dir():
            raise RunFolderError(
                f"{path}: a file is in the place of a folder; move it away, or choose another --run-dir"
            )
    for name in FILES:
        if (folder / name).is_dir():
            raise RunFolderError(f"{folder / name}: a folder is in the place of a file; move it away and run it again")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if the file is missing, damaged or no object."""
    try:
        return json_object(path)
    except (OSError, ConfigError):
        return {}
