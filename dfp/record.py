"""A second name for the results of a finished run, which Snakemake does not know.

Snakemake deletes a job's declared outputs before it runs the job again, for whatever reason. A run that is finished
must not be trained twice for that: ``finished/`` in its folder keeps its results (hard links: no space), and
:func:`recall` puts them back in a moment. Only for exactly the same spec, started from exactly the same pretraining;
who wants to train a finished run once more deletes its folder.
"""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

from dfp.spec import RunSpec

RECORD = "finished"
MANIFEST = "manifest.json"
RESULTS = ("agent.npz", "metrics.csv")
ORIGIN = "start.json"


def keep(folder: Path, start: str | None) -> None:
    """Record the results that stand in ``folder``. ``start``: :func:`identity` of what the run started from."""
    record = folder / RECORD
    record.mkdir(exist_ok=True)
    # The manifest makes the record valid: it goes first and comes last.
    (record / MANIFEST).unlink(missing_ok=True)
    for name in RESULTS:
        _link(folder / name, record / name)
    (record / ORIGIN).write_text(json.dumps({"start": start}))
    _link(folder / MANIFEST, record / MANIFEST)


def recall(folder: Path, spec: RunSpec, start: str | None) -> bool:
    """Put the results of a finished run back under their names; false where there is no record of this very run."""
    record = folder / RECORD
    try:
        manifest, origin = (json.loads((record / name).read_text()) for name in (MANIFEST, ORIGIN))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    if manifest["digest"] != spec.digest() or origin["start"] != start:
        return False
    for name in (*RESULTS, MANIFEST):
        _link(record / name, folder / name)
    return True


def identity(pretrained: Path | None) -> str | None:
    """SHA-256 of the final state that a fine-tuning starts from; none without one."""
    if pretrained is None:
        return None
    try:
        with (pretrained / "agent.npz").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _link(source: Path, target: Path) -> None:
    """``target`` becomes another name of ``source``, or a copy where the file system knows no links."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.link")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        try:
            temporary.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, temporary)
        os.utime(temporary)  # as if it had just been made: Snakemake compares ages
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
