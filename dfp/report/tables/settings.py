"""Hyperparameters as the runs had them: read from the specs in the run folders, never from the configuration.

A setting is named by its place in a spec, e.g. ``agent.top_k.weight``. ``config/paper/table5.csv`` and ``table8.csv``
hold what the paper reports under the same names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from dfp.report.manifests import specs_that_ran
from dfp.runs.same_spec import leaves

SHARED = "shared"  # the sections of a spec that do not belong to a method
SECTIONS = ("training", "online", "network", "evaluation", "data")
SUITES = {"ogbench": "OGBench", "robomimic": "Robomimic"}
COLUMNS = ["method", "task", "group", "suite", "run", "setting", "value"]

# The settings of the paper's Tables 5 and 8, then further ones, in the order of our tables. A setting that is not here
# is named after its key.
NAMES = {
    "training.batch_size": "Batch size",
    "training.discount": "Discount factor (γ)",
    "training.learning_rate": "Learning rate (Adam)",
    "training.target_update_rate": "Target network update rate (τ)",
    "training.offline_steps": "Offline training steps",
    "online.steps": "Online training steps",
    "network.width": "Network width",
    "network.depth": "Network depth (hidden layers)",
    "network.ensemble_size": "Value ensemble size",
    "agent.chunk": "Chunking horizon (H)",
    "agent.top_k.candidates": "Candidates for top-K (N)",
    "agent.top_k.positives": "Positive set size (K)",
    "agent.top_k.weight": "Drift weight (λ)",
    "agent.top_k.ema_rate": "Actor EMA rate",
    "agent.samples": "Generated actions",
    "agent.best_of": "Candidates when acting (N')",
    "agent.bandwidths": "Kernel bandwidth (h)",
    "online.warmup_steps": "Online steps before the first update",
    "online.buffer_capacity": "Replay buffer capacity",
    "evaluation.interval": "Steps between evaluations",
    "evaluation.episodes": "Episodes per evaluation",
    "data.source": "Source of the offline data",
    "data.episodes": "Recorded episodes",
    "data.seed": "Seed of the recording",
    "data.version": "Version of the recorder",
}


def settings_that_ran(results_dir: Path, runs: pd.DataFrame, partial: bool) -> pd.DataFrame:
    """One row per run and setting: :data:`COLUMNS`, ``value`` being JSON, ``method`` :data:`SHARED` for shared ones.

    ``runs``: rows of the run table. Raises :class:`~dfp.spec.ConfigError` as
    :func:`~dfp.report.manifests.specs_that_ran` does.
    """
    specs = specs_that_ran(results_dir, runs, partial)
    rows = []
    for run in runs.to_dict("records"):
        if run["run"] not in specs:
            continue
        spec = specs[run["run"]]
        suite = SUITES.get(spec["task"]["suite"], spec["task"]["suite"])
        for setting, value in _shown_settings(spec):
            method = run["method"] if setting.startswith("agent.") else SHARED
            rows.append((method, run["task"], run["group"], suite, run["run"], setting, json.dumps(value)))
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


def _shown_settings(spec: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every setting of a spec that the tables show, with its dotted name.

    Left out: what only identifies the agent, and what all methods leave empty (no online phase, no recording).
    """
    for name, value in leaves({name: spec.get(name) for name in (*SECTIONS, "agent")}):
        if name not in ("agent.name", "agent.version") and (value is not None or name.startswith("agent.")):
            yield name, value


def with_reported(ran: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """Rows of :func:`settings_that_ran` with the paper's value of the setting on that suite, or NaN, as ``paper``."""
    everywhere = paper.loc[paper.suite == ""].drop(columns="suite").rename(columns={"value": "everywhere"})
    by_suite = paper.loc[paper.suite != ""].rename(columns={"value": "on_suite"})
    joined = ran.merge(everywhere, on=["method", "setting"], how="left")
    joined = joined.merge(by_suite, on=["method", "setting", "suite"], how="left")
    return ran.assign(paper=joined.on_suite.fillna(joined.everywhere).to_numpy())


def equal(value: str, other: str) -> bool:
    """Whether two values are the same number, list or text, however they are written."""
    return json.loads(value) == json.loads(other)


def describe(rows: pd.DataFrame, column: str = "value") -> str:
    """The value of one setting in some runs; if it differs, each with the suites, groups or tasks that have it.

    ``rows``: of :func:`settings_that_ran`, one setting. Values that differ on one and the same task (a results folder
    of two configurations) are counted instead.
    """
    rows = rows.dropna(subset=[column])
    values = list(dict.fromkeys(rows[column]))
    if len(values) <= 1:
        return "".join(shown(value) for value in values)
    for level in ("suite", "group", "task"):
        if set(rows.groupby(level)[column].nunique()) == {1}:
            places = [", ".join(rows.loc[rows[column] == value, level].unique()) for value in values]
            break
    else:
        counts = [rows.loc[rows[column] == value, "run"].nunique() for value in values]
        places = [f"{count} run{'s' if count > 1 else ''}" for count in counts]
    return "; ".join(f"{shown(value)} ({place})" for value, place in zip(values, places, strict=True))


def shown(value: str) -> str:
    """A JSON value as a table prints it: ``1,000,000``, ``0.0003``, ``{0.005, 0.05}``, ``none``, ``yes``."""
    match json.loads(value):
        case None:
            return "none"
        case bool(flag):
            return "yes" if flag else "no"
        case list(parts):
            return "{" + ", ".join(shown(json.dumps(part)) for part in parts) + "}"
        case int(number):
            return f"{number:,}"
        case float(number):
            return f"{number:,g}"
        case other:
            return str(other)


def name_of(setting: str) -> str:
    """What a setting is called in a table."""
    return NAMES.get(setting, setting.rpartition(".")[2].replace("_", " ").capitalize())
