"""What run folders say of their runs besides the metrics: settings, device, seconds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dfp.spec import ConfigError

MANIFEST = "manifest.json"  # of a finished run
RUN = "run.json"  # from the first moment on
NEEDED = ("digest", "spec", "versions", "git_commit", "device", "wall_s", "spent_s", "attempts", "finished")


def read_manifests(results_dir: Path, folders: Iterable[str], partial: bool) -> dict[str, dict[str, Any]]:
    """``manifest.json`` by folder; with ``partial``, of the folders that have one.

    Raises :class:`ConfigError` naming the file where one is missing (without ``partial``) or no JSON object.
    """
    return _read(results_dir, folders, (MANIFEST,), partial)


def finished_manifests(results_dir: Path, folders: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The manifests of the finished runs among ``folders`` (relative to the results), by folder.

    Raises :class:`ConfigError` where one is missing, damaged, or without one of :data:`NEEDED`.
    """
    finished = (folder for folder in dict.fromkeys(folders) if (results_dir / folder / "metrics.csv").exists())
    manifests = read_manifests(results_dir, finished, partial=False)
    for folder, manifest in manifests.items():
        for key in NEEDED:
            entry(manifest, key, object, results_dir / folder)
    return manifests


def specs_that_ran(results_dir: Path, folders: Iterable[str], partial: bool) -> dict[str, dict[str, Any]]:
    """The spec of each run as its own folder records it; with ``partial``, of every run that has at least begun.

    Raises :class:`ConfigError` as :func:`read_manifests` does, and where a file has no spec.
    """
    files = _read(results_dir, folders, (MANIFEST, RUN) if partial else (MANIFEST,), partial)
    return {folder: entry(content, "spec", dict, results_dir / folder) for folder, content in files.items()}


def entry(content: dict[str, Any], key: str, kind: type | tuple[type, ...], place: Path) -> Any:
    """``content[key]``; :class:`ConfigError` where it is missing or of another type."""
    if not isinstance(content.get(key), kind):
        problem = f"'{key}' is {content[key]!r}" if key in content else f"'{key}' is missing"
        raise ConfigError(f"{place}: {problem} in the run's manifest; run it again with this version")
    return content[key]


def _read(
    results_dir: Path, folders: Iterable[str], names: tuple[str, ...], partial: bool
) -> dict[str, dict[str, Any]]:
    """The first of ``names`` that each folder has."""
    found = {}
    for folder in folders:
        paths = [results_dir / folder / name for name in names]
        path = next((path for path in paths if path.exists()), None)
        if path is not None:
            found[folder] = _json_object(path)
        elif not partial:
            raise ConfigError(f"{paths[0]}: no such file")
    return found


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return content
