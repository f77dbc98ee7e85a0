"""The folder of one run: how far it is, and the files it ends with.

``metrics.csv`` and ``manifest.json`` appear when the run is finished, by rename; until then ``progress.json`` holds the
rows so far. Checkpoints and ``train.log`` are the run's own business.
"""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import io
import json
import os
import platform
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from dfp.files import write_atomically
from dfp.rollout import Evaluation
from dfp.spec import RunSpec

METRICS_HEADER: tuple[str, ...] = (
    "phase", "step", "success_rate", "episodes", "return_mean", "length_mean", "wall_s", "env_steps",
)  # fmt: skip
RUN = "run.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "mujoco", "ogbench", "dm_control", "gymnasium", "robosuite")


class RunFolder:
    """Files of one run. ``clock`` seconds are those of this and all earlier attempts."""

    def __init__(self, path: Path, spec: RunSpec) -> None:
        self.path = path
        self.spec = spec
        self.rows: list[dict[str, Any]] = []
        self.attempts = 1
        self._earlier_s = 0.0
        self._started = time.monotonic()

    @property
    def wall_s(self) -> float:
        """Seconds spent on the run, restarts included, lost work not."""
        return self._earlier_s + time.monotonic() - self._started

    def start(self, command: list[str]) -> None:
        """``run.json``: what is being run here and by which command, from the first moment on."""
        content = {"command": command, "spec": json.loads(self.spec.canonical())}
        write_atomically(self.path / RUN, json.dumps(content, indent=1) + "\n")

    def finished(self) -> bool:
        """Whether the folder holds the results of exactly this spec."""
        try:
            manifest = json.loads((self.path / "manifest.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        return manifest.get("digest") == self.spec.digest() and (self.path / "metrics.csv").exists()

    def progress(self) -> dict[str, Any]:
        """What a checkpoint must keep of this object."""
        return {"rows": self.rows, "wall_s": self.wall_s, "attempts": self.attempts}

    def restore(self, progress: dict[str, Any]) -> None:
        """Continue from a checkpoint: rows after it are forgotten, they will be made again."""
        self.rows = list(progress["rows"])
        self._earlier_s = progress["wall_s"]
        self.attempts = progress["attempts"] + 1
        self._started = time.monotonic()

    def add_row(self, phase: str, step: int, result: Evaluation, env_steps: int) -> None:
        """Record one evaluation. ``step`` counts from the start of the offline phase, in both phases."""
        values = (phase, step, *result, round(self.wall_s, 3), env_steps)
        names = ("phase", "step", *Evaluation._fields, "wall_s", "env_steps")
        self.rows.append(dict(zip(names, values, strict=True)))

    def write_progress(self, step: int, total: int, rate: float) -> None:
        """``progress.json``: how far the run is, for people and for partial tables."""
        content = {
            "step": step,
            "total": total,
            "steps_per_s": round(rate, 3),
            "wall_s": round(self.wall_s, 1),
            "attempts": self.attempts,
            "digest": self.spec.digest(),
            "host": socket.gethostname(),
            "updated": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "metrics": self.rows,
        }
        write_atomically(self.path / "progress.json", json.dumps(content, indent=1))

    def finish(self, device: str) -> None:
        """Write the manifest, then the metrics that declare the run finished."""
        manifest = {
            "digest": self.spec.digest(),
            "spec": json.loads(self.spec.canonical()),
            "versions": versions(),
            "git_commit": git_commit(),
            "device": device,
            "host": {"platform": platform.platform(), "cpus": os.cpu_count()},
            "wall_s": round(self.wall_s, 1),
            "attempts": self.attempts,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        write_atomically(self.path / "manifest.json", json.dumps(manifest, indent=1) + "\n")
        text = io.StringIO()
        writer = csv.DictWriter(text, METRICS_HEADER, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path / "metrics.csv", text.getvalue())


def versions() -> dict[str, str]:
    """Versions of what can change a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, with ``-dirty`` where it was changed; none outside git."""
    folder = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
