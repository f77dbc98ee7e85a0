"""Environments and datasets behind one interface, whatever suite a task comes from.

Legend: ``S`` width of a state, ``A`` width of an action, ``N`` transitions, ``E`` stored episodes.

Importing this package loads neither JAX nor a simulator; the adapters load theirs on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from dfp.spec import ConfigError, DataSpec, TaskSpec

if TYPE_CHECKING:
    from dfp.tasks.robomimic_check import Replay


class Step(NamedTuple):
    """What one action led to."""

    observation: np.ndarray  # [S] float32, the state after the action
    reward: float
    terminated: bool  # the task itself ended: solved, or lost for good
    truncated: bool  # the episode cap was reached
    success: bool


class Environment(Protocol):
    """One episodic environment; every episode is a pure function of its seed and the actions."""

    def reset(self, seed: int) -> np.ndarray:
        """Begin the episode that belongs to ``seed`` (>= 0); its first state, [S] float32."""
        ...

    def step(self, action: np.ndarray) -> Step:
        """Act once. ``action`` is [A] with entries in [-1, 1]."""
        ...

    def sibling(self) -> Environment:
        """Another environment of the same task, for use in the same thread: it shares what never changes."""
        ...

    def close(self) -> None:
        """Free the simulator. The environment cannot be used afterwards."""
        ...


class Dataset(NamedTuple):
    """Recorded transitions, each state stored once.

    The state after transition ``t`` is ``observations[t + 1]``, except where ``terminals[t]``: there it is
    ``final_observations[k]``, with ``k`` the number of terminals before ``t``.
    """

    observations: np.ndarray  # [N, S] float32, the state before each action
    actions: np.ndarray  # [N, A] float32, inside (-1, 1)
    rewards: np.ndarray  # [N] float32
    masks: np.ndarray  # [N] float32, 0 where the task itself ended (success), else 1
    terminals: np.ndarray  # [N] bool, the last transition of a stored episode, for whatever reason it ended
    final_observations: np.ndarray  # [E, S] float32, the state after each terminal transition, in order


def make_environment(task: TaskSpec) -> Environment:
    """A fresh environment of ``task``.

    Raises:
      ConfigError: no such environment, a width or a cap that differs from the task's, or simulator versions other
        than those that the results belong to.
    """
    if task.suite == "robomimic":
        from dfp.tasks import robomimic as suite
    elif task.suite == "gymnasium":
        from dfp.tasks import gymnasium as suite
    else:
        from dfp.tasks import ogbench as suite
    return suite.make_environment(task)


def prepare_dataset(
    task: TaskSpec, data: DataSpec, data_dir: Path, processes: int, report: Callable[[str], None]
) -> Path:
    """Download or generate what is missing of a dataset; the path of its manifest.

    Interrupted work is taken up where it stopped, and processes that prepare the same dataset wait for each other.

    Args:
      processes: simulators to run at once when generating (>= 1). The rows do not depend on it.
      report: called with one line of progress at a time.

    Raises:
      ConfigError: the task has no such source.
      DataError: the files cannot be had, or are not what they should be.
    """
    from dfp.tasks import dataset

    return dataset.prepare_dataset(task, data, data_dir, processes, report)


def load_dataset(task: TaskSpec, data: DataSpec, data_dir: Path, shard: int = 0) -> Dataset:
    """One file of a prepared dataset, with the rewards of ``task``.

    Args:
      shard: which file, from 0 to ``shard_count(...) - 1``.

    Raises:
      DataError: the dataset is not prepared, its file is not the recorded one, or what it holds is no dataset.
    """
    from dfp.tasks import dataset

    return dataset.load_dataset(task, data, data_dir, shard)


def shard_count(task: TaskSpec, data: DataSpec, data_dir: Path) -> int:
    """Files of a prepared dataset. Raises ``DataError`` where it is not prepared."""
    from dfp.tasks import dataset

    return len(dataset.read_manifest(dataset.manifest_path(task, data, data_dir), task).files)


def check(
    task: TaskSpec, data: DataSpec, data_dir: Path, demonstrations: int | None, report: Callable[[str], None]
) -> Replay:
    """Play recorded actions again, from recorded states, and see whether they solve the task as they did.

    Args:
      demonstrations: how many, from the first; None: all.
      report: called with one line per demonstration.

    Raises:
      ConfigError: the task is not of Robomimic, whose files alone hold what a replay needs, or has no environment.
      DataError: the dataset is not prepared, its file is not the recorded one, or what it holds is no dataset.
    """
    if task.suite != "robomimic":
        raise ConfigError(f"task '{task.key}': only Robomimic's recordings can be replayed; allowed: lift, can, square")
    from dfp.tasks import dataset, robomimic_check

    file = dataset.recorded_file(task, data, data_dir, shard=0)
    return robomimic_check.replay(task, file, demonstrations, report)


def manifest_path(task: TaskSpec, data: DataSpec, data_dir: Path) -> Path:
    """Where the dataset's manifest is, or will be. Its folder is a dataset once the manifest exists."""
    from dfp.tasks import dataset

    return dataset.manifest_path(task, data, data_dir)
