"""Collect the metrics of all run folders in one tidy table.

``runs.csv`` lists every run; each run's folder holds its own ``metrics.csv``. A row here is one evaluation of one
run. Success rates are fractions in [0, 1]; steps are counted over both phases, so online rows go on where the
offline ones end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from dfp.files import json_object, write_atomically
from dfp.plan.foreign import refuse_foreign
from dfp.plan.run_table import read_runs, read_strings, require, typed
from dfp.runs.layout import METRIC_TYPES, METRICS, PROGRESS
from dfp.spec import ConfigError

TIDY_TYPES = {"stage": "str", "task": "str", "method": "str", "seed": "int64", "run": "str"} | METRIC_TYPES


def collect(results_dir: Path, partial: bool = False) -> pd.DataFrame:
    """Every evaluation of every run, as :func:`evaluations` gives them."""
    return evaluations(results_dir, read_runs(results_dir), partial)


def evaluations(results_dir: Path, runs: pd.DataFrame, partial: bool) -> pd.DataFrame:
    """Every evaluation of ``runs``: per run its offline phase's rows, then, of a fine-tuning, its online rows.

    Columns: ``stage, task, method, seed, run``, then those of ``metrics.csv``. Runs that share a pretraining each
    repeat its rows. With ``partial``, a run without ``metrics.csv`` gives what its ``progress.json`` has so far, maybe
    nothing. Raises :class:`ConfigError` naming the file if a ``metrics.csv`` is missing (without ``partial``),
    malformed, or of another run than belongs in its folder (:func:`~dfp.plan.foreign.refuse_foreign`).
    """
    refuse_foreign(results_dir, runs)
    parts = [
        metrics.assign(**{name: run[name] for name in ("stage", "task", "method", "seed", "run")})
        for run in runs.drop_duplicates(["stage", "task", "method", "seed"]).to_dict("records")
        for metrics in _phases(results_dir, run, partial)
    ]
    if not parts:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in TIDY_TYPES.items()})
    return pd.concat(parts, ignore_index=True).reindex(columns=list(TIDY_TYPES))


def write_metrics(results_dir: Path, partial: bool = False) -> Path:
    """Write :func:`collect` to ``<results_dir>/metrics.csv`` and return its path."""
    return write_atomically(results_dir / METRICS, collect(results_dir, partial).to_csv(index=False))


def _phases(results_dir: Path, run: dict, partial: bool) -> Iterator[pd.DataFrame]:
    end = run["offline_steps"] + run["online_steps"]
    phases = [("offline", run["pretrained"], 0, run["offline_steps"])]
    if run["stage"] == "finetune":
        phases.append(("online", run["run"], run["offline_steps"], end))
    for phase, folder, before, last in phases:
        path = results_dir / folder / METRICS
        progress = path.with_name(PROGRESS)
        if path.exists() or not partial:
            metrics = _checked(read_strings(path), phase, before, last, path)
            # The file is written when a run has finished, so a missing last row means a damaged one.
            if metrics.empty or metrics.step.iloc[-1] != last:
                raise ConfigError(f"{path}: no evaluation at step {last}, where the {phase} phase ends")
            yield metrics
        elif progress.exists():
            yield _checked(_read_progress(progress), phase, before, last, progress)


def _checked(frame: pd.DataFrame, phase: str, before: int, last: int, path: Path) -> pd.DataFrame:
    """``frame`` as metrics of one phase, whose steps lie in (before, last]."""
    if list(frame.columns) != list(METRIC_TYPES):
        raise ConfigError(f"{path}: header is '{','.join(frame.columns)}', not '{','.join(METRIC_TYPES)}'")
    metrics = typed(frame, METRIC_TYPES, path)
    checks = (
        ("phase", metrics.phase == phase, f"'{phase}'"),
        *in_range(metrics),
        ("step", metrics.step.between(before + 1, last), f"between {before + 1} and {last}"),
        ("step", metrics.step.diff().fillna(1) > 0, "larger than the one before"),
    )
    return require(metrics, checks, path)


def in_range(metrics: pd.DataFrame) -> list[tuple[str, pd.Series, str]]:
    """The conditions on the numbers of every evaluation, for :func:`~dfp.plan.run_table.require`."""
    counts = ("episodes", "length_mean", "wall_s", "env_steps")
    return [
        ("success_rate", metrics.success_rate.between(0.0, 1.0), "a number in [0, 1]"),
        ("return_mean", np.isfinite(metrics.return_mean), "a finite number"),
        *((name, metrics[name].between(0, 1e12), "a number from 0") for name in counts),
    ]


def _read_progress(path: Path) -> pd.DataFrame:
    """The evaluations an unfinished run has made so far, every field a string, in the order of ``metrics.csv``."""
    header, content = list(METRIC_TYPES), json_object(path)
    try:
        rows = content.get("metrics", [])
        frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=pd.Index(header))
        return frame.reindex(columns=sorted(frame, key=header.index)).astype("str")
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: not a run's progress: {error}") from None
