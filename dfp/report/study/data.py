"""The study's data: one tidy CSV of every evaluation and one of every run's provenance, and how runs enter them.

``metrics.csv`` has a row per evaluation: :data:`METRIC_COLUMNS`. ``success_rate`` is a fraction in [0, 1]; ``step``
counts over both phases; ``study`` is the name of the configuration file. A run is known by the digest of its spec,
never by the name of its folder.
"""

from __future__ import annotations

import functools
import io
from pathlib import Path

import numpy as np
import pandas as pd

from dfp.files import json_object, write_atomically
from dfp.plan.catalogue import CATALOGUE, load_catalogue, load_config
from dfp.plan.experiments import plan
from dfp.plan.run_table import RUN_TYPES, read_strings, read_table, require, run_table
from dfp.report.collect import TIDY_TYPES, evaluations, in_range
from dfp.report.figures.drawing import csv_text
from dfp.report.provenance import COLUMNS as PROVENANCE
from dfp.report.provenance import provenance
from dfp.report.statistics import online_regret
from dfp.runs.layout import MANIFEST, METRICS
from dfp.runs.same_spec import digest_of
from dfp.spec import ConfigError

STUDIES = ("study", "study-dfp", "study-lift", "equality")  # configurations in config/, in the order of the page
METRIC_COLUMNS = {"study": "str"} | {name: kind for name, kind in TIDY_TYPES.items() if name != "run"}
KEY = ["stage", "task", "method", "seed"]  # of a run
RUN = ["study", *KEY]
LAST = 3  # evaluations whose mean is compared
GOAL = 0.8  # the success rate of "steps to 80 %"


@functools.cache
def listed_runs(study: str) -> pd.DataFrame:
    """Every run of a study's configuration, once: the columns of the run table."""
    catalogue = load_catalogue()
    planned = plan(load_config(CATALOGUE / f"{study}.yaml"), catalogue)
    text = io.StringIO(run_table(planned, catalogue))
    table = pd.read_csv(text, dtype="str", keep_default_na=False).astype(RUN_TYPES)
    table = table.drop_duplicates(KEY, ignore_index=True)
    return table.assign(study=study, label=table.label.str.replace(" (Ours)", ""))  # "ours" is the paper's here


def collect_study(study: str, results_dir: Path, target: Path) -> list[Path]:
    """Put the finished runs of a results folder into ``metrics.csv`` and ``provenance.csv`` in the folder ``target``.

    A run that the files have already is replaced. Their other runs stay, as long as the study's configuration lists
    them: a study can be run on several machines. Returns the paths of both.

    Raises:
      ConfigError: no such study, a run of the folder is none of its configuration's, or one was trained on another data
        file than the study's other runs of its task.
    """
    if study not in STUDIES:
        raise ConfigError(f"study '{study}': allowed: {', '.join(STUDIES)}")
    runs = listed_runs(study)
    places = finished_folders(results_dir)
    if foreign := set(places) - set(runs.digest) - set(runs.pretrained_digest):
        path = results_dir / places[min(foreign)] / MANIFEST
        raise ConfigError(f"{path}: digest {min(foreign)[:12]} is not in config/{study}.yaml; move the run elsewhere")
    found = runs.assign(
        run=[places.get(digest, f"absent/{digest}") for digest in runs.digest],
        pretrained=[places.get(digest, f"absent/{digest}") for digest in runs.pretrained_digest],
    )
    tidy = evaluations(results_dir, found, partial=True).assign(study=study).reindex(columns=list(METRIC_COLUMNS))
    origin = provenance(results_dir, found).assign(study=study).reindex(columns=["study", *PROVENANCE])
    target.mkdir(parents=True, exist_ok=True)
    metrics_path, provenance_path = target / "metrics.csv", target / "provenance.csv"
    elsewhere = {*runs.digest, *runs.pretrained_digest} - set(places)  # the runs that other machines may have made
    before = _rows_of(provenance_path, origin, study)
    before = before.loc[before.digest.isin(elsewhere)]
    _require_one_data_file(before, _as_text(origin), results_dir)
    earlier = _rows_of(metrics_path, tidy, study)
    earlier = earlier.loc[_digests(earlier, runs).isin(before.digest).to_numpy()]
    return [
        write_atomically(path, csv_text(_replaced(path, _in_order(pd.concat([old, _as_text(new)]), runs), study)))
        for path, old, new in ((metrics_path, earlier, tidy), (provenance_path, before, origin))
    ]


def _require_one_data_file(before: pd.DataFrame, new: pd.DataFrame, results_dir: Path) -> None:
    """Raise :class:`ConfigError` at a new run whose data file is not that of the runs of its task that stay."""
    known = before.loc[before.data_sha256 != ""].groupby(["task", "data"]).data_sha256.agg(set).to_dict()
    for row in new.loc[new.data_sha256 != ""].to_dict("records"):
        files = known.setdefault((row["task"], row["data"]), {row["data_sha256"]})
        if row["data_sha256"] not in files:
            mine, theirs = row["data_sha256"][:8], ", ".join(sorted(file[:8] for file in files))
            raise ConfigError(
                f"{results_dir / row['run']}: trained on a data file with SHA-256 {mine}, the study's other runs of "
                f"{row['task']} on {theirs}; allowed: one data file"
            )


def finished_folders(results_dir: Path) -> dict[str, str]:
    """Folders of the finished runs below a results folder, relative to it, by the digest of their spec."""
    if not results_dir.is_dir():
        raise ConfigError(f"{results_dir}: no such folder; give the results of the study with --results-dir")
    folders = {}
    for path in sorted(results_dir.glob(f"*/*/*/*/{MANIFEST}")):
        if path.with_name(METRICS).exists():
            spec = json_object(path).get("spec")
            if not isinstance(spec, dict):
                raise ConfigError(f"{path}: 'spec' is missing; run it again")
            folders[digest_of(spec)] = path.parent.relative_to(results_dir).as_posix()
    return folders


def read_metrics(folder: Path) -> pd.DataFrame:
    """``metrics.csv`` of the study.

    Raises:
      ConfigError: the file is missing or malformed, the steps of a run do not increase, or no study lists that run.
    """
    path = folder / "metrics.csv"
    tidy = read_table(path, METRIC_COLUMNS)
    increasing = tidy.groupby(RUN).step.diff().fillna(1) > 0
    require(tidy, [*in_range(tidy), ("step", increasing, "larger than the run's step before")], path)
    for study, rows in tidy.groupby("study"):
        if study not in STUDIES:
            raise ConfigError(f"{path}: study '{study}': allowed: {', '.join(STUDIES)}")
        found = rows.merge(listed_runs(str(study))[KEY], on=KEY, how="left", indicator="listed")
        foreign = found.loc[found.listed == "left_only"]
        if len(foreign):
            row = foreign.iloc[0]
            run = f"{row.stage}, {row.task}, {row.method}, seed {row.seed}"
            raise ConfigError(f"{path}: {run} is not in config/{study}.yaml; `dfp study collect` drops such rows")
    return tidy


def run_scores(tidy: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """One row per run that has begun: :data:`KEY`, then its scores. Rates are fractions.

    A score of a phase that has not ended is NaN. ``final``: the evaluation at the end of the run. ``best`` and
    ``last``: the highest evaluation of the run's last phase, and the mean of its last :data:`LAST`. ``offline``: the
    mean of the last :data:`LAST` offline evaluations.

    Only an online run with an evaluation at the switch has the following. ``regret``: as
    :func:`~dfp.report.statistics.online_regret`. ``area``: 1 - ``regret``. ``steps``: online steps to the first
    evaluation of at least :data:`GOAL`, the one at the switch included; NaN if there is none.
    """
    lengths = runs.drop_duplicates(KEY).set_index(KEY)[["offline_steps", "online_steps"]]
    rows = []
    for run, curve in tidy.groupby(KEY, sort=False):
        start, length = (int(steps) for steps in lengths.loc[run])
        steps, rates = curve["step"].to_numpy(), curve["success_rate"].to_numpy()
        row = dict(zip(KEY, curve[KEY].iloc[0], strict=True))
        if start in steps:
            row["offline"] = rates[steps <= start][-LAST:].mean()
        if steps[-1] == start + length:
            phase = rates[steps > start] if length else rates
            row |= {"final": rates[-1], "best": phase.max(), "last": phase[-LAST:].mean()}
            if length and start in steps:
                online = steps >= start
                reached = steps[online & (rates >= GOAL)]
                row["regret"] = online_regret(steps[online], rates[online])
                row["steps"] = float(reached[0] - start) if len(reached) else np.nan
        rows.append(row)
    scores = pd.DataFrame(rows, columns=pd.Index([*KEY, "final", "best", "last", "regret", "steps", "offline"]))
    return scores.assign(area=1.0 - scores.regret)


def _as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Every value as the CSV file has it, so that rows that stay keep their bytes."""
    return pd.read_csv(io.StringIO(csv_text(frame)), dtype="str", keep_default_na=False)


def _rows_of(path: Path, like: pd.DataFrame, study: str) -> pd.DataFrame:
    """The rows of one study in a CSV file, as text; none, with the columns of ``like``, without the file."""
    rows = read_strings(path) if path.exists() else _as_text(like.iloc[:0])
    return rows.loc[rows.study == study]


def _digests(metrics: pd.DataFrame, runs: pd.DataFrame) -> pd.Series:
    """The digest of the run that made each row: an offline row of a fine-tuning is its pretraining's."""
    rows = metrics.merge(runs.astype({"seed": "str"})[[*KEY, "digest", "pretrained_digest"]], on=KEY, how="left")
    return rows.digest.where(rows.phase != "offline", rows.pretrained_digest)


def _in_order(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Rows of one study by stage, by method as the configuration lists them, by seed, and by step if they have one."""
    order = {method: at for at, method in enumerate(dict.fromkeys(runs.method))}

    def rank(values: pd.Series) -> pd.Series:
        if values.name == "stage":
            return values != "pretrain"
        return values.map(order) if values.name == "method" else values.astype("int64")

    by = [name for name in ("stage", "method", "seed", "step") if name in rows]
    return rows.sort_values(by, key=rank, kind="stable", na_position="first")


def _replaced(path: Path, part: pd.DataFrame, study: str) -> pd.DataFrame:
    """The rows of a CSV file with those of one study replaced, studies in the order of :data:`STUDIES`."""
    if path.exists():
        old = read_strings(path)
        part = pd.concat([old.loc[old.study != study], part], ignore_index=True)
    return part.sort_values("study", key=lambda names: names.map(STUDIES.index), kind="stable")
