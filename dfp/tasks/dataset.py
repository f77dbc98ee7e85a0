"""Datasets on disk: prepared once, under a lock, then read."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

from dfp.spec import ConfigError, DataSpec, TaskSpec
from dfp.tasks.interface import Dataset, Reproduction
from dfp.tasks.manifest import Manifest, describe, is_complete, read_manifest, require_recorded, write_manifest
from dfp.tasks.suites import SUITES, suite_of

log = logging.getLogger("dfp")


def manifest_path(task: TaskSpec, data: DataSpec, data_dir: Path) -> Path:
    """The path of the dataset's manifest, which may not exist yet. Its folder is a dataset once the manifest exists."""
    folder = task.dataset if data.source == "download" else suite_of(task).generated_folder(task, data)
    return data_dir / data.source / folder / "manifest.json"


def prepare_dataset(task: TaskSpec, data: DataSpec, data_dir: Path, processes: int) -> Path:
    """Download or generate what is missing of a dataset. Returns the path of its manifest.

    Interrupted work continues where it stopped. Processes that prepare the same dataset wait for each other.

    Args:
      processes: simulators to run at once when generating (>= 1). The rows do not depend on it.

    Raises:
      ConfigError: the task has no such source.
      DataError: a file cannot be fetched or recorded, is damaged, or is not of this dataset.
    """
    path = manifest_path(task, data, data_dir)
    if is_complete(path, task):  # before the lock, so that a shared folder may be read-only
        return path
    with _locked(path.parent):
        if not is_complete(path, task):
            write_manifest(path, _obtain(task, data, path.parent, processes))
    return path


def load_dataset(task: TaskSpec, data: DataSpec, data_dir: Path) -> Dataset:
    """The transitions in the first file of a prepared dataset, with the rewards of ``task``.

    Raises:
      DataError: the dataset is not prepared, its file is not the recorded one, or the file holds no dataset.
    """
    return suite_of(task).read_transitions(_recorded_file(task, data, data_dir), task)


def check(task: TaskSpec, data: DataSpec, data_dir: Path, demonstrations: int | None) -> Reproduction:
    """Play recorded actions again, from recorded states, and count how often they solve the task again.

    Args:
      demonstrations: how many to play, from the first on; None: all.

    Raises:
      ConfigError: the files of the task's suite do not hold what a replay needs, or there is no such environment.
      DataError: the dataset is not prepared, its file is not the recorded one, or the file holds no dataset.
    """
    suite = suite_of(task)
    if not suite.replays:
        replayable = ", ".join(f"'{name}'" for name, other in SUITES.items() if other.replays)
        raise ConfigError(
            f"task '{task.key}': recordings of suite '{task.suite}' cannot be played again, because its files do not "
            f"hold the simulator's states; allowed: tasks of suite {replayable}"
        )
    return suite.reproduce(task, _recorded_file(task, data, data_dir), demonstrations)


def _recorded_file(task: TaskSpec, data: DataSpec, data_dir: Path) -> Path:
    """The first file of a prepared dataset. Raises ``DataError`` if it is not the one that was recorded."""
    path = manifest_path(task, data, data_dir)
    first = read_manifest(path, task).files[0]
    file = path.with_name(first.name)
    require_recorded(file, first, task)
    return file


def _obtain(task: TaskSpec, data: DataSpec, folder: Path, processes: int) -> Manifest:
    suite = suite_of(task)
    if data.source == "download":
        from dfp.tasks.download import download  # loads an HTTP client

        facts = {}
        url, files = download(suite, task, folder)
    else:
        names, facts = suite.generate(task, data, folder, processes)
        url = None
        paths = [folder / name for name in names]
        files = [describe(path, path.name, len(suite.read_transitions(path, task).terminals)) for path in paths]
    return Manifest(
        dataset=task.dataset,
        source=data.source,
        url=url,
        env_args=suite.env_args(task, folder / files[0].name),
        episodes=data.episodes,
        seed=data.seed,
        rows=sum(file.rows for file in files),
        files=tuple(files),
        versions=suite.versions(task),
        **facts,
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of the folder. The kernel frees the lock when its holder ends, in whatever way."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info(f"{folder}: another process prepares this dataset; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # some cluster file systems are mounted without locks
            log.info(f"{folder}: no lock ({error.strerror}); prepare a dataset from one process at a time here")
        for leftover in folder.glob(".*.tmp"):  # of a writer that was killed
            leftover.unlink()
        yield
