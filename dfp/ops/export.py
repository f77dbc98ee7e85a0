"""Finished and running runs for TensorBoard and Weights & Biases, and results for an archive.

The folder of a run is the original. An export is a copy of it, and a new export replaces the copy.
"""
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false
# (TensorBoard's messages are made at import; both packages are extras.)

from __future__ import annotations

import hashlib
import importlib
import itertools
import shutil
from pathlib import Path
from typing import NamedTuple

from dfp.files import naming
from dfp.ops.crate import write_crate
from dfp.ops.status.runs import Planned, planned_runs
from dfp.plan.foreign import refuse_foreign
from dfp.plan.run_table import read_runs
from dfp.runs.attempts import read_attempts
from dfp.runs.console import log
from dfp.runs.folder import read_evaluations
from dfp.runs.layout import VALUE_LOG
from dfp.runs.value_log import EVALUATED, read_values
from dfp.spec import ConfigError

TARGETS = ("tensorboard", "wandb", "rocrate")
PROJECT = "dfp-repro"


class Point(NamedTuple):
    """Values of one step."""

    step: int  #: counted from the start of the offline phase, in both phases
    time: float  #: seconds since 1970
    values: dict[str, float]


def export(to: str, results_dir: Path, out: Path | None) -> list[Path]:
    """Write every run that has begun, a folder per run; ``rocrate``: one crate of the runs that have finished.

    Returns the folders that were written.

    Raises:
      ConfigError: no such target, its package is not installed, there is no run table, or a folder holds a foreign run.
    """
    if to not in TARGETS:
        raise ConfigError(f"--to: '{to}'; allowed: {', '.join(TARGETS)}")
    try:
        importlib.import_module(to)
    except ImportError:
        raise ConfigError(f"--to {to}: package '{to}' is not installed; `uv sync --inexact --extra {to}`") from None
    place = out or results_dir / "export" / to
    if to == "rocrate":
        return [write_crate(results_dir, place)]
    write = {"tensorboard": write_tensorboard, "wandb": write_wandb}[to]
    refuse_foreign(results_dir, read_runs(results_dir))
    written = []
    for run in planned_runs(results_dir):
        if points := read_points(results_dir / run.folder):
            with naming(place / run.folder):  # neither package names the file that finds no room
                written.append(write(run, points, place))
            if not (results_dir / run.folder / VALUE_LOG).exists():
                log.warning("%s: no %s, an earlier version made the run: evaluations alone", run.folder, VALUE_LOG)
    if to == "wandb":
        importlib.import_module(to).teardown()  # its service may still be writing after the end of the last run
    return written


# --------------------------------------------------------------------------- reading


def read_points(folder: Path) -> list[Point]:
    """What a run has measured so far, by step: the rows of ``train.csv``.

    If an earlier version began the run, the evaluations that ``train.csv`` lacks come from ``metrics.csv``.
    """
    points: dict[int, Point] = {}
    for row in read_values(folder):
        point = points.setdefault(row.step, Point(row.step, row.time.timestamp(), {}))
        point.values[_tag(row.name)] = row.value
    attempts = read_attempts(folder)
    begun = attempts[0].started if attempts else 0.0
    for row in read_evaluations(folder):
        step = int(row["step"])
        point = points.setdefault(step, Point(step, begun + row["wall_s"], {}))
        for name in EVALUATED:
            point.values.setdefault(_tag(name), row[name])
    found = [points[step] for step in sorted(points)]
    starts = [one.started for one in attempts]
    for before, point in itertools.pairwise(found):
        if before.time < point.time and not any(before.time < start < point.time for start in starts):
            point.values["training/steps_per_s"] = (point.step - before.step) / (point.time - before.time)
    return found


def _tag(name: str) -> str:
    return f"{'evaluation' if name in EVALUATED else 'training'}/{name}"


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
