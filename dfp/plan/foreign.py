"""A run folder is refused if it holds another run than the run table lists there. The digest of the spec decides.

People copy, move and merge folders, and a mean over seeds must not join runs with different settings. ``runs.csv`` has
the digest that belongs in every folder, so that the comparison needs no JAX. The configuration that ``dfp report runs``
keeps beside it is read only for an error, or if the run table is of an earlier version, which has no digests.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from dfp.files import json_object
from dfp.plan.catalogue import load_catalogue, parse_config
from dfp.plan.experiments import plan
from dfp.plan.run_table import read_runs
from dfp.runs.same_spec import leaves, refuse_unless
from dfp.spec import ConfigError, RunSpec

CONFIG = "config.json"  # beside runs.csv: the configuration that the run table was made from


def refuse_foreign(results_dir: Path, runs: pd.DataFrame) -> None:
    """Check the folders of ``runs``, rows of the run table, and of their pretrainings, as far as they have begun.

    Raises:
      ConfigError: a folder holds another run than the table asks for, or metrics without a manifest; or the run table
        has no digests and no configuration beside it to compute them from.
    """
    for folder, digest in expected_digests(results_dir, runs).items():
        rows = runs.loc[(runs.run == folder) | (runs.pretrained == folder)]
        refuse_unless(results_dir / folder, digest, lambda folder=folder, rows=rows: _wanted(results_dir, folder, rows))


def refuse_misplaced(folder: Path) -> None:
    """Check one run folder against the run table of the results folder that it is in, if there is one that lists it."""
    place = folder.resolve()
    results_dir = place.parents[3] if len(place.parents) > 3 else place
    if not (results_dir / "runs.csv").exists():
        return
    runs, name = read_runs(results_dir), place.relative_to(results_dir).as_posix()
    mine = runs.loc[(runs.run == name) | (runs.pretrained == name)]
    if mine.empty or ((mine.digest == "").any() and not (results_dir / CONFIG).exists()):
        return  # the table does not list the folder, or does not say what belongs there
    refuse_unless(folder, expected_digests(results_dir, mine)[name], lambda: _wanted(results_dir, name, mine))


def expected_digests(results_dir: Path, runs: pd.DataFrame) -> dict[str, str]:
    """The digest that belongs in each folder of ``runs``, pretrainings included."""
    digests = dict(zip(runs.pretrained, runs.pretrained_digest, strict=True))
    digests |= dict(zip(runs.run, runs.digest, strict=True))
    if all(digests.values()):
        return digests
    specs = _planned(results_dir)
    if set(digests) - set(specs):
        raise ConfigError(
            f"{results_dir / 'runs.csv'}: column 'digest' is missing (an earlier version wrote this file); write it "
            "again: dfp report runs --config <configuration of these runs> --results-dir "
            f"{shlex.quote(str(results_dir))}"
        )
    return {folder: specs[folder].digest() for folder in digests}


def _wanted(results_dir: Path, folder: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Settings of the run that belongs in ``folder``, by dotted key.

    They are from the configuration beside the run table or, without it, those that the table has.
    """
    specs = _planned(results_dir)
    if folder in specs:
        return dict(leaves(specs[folder].model_dump(mode="json")))
    row = rows.iloc[0]
    online = row.stage == "finetune" and folder == row.run
    known = {"task.key": row.task, "seed": int(row.seed), "training.offline_steps": int(row.offline_steps)}
    return known | ({"online.steps": int(row.online_steps)} if online else {})


def _planned(results_dir: Path) -> dict[str, RunSpec]:
    """The runs of the configuration beside the run table, by folder; none if it is not there or not valid now."""
    path = results_dir / CONFIG
    try:
        catalogue = load_catalogue()
        return plan(parse_config(json_object(path), str(path), catalogue), catalogue).specs
    except ConfigError:
        return {}
