"""Finished and running runs for TensorBoard and Weights & Biases, on demand. Training never needs either.

A run's folder is the truth; what is exported is a copy of it, and exporting again replaces the copy.
"""
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false
# (TensorBoard's messages are made at import; both packages are extras.)

from __future__ import annotations

import csv
import datetime
import hashlib
import importlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dfp.attempts import read_attempts, read_progress
from dfp.spec import ConfigError
from dfp.status.runs import Planned, planned_runs

TARGETS = ("tensorboard", "wandb")
PROJECT = "dfp-repro"
EVALUATED = ("success_rate", "return_mean", "length_mean")
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (.*)")
_LOSSES = re.compile(r"step (\d+)/\d+  ([\d.]+) steps/s  (.*)")
_RESTART = re.compile(r"continues from step (\d+) ")


class Point(NamedTuple):
    """Values of one step."""

    step: int  # counted from the start of the offline phase, in both phases
    time: float  # seconds since 1970
    values: dict[str, float]


def export(to: str, results_dir: Path, out: Path | None) -> list[Path]:
    """Write every run that has begun; the folders that were written, one per run.

    Raises:
      ConfigError: no such target, its package is not installed, or there is no run table.
    """
    if to not in TARGETS:
        raise ConfigError(f"--to: '{to}'; allowed: {', '.join(TARGETS)}")
    try:
        importlib.import_module(to)
    except ImportError:
        raise ConfigError(f"--to {to}: package '{to}' is not installed; `uv sync --inexact --extra {to}`") from None
    write = {"tensorboard": write_tensorboard, "wandb": write_wandb}[to]
    place = out or results_dir / "export" / to
    runs = planned_runs(results_dir)
    ends = {run.folder: run.total for run in runs}
    written = []
    for run in runs:
        before = ends[run.after] if run.after else 0
        if points := read_points(results_dir / run.folder, before):
            written.append(write(run, points, place))
    return written


# --------------------------------------------------------------------------- reading


def read_points(folder: Path, before: int) -> list[Point]:
    """What a run has measured so far, by step: evaluations, and the terms that its log shows.

    Args:
      before: steps of the phase before this one; the log counts its own phase alone.
    """
    points = [*_evaluations(folder), *log_points(folder / "train.log", before)]
    return sorted(points, key=lambda point: (point.step, point.time))


def _evaluations(folder: Path) -> Iterator[Point]:
    """``metrics.csv``, or the rows so far. Their clock counts from the start of the first attempt, without breaks."""
    try:
        with (folder / "metrics.csv").open(newline="") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
    except FileNotFoundError:
        rows = read_progress(folder).get("metrics", [])
    attempts = read_attempts(folder)
    begun = attempts[0].started if attempts else 0.0
    for row in rows:
        values = {f"evaluation/{name}": float(row[name]) for name in EVALUATED}
        yield Point(int(row["step"]), begun + float(row["wall_s"]), values)


def log_points(log: Path, before: int) -> list[Point]:
    """The terms in ``train.log``. What came after a checkpoint that a later attempt continued from is cut."""
    points: list[Point] = []
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        if (stamped := _LINE.fullmatch(line)) is None:
            continue
        if restart := _RESTART.match(stamped[2]):
            points = [point for point in points if point.step <= before + int(restart[1])]
        elif found := _LOSSES.fullmatch(stamped[2]):
            at = datetime.datetime.strptime(stamped[1], "%Y-%m-%d %H:%M:%S").astimezone().timestamp()
            terms = dict(term.split(" ") for term in found[3].split("  ") if term)
            values = {f"training/{name}": float(value) for name, value in terms.items()}
            points.append(Point(before + int(found[1]), at, {**values, "training/steps_per_s": float(found[2])}))
    return points


# --------------------------------------------------------------------------- writing


def write_tensorboard(run: Planned, points: list[Point], out: Path) -> Path:
    """One event file in a folder named like the run's."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder = out / run.folder
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    writer = EventFileWriter(str(folder))
    for point in points:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
        writer.add_event(Event(step=point.step, wall_time=point.time, summary=Summary(value=values)))
    writer.close()
    return folder


def write_wandb(run: Planned, points: list[Point], out: Path) -> Path:
    """An offline run, to be sent with ``wandb sync``; its id is the run's place, so that sending again replaces it."""
    import wandb

    identity = hashlib.sha256(run.folder.encode()).hexdigest()[:8]
    out.mkdir(parents=True, exist_ok=True)
    for old in (out / "wandb").glob(f"offline-run-*-{identity}"):
        shutil.rmtree(old)
    settings = wandb.Settings(
        mode="offline", root_dir=str(out), console="off", silent=True, disable_git=True, save_code=False,
        x_disable_meta=True, x_disable_stats=True,
    )  # fmt: skip
    about = {"task": run.task, "methods": list(run.methods), "seed": run.seed, "stage": run.stage}
    offline = wandb.init(
        project=PROJECT, name=run.folder, id=identity, group=run.task, config=about, settings=settings,
        reinit="create_new",
    )  # fmt: skip
    offline.define_metric("*", step_metric="step")
    for point in points:
        offline.log({**point.values, "step": point.step})
    offline.finish()
    return Path(offline.dir).parent
