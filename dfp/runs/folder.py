"""The folder of one run: how far it is, and the files it ends with.

``metrics.csv`` and ``manifest.json`` appear when the run is finished, by rename. Until then ``progress.json`` has the
evaluations so far. :mod:`dfp.runs.layout` names all files.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from dfp.files import csv_rows, write_atomically
from dfp.runs import finished, numerics
from dfp.runs.attempts import AttemptLog, read_progress
from dfp.runs.layout import FINAL_STATE, MANIFEST, METRIC_TYPES, METRICS, PROGRESS, RUN, read_object
from dfp.spec import ConfigError, RunSpec, validate

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "mujoco", "ogbench", "dm_control", "gymnasium", "robosuite")


class Evaluation(NamedTuple):
    """Means over the episodes of one evaluation."""

    success_rate: float  #: in [0, 1]
    episodes: int
    return_mean: float  #: undiscounted
    length_mean: float  #: environment steps


class RunFolder:
    """Files of one run. Its clock counts the seconds of this and all earlier attempts."""

    def __init__(self, path: Path, spec: RunSpec) -> None:
        self.path = path
        self.spec = spec
        self.rows: list[dict[str, Any]] = []
        self.companions: set[int] = set()  # other seeds that were updated in one program with this run
        self.data_sha256: str | None = None  # of the data it is trained on
        self.code: dict[str, Any] = {}  # of this attempt: commit, versions, device
        self.earlier: list[dict[str, Any]] = []  # the same of earlier attempts, if it differs from this attempt's
        self.attempts = AttemptLog(path)
        self._earlier_s = 0.0
        self._started = time.monotonic()

    @property
    def wall_s(self) -> float:
        """Seconds spent on the run in all attempts, without work that was lost."""
        return self._earlier_s + time.monotonic() - self._started

    def start(self, command: list[str], device: str) -> None:
        """Write ``run.json``, the spec and the command, and start the clock of this attempt.

        Commit and versions are read now, because a checkout may change during a run of several days.
        """
        self._started = time.monotonic()
        self.code = {"versions": versions(), "git_commit": git_commit(), "device": device}
        self.earlier = [code for code in self.earlier if code != self.code]
        content = {"command": command, "spec": json.loads(self.spec.canonical())}
        write_atomically(self.path / RUN, json.dumps(content, indent=1) + "\n")

    def progress(self) -> dict[str, Any]:
        """What a checkpoint must keep of this object."""
        kept = {"rows": self.rows, "wall_s": self.wall_s, "data_sha256": self.data_sha256, "code": self.code}
        return kept | self._exceptions()

    def _exceptions(self) -> dict[str, Any]:
        """Settings that can change rounding, for the checkpoint and the manifest. Most runs have none."""
        found = {"companions": sorted(self.companions), "earlier": self.earlier}
        return {name: values for name, values in found.items() if values}

    def restore(self, progress: dict[str, Any]) -> None:
        """Continue from a checkpoint: drop the rows after it, which will be made again."""
        self.rows = list(progress["rows"])
        self._earlier_s = progress["wall_s"]
        self.companions = set(progress.get("companions", ()))
        # A checkpoint of an earlier version has neither.
        self.data_sha256 = progress.get("data_sha256")
        self.earlier = progress.get("earlier", []) + ([progress["code"]] if "code" in progress else [])

    def add_row(self, phase: str, step: int, result: Evaluation, env_steps: int) -> None:
        """Record one evaluation. ``step`` counts from the start of the offline phase, in both phases."""
        values = (phase, step, *result, round(self.wall_s, 3), env_steps)
        names = ("phase", "step", *Evaluation._fields, "wall_s", "env_steps")
        self.rows.append(dict(zip(names, values, strict=True)))

    def write_progress(self, step: int, total: int, rate: float) -> None:
        """Write ``progress.json``, for people and for partial tables. ``rate``: steps per second."""
        content = {
            "step": step,
            "total": total,
            "steps_per_s": round(rate, 3),
            "wall_s": round(self.wall_s, 1),
            "attempts": self.attempts.number,
            "digest": self.spec.digest(),
            "host": socket.gethostname(),
            "updated": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "metrics": self.rows,
        }
        write_atomically(self.path / PROGRESS, json.dumps(content, indent=1))

    def finish(self) -> None:
        """Write the manifest, then the metrics, which declare the run finished. Write the final state before."""
        metrics = csv_rows(list(METRIC_TYPES), self.rows)
        manifest = {
            "digest": self.spec.digest(),
            "spec": json.loads(self.spec.canonical()),
            "data_sha256": self.data_sha256,
            "environment": numerics.recorded(os.environ),
            **self.code,
            **self._exceptions(),
            "host": {"platform": platform.platform(), "cpus": os.cpu_count()},
            "wall_s": round(self.wall_s, 1),
            "spent_s": round(self.attempts.spent_s(), 1),
            "attempts": self.attempts.number,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "results": {
                FINAL_STATE: finished.describe((self.path / FINAL_STATE).read_bytes()),
                METRICS: finished.describe(metrics.encode()),
            },
        }
        write_atomically(self.path / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        write_atomically(self.path / METRICS, metrics)


def read_evaluations(folder: Path) -> list[dict[str, float]]:
    """The evaluations of a run so far, each as numbers by column, from ``metrics.csv`` or else ``progress.json``.

    Use it only to show a run, because a damaged row is left out.
    """
    if (folder / METRICS).is_file():
        with (folder / METRICS).open(newline="", encoding="utf-8-sig", errors="replace") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file.read().replace("\0", "").splitlines()))
    else:
        progress = read_progress(folder)
        rows = [] if progress is None else progress.metrics
    found = []
    for row in rows:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            found.append({name: float(row[name]) for name in METRIC_TYPES if name != "phase"})
    return found


def read_run(folder: Path) -> tuple[RunSpec, str]:
    """The spec of a run that was started in ``folder``, and the command that started its last attempt.

    Raises :class:`ConfigError` if no run was started there, or ``run.json`` is damaged or of another run.
    """
    content = read_object(folder / RUN)
    if not isinstance(content.get("spec"), dict) or not isinstance(content.get("command"), list):
        if not (folder / RUN).exists():
            raise ConfigError(f"{folder}: no run was started here ({RUN} is missing)")
        raise ConfigError(f"{folder / RUN}: damaged; run the same command again, which writes it anew")
    if (finished := _finished_spec(folder)) is not None and finished != content["spec"]:
        raise ConfigError(
            f"{folder / RUN}: not of the run that {MANIFEST} beside it records: it was copied, or a run with other "
            "settings began here and did not end; run the one that belongs here again"
        )
    return validate(RunSpec, content["spec"], str(folder / RUN)), shlex.join(map(str, content["command"]))


def read_spec(folder: Path) -> RunSpec:
    """The spec of the run in ``folder``: from the manifest of a finished run, else as :func:`read_run` returns it."""
    spec = _finished_spec(folder)
    return read_run(folder)[0] if spec is None else validate(RunSpec, spec, str(folder / MANIFEST))


def _finished_spec(folder: Path) -> dict[str, Any] | None:
    spec = read_object(folder / MANIFEST).get("spec")
    return spec if isinstance(spec, dict) else None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result; ``not installed`` if one is missing."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, with ``-dirty`` if it was changed; None outside git.

    The repository must track this file: an installed package may be in a virtual environment inside another repository.
    """
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*command: str) -> str:
    done = subprocess.run(
        ["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.strip()
