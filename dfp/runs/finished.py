"""Whether a run is finished; and a second name for its results, which Snakemake does not know.

Snakemake deletes a job's declared outputs before it runs the job again, for whatever reason. A finished run must not be
trained again because of this. The folder ``finished/`` in its folder keeps the results as hard links, which take no
space, and :func:`recall` puts them back. It does so only for the same spec, started from the same pretraining. To train
a finished run again, delete its folder.
"""

import hashlib
import json
import os
import shlex
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dfp.files import replacing, write_atomically
from dfp.runs.checkpoint import read_stamp
from dfp.runs.layout import FINAL_STATE, MANIFEST, METRICS, ORIGIN, RECORD, read_object
from dfp.spec import ConfigError, RunSpec

RESULTS = (FINAL_STATE, METRICS)
OTHER_START = "it started from another pretraining than the one that is there now"


def describe(content: bytes) -> dict[str, Any]:
    """Size and SHA-256 of a result, for the manifest."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def problem(folder: Path, digest: str, start: str | None = None) -> str | None:
    """Why the results in ``folder`` are not those of a finished run with this digest; None if they are.

    Args:
      start: :func:`identity` of what the run should have started from, if it is known.
    """
    manifest = read_object(folder / MANIFEST)
    if manifest.get("digest") != digest:
        return f"{folder / MANIFEST}: missing, damaged or of another spec"
    for name in RESULTS:
        path = folder / name
        if not path.is_file():
            return f"{path}: no such file"
        results = manifest.get("results")
        recorded = results.get(name) if isinstance(results, dict) else None
        whole = _sha256(path) == recorded.get("sha256") if isinstance(recorded, dict) else _is_intact(path, digest)
        if not whole:
            return f"{path}: damaged: not the file that {MANIFEST} records"
    started = read_object(folder / RECORD / ORIGIN).get("start")
    if None not in (start, started) and start != started:
        return f"{folder}: {OTHER_START}"
    return None


def resized(folder: Path) -> Path | None:
    """A result of a finished run whose size is not the one in its manifest; None if there is none."""
    results = read_object(folder / MANIFEST).get("results")
    for name, recorded in results.items() if isinstance(results, dict) else ():
        path = folder / name
        if path.is_file() and isinstance(recorded, dict) and path.stat().st_size != recorded.get("bytes"):
            return path
    return None


def refuse_resized(results_dir: Path, folders: Iterable[str]) -> None:
    """Raises :class:`ConfigError` that names the first :func:`resized` result in one of ``folders``.

    Snakemake looks only at the names and ages of files, so it would not notice the damage.
    """
    for folder in folders:
        if (path := resized(results_dir / folder)) is not None:
            raise ConfigError(
                f"{path}: damaged: not of the size that {MANIFEST} beside it records; delete it, and the workflow puts "
                f"it back or makes it again: rm {shlex.quote(str(path))}"
            )


def _is_intact(path: Path, digest: str) -> bool:
    """Whether a result is whole, as far as it shows without the checksum that earlier versions did not record."""
    if path.name == METRICS:
        return path.read_text(encoding="utf-8", errors="replace").endswith("\n")
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None and read_stamp(path)["digest"] == digest
    except Exception:  # zipfile raises nearly anything if a file is damaged
        return False


def keep(folder: Path, start: str | None) -> None:
    """Record the results that are in ``folder``. ``start``: :func:`identity` of what the run started from."""
    record = folder / RECORD
    record.mkdir(exist_ok=True)
    # The manifest makes the record valid, so it is removed first and written last.
    (record / MANIFEST).unlink(missing_ok=True)
    for name in RESULTS:
        _link(folder / name, record / name)
    write_atomically(record / ORIGIN, json.dumps({"start": start}))
    _link(folder / MANIFEST, record / MANIFEST)


def recall(folder: Path, spec: RunSpec, start: str | None) -> bool:
    """Put the results of a finished run back under their names.

    Returns False if the folder has no record of a run of this spec that started from ``start``.
    """
    record = folder / RECORD
    if problem(record, spec.digest()) is not None or read_object(record / ORIGIN).get("start", "") != start:
        return False
    for name in (*RESULTS, MANIFEST):
        _link(record / name, folder / name)
    return True


def identity(pretrained: Path | None) -> str | None:
    """SHA-256 of the final state that a fine-tuning starts from; None if there is no pretraining or no such file."""
    if pretrained is None:
        return None
    try:
        return _sha256(pretrained / FINAL_STATE)
    except OSError:
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, or a copy if the file system has no links."""
    with replacing(target) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, temporary)
        os.utime(temporary)  # as if it had just been made: Snakemake compares ages
