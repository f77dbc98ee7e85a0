"""OGBench's npz files: what is in them, and a reader that refuses what is not.

A file holds the rows of several episodes, one after the other:

- ``observations`` [R, S], ``actions`` [R, A] float32, ``terminals`` [R] bool, True on the last ROW of an episode;
- ``qpos``, ``qvel`` float32, and ``button_states`` where a task has buttons.

The last row of an episode is the state after its last transition and has no successor: 1,001 rows are 1,000
transitions. Rewards are not stored; the tasks that share a file differ in nothing else.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dfp.spec import TaskSpec
from dfp.tasks import Dataset, ogbench
from dfp.tasks.dataset import ACTION_LIMIT, DataError, how_to_prepare


def read_transitions(file: Path, task: TaskSpec, rewards: np.ndarray | None = None) -> Dataset:
    """The transitions of one npz file with the rewards of ``task``, each state in memory once.

    Columns are read one at a time, the widest last, and closed up in place: memory peaks a little above the result.

    Args:
      rewards: [N], where an earlier reading of this file found them; half of the time goes into judging its rows.

    Raises:
      DataError: the file is damaged, or a column is missing, has another shape, or holds NaN or infinity.
    """
    with _reading(file, task) as archive:
        last_rows = _episode_ends(file, archive)
        rows = int(last_rows[-1]) + 1
        if rewards is None:
            rewards, masks = (_without(column, last_rows) for column in _judge(file, archive, task, rows))
        else:
            masks = rewards < 0  # the task ends where nothing is missing
        actions = _column(file, archive, "actions", (rows, task.action_size))
        np.clip(actions, -ACTION_LIMIT, ACTION_LIMIT, out=actions)
        observations = _column(file, archive, "observations", (rows, task.observation_size))
    final_observations = observations[last_rows]
    terminals = np.zeros(rows, dtype=bool)
    terminals[last_rows - 1] = True
    return Dataset(
        observations=_without(observations, last_rows),
        actions=_without(actions, last_rows),
        rewards=rewards.astype(np.float32, copy=False),
        masks=masks.astype(np.float32, copy=False),
        terminals=_without(terminals, last_rows),
        final_observations=final_observations,
    )


def _judge(file: Path, archive: np.lib.npyio.NpzFile, task: TaskSpec, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Reward and mask of each row, each [R]."""
    widths = ogbench.reward_columns(task)
    columns = {name: _column(file, archive, name, (rows, width)) for name, width in widths.items()}
    return ogbench.rewards_and_masks(task, columns)


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
