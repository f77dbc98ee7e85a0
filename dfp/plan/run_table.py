"""``runs.csv``: one row per experiment, cell and seed. It is written and read here.

Tables and figures are made from this file and the run folders that it names, so that they need no configuration.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from dfp.files import csv_rows, read_text
from dfp.plan.catalogue import Catalogue, method_entry
from dfp.plan.experiments import Plan, Run
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
    "digest": "str",
    "pretrained_digest": "str",
}
DIGESTS = ("digest", "pretrained_digest")  # empty if an earlier version wrote the table


def run_table(plan: Plan, catalogue: Catalogue) -> str:
    """The text of ``runs.csv``: one row per experiment, cell and seed, in the order of ``plan.runs``."""
    return csv_rows(list(RUN_TYPES), (_row(run, plan, catalogue) for run in plan.runs))


def _row(run: Run, plan: Plan, catalogue: Catalogue) -> dict[str, Any]:
    task, method = catalogue.tasks[run.task], method_entry(run.method, catalogue)
    return {
        "experiment": run.experiment,
        "title": catalogue.experiments[run.experiment].title,
        "stage": run.spec.stage,
        "task": run.task,
        "group": task.group,
        "column": task.column,
        "task_title": task.title,
        "method": run.method,
        "label": method.label,
        "backbone": method.backbone,
        "top_k": method.top_k,
        "color": method.color,
        "seed": run.seed,
        "run": run.folder,
        "pretrained": run.pretrained,
        "offline_steps": run.spec.training.offline_steps,
        "online_steps": run.spec.online.steps if run.spec.online else 0,
        "digest": run.spec.digest(),
        "pretrained_digest": plan.specs[run.pretrained].digest(),
    }


def read_runs(results_dir: Path) -> pd.DataFrame:
    """The run table, one row per experiment, task, method and seed, in the order of the tables.

    Columns: those of :data:`RUN_TYPES`. Raises :class:`ConfigError` if ``runs.csv`` is missing or malformed, or
    lists a cell's seed twice.
    """
    path = results_dir / "runs.csv"
    if not results_dir.is_file() and not path.exists():
        remedy = "the workflow and `dfp report runs` write it; for other results give --results-dir"
        raise ConfigError(f"{path}: no such file; {remedy}")
    runs = read_table(path, RUN_TYPES, optional=DIGESTS)
    twice = runs[runs.duplicated(["experiment", "task", "method", "seed"])]
    if len(twice):
        row = twice.iloc[0]
        raise ConfigError(f"{path}: {row.experiment}, {row.task}, {row.method}, seed {row.seed} is listed twice")
    return runs


def read_table(path: Path, types: dict[str, str], optional: tuple[str, ...] = ()) -> pd.DataFrame:
    """A CSV file with at least the columns of ``types``; :class:`ConfigError` if it is missing or malformed.

    A text column of ``optional`` that the file lacks is empty.
    """
    strings = read_strings(path)
    absent = [name for name in types if name not in strings and name not in optional]
    if absent:
        raise ConfigError(f"{path}: column '{absent[0]}' is missing; needed: {', '.join(types)}")
    return typed(strings.reindex(columns=list(types), fill_value=""), types, path)


def experiment_runs(results_dir: Path, experiment: str) -> pd.DataFrame:
    """The rows of :func:`read_runs` that belong to one table or figure; :class:`ConfigError` if none do."""
    runs = read_runs(results_dir)
    if experiment not in set(runs.experiment):
        listed = ", ".join(runs.experiment.unique()) or "none"
        raise ConfigError(f"{results_dir / 'runs.csv'}: no experiment '{experiment}'; listed: {listed}")
    return runs.loc[runs.experiment == experiment]


def read_strings(path: Path) -> pd.DataFrame:
    """A CSV file with every field as a string, unchanged.

    `pandas.read_csv` shifts columns if a row is too long and fills a row that is too short; both are damage here.
    """
    try:
        header, *rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    except (ValueError, csv.Error) as error:
        raise ConfigError(f"{path}: not a CSV table with a header: {error}") from None
    if twice := [name for name in header if header.count(name) > 1]:
        raise ConfigError(f"{path}: column '{twice[0]}' is there twice; allowed: each once")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ConfigError(f"{path}: row {number} has {len(row)} fields, the header {len(header)}")
    return pd.DataFrame(rows, columns=pd.Index(header), dtype="str")


def typed(frame: pd.DataFrame, types: dict[str, str], path: Path) -> pd.DataFrame:
    """``frame`` with these types by column; :class:`ConfigError`, which names ``path``, if a value does not fit."""
    try:
        return frame.astype(types)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None


def require(frame: pd.DataFrame, checks: Iterable[tuple[str, pd.Series, str]], path: Path) -> pd.DataFrame:
    """``frame``, if every row passes every check.

    Args:
      checks: column, whether each row is valid, and what is allowed, as the error says it.

    Raises:
      ConfigError: a row does not pass. The error names ``path`` and the first such row.
    """
    for name, valid, allowed in checks:
        if not valid.all():
            row = int(valid.to_numpy().argmin())
            raise ConfigError(f"{path}: row {row + 1}: {name} is {frame[name].iloc[row]}; allowed: {allowed}")
    return frame
