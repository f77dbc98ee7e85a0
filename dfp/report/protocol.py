"""What a finished run says of itself in its ``manifest.json``, and how far it is from the paper's protocol."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dfp.spec import CATALOGUE, ConfigError, read_yaml

NEEDED = ("digest", "spec", "versions", "git_commit", "device", "wall_s", "attempts", "finished")
PAPER_SCALE = ""


def read_manifest(folder: Path) -> dict[str, Any]:
    """``manifest.json`` of a finished run. Raises :class:`ConfigError` where it is missing, damaged or incomplete."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file, though the run has finished") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    absent = [key for key in NEEDED if key not in manifest] if isinstance(manifest, dict) else ["spec"]
    if absent:
        raise ConfigError(f"{path}: '{absent[0]}' is missing; needed: {', '.join(NEEDED)}")
    return manifest


def manifests(results_dir: Path, folders: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The manifests of the finished runs among ``folders`` (relative to the results), by folder."""
    finished = (folder for folder in dict.fromkeys(folders) if (results_dir / folder / "metrics.csv").exists())
    return {folder: read_manifest(results_dir / folder) for folder in finished}


def spent_seconds(manifest: dict[str, Any]) -> float:
    """Seconds of all attempts, lost work included; manifests of an older version know the kept work's only."""
    return float(manifest.get("spent_s", manifest["wall_s"]))


def scale(spec: dict[str, Any], online: bool = True) -> str:
    """What of a run differs from ``config/paper/protocol.yaml``; :data:`PAPER_SCALE` where nothing does.

    Steps, network, optimiser, online phase and data source. Not compared: the settings of the method, which are its
    entry's in ``config/methods.yaml``, the seed, and the number of evaluation episodes, which widens the scatter over
    seeds and moves no mean. With ``online`` false, the settings of the online phase do not count.
    """
    different = []
    for section, settings in protocol().items():
        mine = spec.get(section)
        if section == "online" and (mine is None or not online):
            continue
        for key, value in settings.items():
            found = (mine or {}).get(key, "missing")
            if found != value:
                different.append(f"{section}.{key} {found} (paper: {value})")
    return ", ".join(different) or PAPER_SCALE


@functools.cache
def protocol() -> dict[str, dict[str, Any]]:
    """What ``config/paper/protocol.yaml`` asks of a run, by section of its spec."""
    return read_yaml(CATALOGUE / "paper" / "protocol.yaml")
