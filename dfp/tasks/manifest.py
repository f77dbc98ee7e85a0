"""The manifest of a dataset: what it is, where it came from, and whether its files are those that were recorded.

A dataset is a folder of files in its suite's own format, downloaded or generated here. Every file is written by rename,
the manifest last, so that nothing half-written is ever taken for data.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from dfp.files import read_text, write_atomically
from dfp.spec import Closed, NonNegativeInt, PositiveInt, TaskSpec, explain
from dfp.tasks.interface import DamagedError, DataError


class File(Closed):
    """One file of a dataset."""

    name: str = Field(pattern=r"^\w[^/\\]*$")  #: beside the manifest
    bytes: NonNegativeInt
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rows: PositiveInt  #: transitions


class Level(Closed):
    """How well one of Robomimic's scripted operators did."""

    demonstrations: int  #: of the operator in the dataset; all of them succeeded
    attempts: int  #: that the operator needed for them


class Manifest(Closed):
    """What a dataset is and where it came from."""

    dataset: str
    source: Literal["download", "generate"]
    url: str | None = None  #: ``download``: the file or folder it came from
    env_args: dict[str, Any] | None = None  #: Robomimic: what the file says of its environment
    episodes: int | None = None  #: this and the next four fields: only of a dataset that was generated
    seed: int | None = None
    plans: int | None = None  #: OGBench: plans that the experts carried out
    plans_reached: int | None = None  #: of these, how many left the object at its target
    levels: dict[str, Level] | None = None  #: Robomimic: by operator
    rows: PositiveInt  #: transitions
    files: tuple[File, ...] = Field(min_length=1)
    versions: dict[str, str]

    @property
    def sha256(self) -> str:
        """Identifies the content: the SHA-256 of the only file, or of the SHA-256s of several files, in order.

        Two data sets of the same description can differ: a simulator rounds differently on another processor.
        """
        if len(self.files) == 1:
            return self.files[0].sha256
        return hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()

    @model_validator(mode="after")
    def _files_add_up(self) -> Self:
        if self.rows != (rows := sum(file.rows for file in self.files)):
            raise ValueError(f"'rows' is {self.rows}, but the rows of 'files' add up to {rows}")
        return self


def read_manifest(path: Path, task: TaskSpec) -> Manifest:
    """Raises ``DataError`` if the manifest is missing, unreadable or another dataset's."""
    if not path.exists():
        raise DataError(f"{path}: no such dataset; {how_to_prepare(task)}")
    try:
        manifest = Manifest.model_validate_json(read_text(path))
    except ValidationError as error:
        raise DataError(f"{explain(error, Manifest, str(path))}; delete it, then {how_to_prepare(task)}") from None
    if manifest.dataset != task.dataset:
        raise DataError(f"{path}: describes '{manifest.dataset}', wanted '{task.dataset}'; move it where it belongs")
    return manifest


def write_manifest(path: Path, manifest: Manifest) -> None:
    write_atomically(path, manifest.model_dump_json(indent=2, exclude_none=True) + "\n")


def is_complete(path: Path, task: TaskSpec) -> bool:
    """Whether the manifest and all of its files exist. Raises ``DataError`` if one has another size."""
    if not path.exists():
        return False
    files = {path.with_name(entry.name): entry for entry in read_manifest(path, task).files}
    present = [file for file in files if file.exists()]
    for file in present:
        require_whole(file, files[file], task)
    return len(present) == len(files)


def describe(file: Path, name: str, rows: int) -> File:
    """The entry of ``file``, which holds ``rows`` transitions, under its final ``name``."""
    return File(name=name, bytes=file.stat().st_size, sha256=_sha256(file), rows=rows)


def require_whole(file: Path, entry: File, task: TaskSpec) -> None:
    """Raises ``DataError`` if the file is missing or has another size than its manifest records."""
    if not file.exists():
        raise DataError(f"{file}: no such file, but its manifest lists it; {how_to_prepare(task)}")
    if file.stat().st_size != entry.bytes:
        raise DataError(_changed(file, f"{file.stat().st_size} bytes, recorded {entry.bytes}", task))


def require_recorded(file: Path, entry: File, task: TaskSpec) -> None:
    """Raises ``DataError`` if the file is not the one that its manifest records."""
    require_whole(file, entry, task)
    digest = _sha256(file)
    if digest != entry.sha256:
        raise DataError(_changed(file, f"sha256 {digest[:12]}..., recorded {entry.sha256[:12]}...", task))


@contextlib.contextmanager
def naming_damage(file: Path, task: TaskSpec, kind: str, damage: tuple[type[Exception], ...]) -> Iterator[None]:
    """While ``file`` is read in this block, turn errors of damaged bytes into an error of one line.

    Args:
      kind: kind of file, as the error names it.
      damage: the exceptions other than OSError that a reader of this kind raises if bytes are damaged.

    Raises:
      DamagedError: the bytes of the file are damaged.
      DataError: the file, or the size that its damaged header claims, does not fit into memory.
      OSError: the system could not read the file. The error names the file.
    """
    remedy = f"delete it, then {how_to_prepare(task)}"
    try:
        yield
    except MemoryError as error:
        raise DataError(
            f"{file}: takes more memory than there is ({error}); allow more or, if its header is damaged, {remedy}"
        ) from None
    except (OSError, *damage) as error:
        # If bytes are damaged, h5py raises OSErrors without a number, and zipfile raises EINVAL, because it seeks to a
        # place before the beginning of the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            if error.filename is None:  # h5py's also have a text of several lines
                raise OSError(error.errno, os.strerror(error.errno), str(file)) from None
            raise
        reason = " ".join(str(error).split())
        raise DamagedError(f"{file}: not a whole {kind} file ({reason}); {remedy}") from None


def file_names(dataset: str, count: int, ending: str = "npz") -> list[str]:
    """Names of a dataset's files, in the order of their rotation.

    The files of OGBench's 100M sets are named without the size. The folder ``cube-quadruple-play-100m-v0`` has
    ``cube-quadruple-play-v0-000.npz`` and so on. The ``-val.npz`` beside each of them is not used.
    """
    if count == 1:
        return [f"{dataset}.{ending}"]
    return [f"{dataset.replace('-100m-', '-')}-{index:03d}.{ending}" for index in range(count)]


def how_to_prepare(task: TaskSpec) -> str:
    return f"run `dfp data {task.key} --config <file>`"


def _changed(file: Path, difference: str, task: TaskSpec) -> str:
    return f"{file}: not the file its manifest records ({difference}); delete it, then {how_to_prepare(task)}"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
