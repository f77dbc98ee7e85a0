"""A run folder is used only if it holds a run of the spec that belongs there. The digest in the folder decides.

This module does not import pandas, so that a run can check the folder of its pretraining quickly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dfp.files import json_object
from dfp.runs.layout import MANIFEST, METRICS, PROGRESS, RUN, read_object
from dfp.spec import ConfigError, RunSpec, canonical_json

REMEDY = "move it to a results folder of its own, or delete it and run it again"
FIRST = ("stage", "task.key", "seed")  # named before any other difference

Wanted = Callable[[], dict[str, Any]]  # dotted settings of the spec that belongs in a folder, as far as they are known


def refuse_other(folder: Path, spec: RunSpec) -> None:
    """Check that ``folder`` holds a run of exactly this spec, if it holds a run."""
    refuse_unless(folder, spec.digest(), lambda: dict(leaves(spec.model_dump(mode="json"))))


def refuse_unless(folder: Path, digest: str, wanted: Wanted) -> None:
    """Check that ``folder`` holds the run with ``digest``, if it holds a run.

    Args:
      wanted: the settings of that run, for the error that names the first difference.

    Raises:
      ConfigError: the folder holds another run, an edited file, or metrics without a manifest.
    """
    manifest = folder / MANIFEST
    if not manifest.exists() and (folder / METRICS).exists():
        raise ConfigError(f"{manifest}: no such file; metrics.csv alone does not say whose it is; run it again")
    if manifest.exists():
        _refuse_spec(manifest, digest, wanted)
        _refuse_edited(folder / METRICS, json_object(manifest).get("results"))
        return
    if (folder / RUN).exists():
        _refuse_spec(folder / RUN, digest, wanted)
    if (found := read_object(folder / PROGRESS).get("digest", digest)) != digest:
        raise ConfigError(f"{folder / PROGRESS}: of spec {str(found)[:12]}, but {digest[:12]} belongs here; {REMEDY}")


def _refuse_spec(path: Path, digest: str, wanted: Wanted) -> None:
    """Check the spec that a manifest or a ``run.json`` holds."""
    content = json_object(path)
    spec = content.get("spec")
    if not isinstance(spec, dict):
        raise ConfigError(f"{path}: 'spec' is missing; {REMEDY}")
    found = digest_of(spec)
    if content.get("digest", found) != found:
        raise ConfigError(f"{path}: 'digest' is not that of its 'spec' ({found[:12]}): the file was edited; {REMEDY}")
    if found != digest:
        raise ConfigError(f"{path}: {_difference(dict(leaves(spec)), wanted(), found, digest)}; {REMEDY}")


def digest_of(spec: dict[str, Any]) -> str:
    """The digest of a spec that was read from JSON, the same as :meth:`dfp.spec.RunSpec.digest`."""
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a nested mapping with its dotted key."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _refuse_edited(metrics: Path, results: object) -> None:
    """Check ``metrics.csv`` against the SHA-256 in the manifest; manifests of earlier versions have none."""
    recorded = results.get(metrics.name) if isinstance(results, dict) else None
    if not isinstance(recorded, dict) or not metrics.is_file():
        return
    if hashlib.sha256(metrics.read_bytes()).hexdigest() != recorded.get("sha256"):
        raise ConfigError(
            f"{metrics}: not the file that {MANIFEST} records (edited, damaged or of another run); put that file back, "
            "or delete the folder and run it again"
        )


def _difference(found: dict[str, Any], wanted: dict[str, Any], digest: str, expected: str) -> str:
    """The first setting in which a run is not what belongs in its folder."""
    keys = [key for key in wanted if key not in found or found[key] != wanted[key]]
    if not keys:
        return f"its spec has digest {digest[:12]}, but {expected[:12]} belongs here"
    key = next((key for key in FIRST if key in keys), keys[0])
    more = f" (and {len(keys) - 1} more differences)" if len(keys) > 1 else ""
    return f"{key} is {json.dumps(found.get(key))}, but {json.dumps(wanted[key])} belongs here{more}"
