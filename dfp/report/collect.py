"""Run folders in, one tidy table out.

``runs.csv`` lists every run; each run's folder holds its own ``metrics.csv``. A row here is one evaluation of one
run. Success rates are fractions in [0, 1]; steps are counted over both phases, so online rows go on where the
offline ones end.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from dfp.files import write_atomically
from dfp.spec import ConfigError

RUN_TYPES = {
    "experiment": "str",
    "title": "str",
    "stage": "str",
    "task": "str",
    "group": "str",
    "column": "str",
    "task_title": "str",
    "method": "str",
    "label": "str",
    "backbone": "str",
    "top_k": "str",
    "color": "str",
    "seed": "int64",
    "run": "str",
    "pretrained": "str",
    "offline_steps": "int64",
    "online_steps": "int64",
}
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
TIDY_TYPES = {"stage": "str", "task": "str", "method": "str", "seed": "int64", "run": "str"} | METRIC_TYPES


def read_runs(results_dir: Path) -> pd.DataFrame:
    """The run table, one row per experiment, task, method and seed, in the order of the tables.

    Columns: those of :data:`RUN_TYPES`. Raises :class:`ConfigError` where ``runs.csv`` is missing or malformed, or
    lists a cell's seed twice.
    """
    path = results_dir / "runs.csv"
    runs = read_table(path, RUN_TYPES)
    twice = runs[runs.duplicated(["experiment", "task", "method", "seed"])]
    if len(twice):
        row = twice.iloc[0]
        raise ConfigError(f"{path}: {row.experiment}, {row.task}, {row.method}, seed {row.seed} is listed twice")
    return runs


def read_table(path: Path, types: dict[str, str]) -> pd.DataFrame:
    """A CSV file with at least the columns of ``types``; :class:`ConfigError` where it is missing or malformed."""
    strings = _read_strings(path)
    absent = [name for name in types if name not in strings]
    if absent:
        raise ConfigError(f"{path}: column '{absent[0]}' is missing; needed: {', '.join(types)}")
    return _typed(strings.reindex(columns=list(types)), types, path)


def experiment_runs(results_dir: Path, experiment: str) -> pd.DataFrame:
    """The rows of :func:`read_runs` that belong to one table or figure; :class:`ConfigError` where none do."""
    runs = read_runs(results_dir)
    if experiment not in set(runs.experiment):
        listed = ", ".join(runs.experiment.unique()) or "none"
        raise ConfigError(f"{results_dir / 'runs.csv'}: no experiment '{experiment}'; listed: {listed}")
    return runs.loc[runs.experiment == experiment]


def collect(results_dir: Path, partial: bool = False) -> pd.DataFrame:
    """Every evaluation of every run, as :func:`evaluations` gives them."""
    return evaluations(results_dir, read_runs(results_dir), partial)


def evaluations(results_dir: Path, runs: pd.DataFrame, partial: bool) -> pd.DataFrame:
    """Every evaluation of ``runs``: per run its offline phase's rows, then, of a fine-tuning, its online rows.

    Columns: ``stage, task, method, seed, run``, then those of ``metrics.csv``. Runs that share a pretraining each
    repeat its rows. With ``partial``, a run without ``metrics.csv`` gives what its ``progress.json`` has so far, maybe
    nothing. Raises :class:`ConfigError` naming the file where a ``metrics.csv`` is missing (without ``partial``) or
    malformed (always).
    """
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
    return write_atomically(results_dir / "metrics.csv", collect(results_dir, partial).to_csv(index=False))


def _phases(results_dir: Path, run: dict, partial: bool) -> Iterator[pd.DataFrame]:
    end = run["offline_steps"] + run["online_steps"]
    phases = [("offline", run["pretrained"], 0, run["offline_steps"])]
    if run["stage"] == "finetune":
        phases.append(("online", run["run"], run["offline_steps"], end))
    for phase, folder, before, last in phases:
        path = results_dir / folder / "metrics.csv"
        progress = path.with_name("progress.json")
        if path.exists() or not partial:
            metrics = _checked(_read_strings(path), phase, before, last, path)
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
    metrics = _typed(frame, METRIC_TYPES, path)
    for name, valid, allowed in (
        ("phase", metrics.phase == phase, f"'{phase}'"),
        ("success_rate", metrics.success_rate.between(0.0, 1.0), "a number in [0, 1]"),
        ("step", metrics.step.between(before + 1, last), f"between {before + 1} and {last}"),
        ("step", metrics.step.diff().fillna(1) > 0, "larger than the one before"),
    ):
        if not valid.all():
            row = int(valid.argmin())
            raise ConfigError(f"{path}: row {row + 1}: {name} is {metrics[name].iloc[row]}; allowed: {allowed}")
    return metrics


def _read_strings(path: Path) -> pd.DataFrame:
    """A CSV file as it stands, every field a string.

    `pandas.read_csv` shifts columns where a row is too long and fills where one is too short; both are damage here.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file, strict=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (ValueError, csv.Error) as error:
        raise ConfigError(f"{path}: not a CSV table with a header: {error}") from None
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ConfigError(f"{path}: row {number} has {len(row)} fields, the header {len(header)}")
    return pd.DataFrame(rows, columns=pd.Index(header), dtype="str")


def _read_progress(path: Path) -> pd.DataFrame:
    """The evaluations an unfinished run has made so far, every field a string, in the order of ``metrics.csv``."""
    header = list(METRIC_TYPES)
    try:
        rows = json.loads(path.read_text(encoding="utf-8")).get("metrics", [])
        frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=pd.Index(header))
        return frame.reindex(columns=sorted(frame, key=header.index)).astype("str")
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: not a run's progress: {error}") from None


def _typed(frame: pd.DataFrame, types: dict[str, str], path: Path) -> pd.DataFrame:
    try:
        return frame.astype(types)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
