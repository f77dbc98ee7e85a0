"""Datasets on disk: the manifest, the lock, and whether files are those that were recorded.

A dataset is a folder of files in its suite's own format, whether they were downloaded or generated here: OGBench's npz
(``dfp/tasks/ogbench_files.py``, for other environments ``dfp/tasks/gymnasium_files.py``) or robomimic's HDF5
(``dfp/tasks/robomimic_files.py``).

The manifest is written last and by rename, as is every file, so that nothing half-written is ever taken for data.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from dfp.spec import Closed, ConfigError, DataSpec, TaskSpec, explain
from dfp.tasks import Dataset

ACTION_LIMIT = 1 - 1e-5  # ALGORITHMS.md section 1: policies that squash with tanh never see a saturated action
EPISODE_STEPS = 1000  # transitions per generated episode of OGBench, as in the published play datasets


class DataError(Exception):
    """Bad data: one line that names the file, what is wrong with it and what to do."""


class File(Closed):
    """One file of a dataset."""

    name: str
    bytes: int
    sha256: str
    rows: int  # transitions


class Level(Closed):
    """How well one of Robomimic's scripted operators did."""

    demonstrations: int  # in the dataset: every one succeeded
    attempts: int  # that it took


class Manifest(Closed):
    """What a dataset is and where it came from."""

    dataset: str
    source: Literal["download", "generate"]
    url: str | None = None  # `download`: the file or folder it came from
    env_args: dict[str, Any] | None = None  # Robomimic: what the file says of its environment
    episodes: int | None = None  # `generate`, this and the next four
    seed: int | None = None
    plans: int | None = None  # OGBench: plans that the experts carried out
    plans_reached: int | None = None  # of these, how many left the object at its target
    levels: dict[str, Level] | None = None  # Robomimic: by operator
    rows: int  # transitions
    files: tuple[File, ...]
    versions: dict[str, str]


# --------------------------------------------------------------------------- the interface of dfp.tasks


def manifest_path(task: TaskSpec, data: DataSpec, data_dir: Path) -> Path:
    """See :func:`dfp.tasks.manifest_path`."""
    if data.source == "download":
        folder = task.dataset
    elif task.suite == "robomimic":  # its episodes end at success
        folder = f"{task.dataset}-{data.episodes}-seed{data.seed}-v{data.version}"
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
    return read_transitions(recorded_file(task, data, data_dir, shard), task)


def recorded_file(task: TaskSpec, data: DataSpec, data_dir: Path, shard: int) -> Path:
    """One file of a prepared dataset. Raises ``DataError`` where it is not the one that was recorded."""
    path = manifest_path(task, data, data_dir)
    files = read_manifest(path, task).files
    if not 0 <= shard < len(files):
        raise DataError(f"{path}: no shard {shard}; allowed: 0 to {len(files) - 1}")
    file = path.with_name(files[shard].name)
    require_recorded(file, files[shard], task)
    return file


def _obtain(task: TaskSpec, data: DataSpec, folder: Path, processes: int, report: Callable[[str], None]) -> Manifest:
    if data.source == "download":
        from dfp.tasks import download

        return download.download(task, folder, report)
    if task.suite == "robomimic":
        from dfp.tasks import robomimic_experts

        return robomimic_experts.generate(task, data, folder, processes, report)
    if task.suite == "gymnasium":
        raise ConfigError(f"task '{task.key}': no expert records data of suite 'gymnasium'; allowed: source 'download'")
    from dfp.tasks import generate

    return generate.generate(task, data, folder, processes, report, EPISODE_STEPS)


def read_transitions(file: Path, task: TaskSpec, rewards: np.ndarray | None = None) -> Dataset:
    """The transitions of one file with the rewards of ``task``, each state in memory once.

    Args:
      rewards: [N], where an earlier reading of this file found them; OGBench's rows need not be judged again then.

    Raises:
      DataError: the file is damaged, belongs to another environment, or what it holds is no dataset.
    """
    if task.suite == "robomimic":
        from dfp.tasks import robomimic_files

        return robomimic_files.read_transitions(file, task)
    if task.suite == "gymnasium":
        from dfp.tasks import gymnasium_files

        return gymnasium_files.read_transitions(file, task)
    from dfp.tasks import ogbench_files

    return ogbench_files.read_transitions(file, task, rewards)


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


def file_names(dataset: str, count: int, ending: str = "npz") -> list[str]:
    """Names of a dataset's files, in the order of their rotation.

    The 100M sets of OGBench lie in a folder ``cube-quadruple-play-100m-v0`` and are named without the size,
    ``cube-quadruple-play-v0-000.npz`` and on, each beside a ``-val.npz`` that is no part of the rotation.
    """
    if count == 1:
        return [f"{dataset}.{ending}"]
    return [f"{dataset.replace('-100m-', '-')}-{index:03d}.{ending}" for index in range(count)]


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


def require_whole(file: Path, entry: File, task: TaskSpec) -> None:
    """Raises ``DataError`` where the file is missing or has another size than its manifest records."""
    if not file.exists():
        raise DataError(f"{file}: no such file, but its manifest lists it; {how_to_prepare(task)}")
    if file.stat().st_size != entry.bytes:
        raise DataError(_changed(file, f"{file.stat().st_size} bytes, recorded {entry.bytes}", task))


def require_recorded(file: Path, entry: File, task: TaskSpec) -> None:
    """Raises ``DataError`` where the file is not the one that its manifest records."""
    require_whole(file, entry, task)
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
