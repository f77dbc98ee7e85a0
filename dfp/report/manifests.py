"""What run folders say of their runs besides the metrics: settings, device, seconds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from dfp.files import json_object
from dfp.plan.foreign import refuse_foreign
from dfp.runs.layout import MANIFEST, METRICS, RUN
from dfp.spec import ConfigError

NEEDED: dict[str, type | tuple[type, ...]] = {
    "digest": str, "spec": dict, "versions": dict, "git_commit": (str, type(None)), "device": str,
    "wall_s": (int, float), "spent_s": (int, float), "attempts": int, "finished": str,
}  # fmt: skip


def read_manifests(results_dir: Path, runs: pd.DataFrame, partial: bool) -> dict[str, dict[str, Any]]:
    """``manifest.json`` of ``runs`` (rows of the run table) and their pretrainings, by folder, pretrainings first.

    With ``partial``, of the folders that have one. Raises :class:`ConfigError` naming the file if one is missing
    (without ``partial``), damaged, or of another run than belongs in its folder.
    """
    refuse_foreign(results_dir, runs)
    return _read(results_dir, [*runs.pretrained, *runs.run], (MANIFEST,), partial)


def finished_manifests(results_dir: Path, runs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """As :func:`read_manifests` with ``partial``, of the folders whose run has finished.

    Each manifest has every key of :data:`NEEDED`, with a value of that type; otherwise raises :class:`ConfigError`.
    """
    finished = {
        folder: manifest
        for folder, manifest in read_manifests(results_dir, runs, partial=True).items()
        if (results_dir / folder / METRICS).exists()
    }
    for folder, manifest in finished.items():
        for key, kind in NEEDED.items():
            entry(manifest, key, kind, results_dir / folder)
    return finished


def specs_that_ran(results_dir: Path, runs: pd.DataFrame, partial: bool) -> dict[str, dict[str, Any]]:
    """The spec of each run as its own folder records it; with ``partial``, of every run that has at least begun.

    Raises :class:`ConfigError` as :func:`read_manifests` does.
    """
    refuse_foreign(results_dir, runs)
    files = _read(results_dir, runs.run, (MANIFEST, RUN) if partial else (MANIFEST,), partial)
    return {folder: entry(content, "spec", dict, results_dir / folder) for folder, content in files.items()}


def entry(content: dict[str, Any], key: str, kind: type | tuple[type, ...], place: Path) -> Any:
    """``content[key]``; :class:`ConfigError` if it is missing or of another type."""
    if key not in content or not isinstance(content[key], kind):
        problem = f"'{key}' is {content[key]!r}" if key in content else f"'{key}' is missing"
        raise ConfigError(f"{place}: {problem} in the run's manifest; run it again with this version")
    return content[key]


def _read(
    results_dir: Path, folders: Iterable[str], names: tuple[str, ...], partial: bool
) -> dict[str, dict[str, Any]]:
    """The first of ``names`` that each folder has."""
    found = {}
    for folder in dict.fromkeys(folders):
        paths = [results_dir / folder / name for name in names]
        path = next((path for path in paths if path.exists()), None)
        if path is not None:
            found[folder] = json_object(path)
        elif not partial:
            raise ConfigError(f"{paths[0]}: no such file")
    return found
