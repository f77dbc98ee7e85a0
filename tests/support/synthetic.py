"""A results folder as a configuration's runs would leave it, with rates that the caller gives. Nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from dfp.plan.catalogue import Config, load_catalogue, load_config
from dfp.plan.experiments import plan
from dfp.plan.run_table import run_table
from dfp.runs.layout import METRIC_TYPES
from dfp.spec import RunSpec

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = load_catalogue()

Rate = Callable[[RunSpec, str], float | None]


def configured(name: str = "config", **changes: object) -> Config:
    """A configuration file with some of its keys changed."""
    settings = load_config(ROOT / "config" / f"{name}.yaml").model_dump(mode="json") | changes
    return Config.model_validate(settings)


def make_results(folder: Path, config: Config, rate: Rate) -> Path:
    """Run table, metrics and manifests of every run of ``config`` below ``folder``.

    ``rate(spec, method)`` is the success rate at the end of a run's phase, ``method`` the name in its folder; a run of
    which it is None has not started. Halfway, and at the start of the online phase, a run is half as good.
    """
    planned = plan(config, CATALOGUE)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "runs.csv").write_text(run_table(planned, CATALOGUE))
    for place, spec in planned.specs.items():
        end = rate(spec, place.split("/")[2])
        if end is not None:
            write_run(folder / place, spec, end)
    return folder


def write_run(folder: Path, spec: RunSpec, end: float) -> None:
    """``metrics.csv`` and ``manifest.json`` of a finished run whose last success rate is ``end``."""
    online = spec.online
    phase, before, length = (
        ("online", spec.training.offline_steps, online.steps) if online else ("offline", 0, spec.training.offline_steps)
    )
    rows = [
        (phase, before + step, value, spec.evaluation.episodes, -40.5, 80.25, 10.0, step if online else 0)
        for step, value in ((length // 2, end / 2), (length, end))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=pd.Index(METRIC_TYPES)).to_csv(folder / "metrics.csv", index=False)
    manifest = {
        "digest": spec.digest(),
        "spec": json.loads(spec.canonical()),
        "data_sha256": 64 * "0",
        "versions": {"python": "3.12.1", "jax": "0.12.0", "mujoco": "3.7.0"},
        "git_commit": "0" * 40,
        "device": "cpu",
        "host": {"platform": "Linux", "cpus": 2},
        "wall_s": 1800.0,
        "spent_s": 3600.0,
        "attempts": 1,
        "finished": "2026-11-24T12:00:00+00:00",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
