"""Datasets on disk: the manifest, the lock, and a reader that refuses whatever is not as recorded.

A dataset is a folder of npz files in OGBench's own format, whether they were downloaded or generated here:

- ``observations`` [R, S], ``actions`` [R, A] float32, ``terminals`` [R] bool, True on the last ROW of an episode;
- ``qpos``, ``qvel`` float32, and ``button_states`` where a task has buttons.

The last row of an episode is the state after its last transition and has no successor: 1,001 rows are 1,000
transitions. Rewards are not stored; the tasks that share a file differ in nothing else.

The manifest is written last and by rename, as is every file, so that nothing half-written is ever taken for data.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from dfp.spec import Closed, DataSpec, TaskSpec, explain
from dfp.tasks import Dataset

ACTION_LIMIT = 1 - 1e-5  # ALGORITHMS.md section 1: policies that squash with tanh never see a saturated action
EPISODE_STEPS = 1000  # transitions per generated episode, as in the published play datasets


class DataError(Exception):
    """Bad data: one line that names the file, what is wrong with it and what to do."""


class File(Closed):
    """One npz file of a dataset."""

    name: str
    bytes: int
    sha256: str
    rows: int  # transitions


class Manifest(Closed):
    """What a dataset is and where it came from."""

    dataset: str
    source: Literal["download", "generate"]
    url: str | None = None  # `download`: the file or folder it came from
    episodes: int | None = None  # `generate`, this and all below
    seed: int | None = None
    plans: int | None = None  # plans that the experts carried out
    plans_reached: int | None = None  # of these, how many left the object at its target
    rows: int  # transitions
    files: tuple[File, ...]
    versions: dict[str, str]


# --------------------------------------------------------------------------- the interface of dfp.tasks


def manifest_path(task: TaskSpec, data: DataSpec, data_dir: Path) -> Path:
    """See :func:`dfp.tasks.manifest_path`."""
    if data.source == "download":
        folder = task.dataset
    else:
        folder = f"{task.dataset}-{data.episodes}x{EPISODE_STEPS}-seed{data.seed}-v{data.version}"
    return data_dir / data.source / folder / "manifest.json"


def prepare_dataset(
    task: TaskSpec, data: DataSpec, data_dir: Path, processes: int, report: Callable[[str], None]
) -> Path:
    """See :func:`dfp.tasks.prepare_dataset`."""
    path = manifest_path(task, data, data_dir)
    if is_complete(path, task):  # before the lock, so that a shared folder may be read-only
        return path
    try:
        with _locked(path.parent, report):
            if not is_complete(path, task):
                _write_manifest(path, _obtain(task, data, path.parent, processes, report))
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be written: {error.strerror or error}") from None
    return path


def load_dataset(task: TaskSpec, data: DataSpec, data_dir: Path, shard: int = 0) -> Dataset:
    """See :func:`dfp.tasks.load_dataset`."""
    path = manifest_path(task, data, data_dir)
    files = read_manifest(path, task).files
    if not 0 <= shard < len(files):
        raise DataError(f"{path}: no shard {shard}; allowed: 0 to {len(files) - 1}")
    file = path.with_name(files[shard].name)
    _require_recorded(file, files[shard], task)
    return read_transitions(file, task)


def _obtain(task: TaskSpec, data: DataSpec, folder: Path, processes: int, report: Callable[[str], None]) -> Manifest:
    if data.source == "download":
        from dfp.tasks import download

        return download.download(task, folder, report)
    from dfp.tasks import generate

    return generate.generate(task, data, folder, processes, report, EPISODE_STEPS)


# --------------------------------------------------------------------------- manifest and files


def read_manifest(path: Path, task: TaskSpec) -> Manifest:
    """Raises ``DataError`` where the manifest is missing, unreadable or another dataset's."""
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such dataset; {how_to_prepare(task)}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise DataError(f"{explain(error, Manifest, str(path))}; delete it, then {how_to_prepare(task)}") from None
    if manifest.dataset != task.dataset:
        raise DataError(f"{path}: describes '{manifest.dataset}', wanted '{task.dataset}'; move it where it belongs")
    return manifest


def is_complete(path: Path, task: TaskSpec) -> bool:
    """Whether the manifest and all of its files exist. Raises ``DataError`` where one has another size."""
    if not path.exists():
        return False
    present = True
    for entry in read_manifest(path, task).files:
        file = path.with_name(entry.name)
        if not file.exists():
            present = False
        elif file.stat().st_size != entry.bytes:
            raise DataError(_changed(file, f"{file.stat().st_size} bytes, recorded {entry.bytes}", task))
    return present


def describe(file: Path, name: str, task: TaskSpec) -> File:
    """Read ``file`` as :func:`load_dataset` would, and record it as ``name``. Raises ``DataError`` where it cannot."""
    rows = len(read_transitions(file, task).terminals)
    return File(name=name, bytes=file.stat().st_size, sha256=_sha256(file), rows=rows)


def file_names(dataset: str, count: int) -> list[str]:
    """Names of a dataset's files, in the order of their rotation.

    The 100M sets of OGBench lie in a folder ``cube-quadruple-play-100m-v0`` and are named without the size,
    ``cube-quadruple-play-v0-000.npz`` and on, each beside a ``-val.npz`` that is no part of the rotation.
    """
    if count == 1:
        return [f"{dataset}.npz"]
    return [f"{dataset.replace('-100m-', '-')}-{index:03d}.npz" for index in range(count)]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour of ``path`` that takes its place once the block has succeeded, and vanishes otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def move_into_place(temporary: Path, path: Path) -> None:
    """Give a finished file its final name. Its bytes are on the disk before the name is."""
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def how_to_prepare(task: TaskSpec) -> str:
    return f"run `python -m dfp data {task.key} --config <file>`"


def _write_manifest(path: Path, manifest: Manifest) -> None:
    with replacing(path) as temporary:
        temporary.write_text(manifest.model_dump_json(indent=2, exclude_none=True) + "\n")


def _require_recorded(file: Path, entry: File, task: TaskSpec) -> None:
    if not file.exists():
        raise DataError(f"{file}: no such file, but its manifest lists it; {how_to_prepare(task)}")
    if file.stat().st_size != entry.bytes:
        raise DataError(_changed(file, f"{file.stat().st_size} bytes, recorded {entry.bytes}", task))
    digest = _sha256(file)
    if digest != entry.sha256:
        raise DataError(_changed(file, f"sha256 {digest[:12]}..., recorded {entry.sha256[:12]}...", task))


def _changed(file: Path, difference: str, task: TaskSpec) -> str:
    return f"{file}: not the file its manifest records ({difference}); delete it, then {how_to_prepare(task)}"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder against other processes. The kernel frees the lock however its holder ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"{folder}: another process prepares this dataset; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # some cluster file systems are mounted without locks
            report(f"{folder}: no lock ({error.strerror}); prepare a dataset from one process at a time here")
        for leftover in folder.glob(".*.tmp"):  # of a writer that was killed
            leftover.unlink()
        yield


# --------------------------------------------------------------------------- reading


def read_transitions(file: Path, task: TaskSpec) -> Dataset:
    """The transitions of one npz file with the rewards of ``task``, each state in memory once.

    Columns are read one at a time, the widest last, and closed up in place: memory peaks a little above the result.

    Raises:
      DataError: the file is damaged, or a column is missing, has another shape, or holds NaN or infinity.
    """
    from dfp.tasks import ogbench

    with _reading(file, task) as archive:
        last_rows = _episode_ends(file, archive)
        rows = int(last_rows[-1]) + 1
        judged = {
            name: _column(file, archive, name, (rows, width)) for name, width in ogbench.reward_columns(task).items()
        }
        rewards, masks = ogbench.rewards_and_masks(task, judged)
        del judged
        actions = _column(file, archive, "actions", (rows, task.action_size))
        np.clip(actions, -ACTION_LIMIT, ACTION_LIMIT, out=actions)
        observations = _column(file, archive, "observations", (rows, task.observation_size))
    final_observations = observations[last_rows]
    terminals = np.zeros(rows, dtype=bool)
    terminals[last_rows - 1] = True
    return Dataset(
        observations=_without(observations, last_rows),
        actions=_without(actions, last_rows),
        rewards=_without(rewards, last_rows),
        masks=_without(masks, last_rows),
        terminals=_without(terminals, last_rows),
        final_observations=final_observations,
    )


@contextlib.contextmanager
def _reading(file: Path, task: TaskSpec) -> Iterator[np.lib.npyio.NpzFile]:
    try:
        with zipfile.ZipFile(file), np.load(file, allow_pickle=False) as archive:  # np.load reads more than archives
            yield archive
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        raise DataError(f"{file}: not a whole npz file ({error}); delete it, then {how_to_prepare(task)}") from None


def _episode_ends(file: Path, archive: np.lib.npyio.NpzFile) -> np.ndarray:
    """Indices of the last row of each episode, [E]."""
    terminals = _column(file, archive, "terminals", None)
    if not np.isin(terminals, (0, 1)).all():
        raise DataError(f"{file}: 'terminals' holds other values than 0 and 1")
    if terminals.ndim != 1 or len(terminals) == 0 or not terminals[-1]:
        raise DataError(f"{file}: 'terminals' does not end with the end of an episode")
    ends = np.flatnonzero(terminals)
    lengths = np.diff(ends, prepend=-1)
    if lengths.min() < 2:
        raise DataError(f"{file}: the episode that ends at row {ends[lengths.argmin()]} has no transition")
    return ends


def _column(file: Path, archive: np.lib.npyio.NpzFile, name: str, shape: tuple[int, int] | None) -> np.ndarray:
    """A column as stored; floating-point ones as float32."""
    if name not in archive.files:
        raise DataError(f"{file}: '{name}' is missing; found: {', '.join(archive.files)}")
    column = archive[name]
    if shape is not None and column.shape != shape:
        raise DataError(f"{file}: '{name}' has shape {column.shape}, wanted {shape}")
    if column.dtype.kind not in "biuf":
        raise DataError(f"{file}: '{name}' has type {column.dtype}, wanted numbers")
    if column.dtype.kind != "f" or column.size == 0:
        return column
    if not (np.isfinite(column.min()) and np.isfinite(column.max())):  # NaN passes through; no wide temporary
        row = np.flatnonzero(~np.isfinite(column).all(axis=tuple(range(1, column.ndim))))[0]
        raise DataError(f"{file}: '{name}' holds NaN or infinity, first in row {row}")
    return column.astype(np.float32, copy=False)


def _without(column: np.ndarray, dropped: np.ndarray) -> np.ndarray:
    """``column`` [R, ...] without the rows ``dropped`` (ascending, the last one among them), closed up in place."""
    start = 0
    for index, end in enumerate(dropped):
        column[start - index : end - index] = column[start:end]
        start = end + 1
    return column[: len(column) - len(dropped)]
