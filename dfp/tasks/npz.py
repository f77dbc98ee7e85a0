"""npz files with the rows of several episodes: the columns that all suites share, and their reader.

- ``observations`` [R, S]; ``actions`` [R, A];
- ``rewards`` [R] of each action; ``masks`` [R], 0 where that action ended the task, else 1;
- ``terminals`` [R], 1 on the last ROW of an episode, however it ended, else 0.

The last row of an episode is the state after its last transition and has no successor: 1,001 rows are 1,000
transitions. The action, reward and mask of that row are not used, but must be finite numbers.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dfp.spec import TaskSpec
from dfp.tasks.columns import actions as checked_actions
from dfp.tasks.columns import flags, numbers
from dfp.tasks.interface import DamagedError, DataError, Dataset
from dfp.tasks.manifest import naming_damage


@contextlib.contextmanager
def reading(file: Path, task: TaskSpec) -> Iterator[np.lib.npyio.NpzFile]:
    """The open file. Raises as :func:`dfp.tasks.manifest.naming_damage`, also of a column read from it."""
    # ZipFile refuses files that are not archives, which np.load would read.
    with naming_damage(file, task, "npz", _DAMAGE), zipfile.ZipFile(file), np.load(file, allow_pickle=False) as archive:
        yield archive


_DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError)  # of zipfile and NumPy


def read_episodes(
    file: Path,
    task: TaskSpec,
    shrink: Callable[[np.ndarray], np.ndarray] = lambda actions: actions,
    allowed: str = "-1 to 1",
) -> Dataset:
    """The transitions of a file with all of these columns.

    Args:
      shrink: maps recorded actions, [R, A], onto [-1, 1].
      allowed: the range of recorded actions, as an error names it.

    Raises:
      DataError: the file is damaged, or a column is missing, has another shape, or holds a value that is not allowed.
    """
    with reading(file, task) as archive:
        last_rows = episode_ends(file, archive)
        rows = int(last_rows[-1]) + 1
        rewards = without(column_of(file, archive, "rewards", (rows,)), last_rows)
        masks = column_of(file, archive, "masks", (rows,))
        masks[last_rows] = 1
        flags(f"{file}: 'masks'", masks)
        masks = without(masks, last_rows)
        actions = actions_of(file, archive, task, last_rows, shrink, allowed)
        observations = column_of(file, archive, "observations", (rows, task.observation_size))
    return transitions(observations, actions, rewards, masks, last_rows)


def episode_ends(file: Path, archive: np.lib.npyio.NpzFile) -> np.ndarray:
    """Indices of the last row of each episode, [E]. Raises ``DataError`` if ``terminals`` does not say."""
    terminals = flags(f"{file}: 'terminals'", _stored(file, archive, "terminals"))
    if len(terminals) == 0 or not terminals[-1]:
        raise DataError(f"{file}: 'terminals' does not end with the end of an episode")
    ends = np.flatnonzero(terminals)
    lengths = np.diff(ends, prepend=-1)
    if lengths.min() < 2:
        raise DataError(f"{file}: the episode that ends at row {ends[lengths.argmin()]} has no transition")
    return ends


def column_of(file: Path, archive: np.lib.npyio.NpzFile, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """A column in float32. Raises ``DataError`` if it is missing, or as :func:`dfp.tasks.columns.numbers`."""
    return numbers(f"{file}: '{name}'", _stored(file, archive, name), shape)


def actions_of(
    file: Path,
    archive: np.lib.npyio.NpzFile,
    task: TaskSpec,
    last_rows: np.ndarray,
    shrink: Callable[[np.ndarray], np.ndarray] = lambda actions: actions,
    allowed: str = "-1 to 1",
) -> np.ndarray:
    """Actions of all rows, [R, A] float32 in (-1, 1), 0 in the last rows. Arguments as of :func:`read_episodes`."""
    actions = shrink(column_of(file, archive, "actions", (int(last_rows[-1]) + 1, task.action_size)))
    actions[last_rows] = 0
    return checked_actions(f"{file}: 'actions'", actions.astype(np.float32, copy=False), allowed)


def _stored(file: Path, archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    if name not in archive.files:
        raise DataError(f"{file}: '{name}' is missing; found: {', '.join(archive.files)}")
    column = archive[name]
    if not isinstance(column, np.ndarray):  # NumPy returns the bytes of a member that is not an array
        raise DamagedError(f"{file}: '{name}' is not a NumPy array; delete the file and prepare it again")
    return column


def without(column: np.ndarray, dropped: np.ndarray) -> np.ndarray:
    """``column`` [R, ...] without the rows ``dropped``, moved together in place.

    ``dropped`` ascends, and its last entry is R - 1.
    """
    start = 0
    for index, end in enumerate(dropped):
        column[start - index : end - index] = column[start:end]
        start = end + 1
    return column[: len(column) - len(dropped)]


def transitions(
    observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray, masks: np.ndarray, last_rows: np.ndarray
) -> Dataset:
    """A dataset of the rows of a file. The columns are moved together in place.

    Args:
      observations, actions: of each row, [R, S] and [R, A].
      rewards, masks: of each transition, [N].
      last_rows: indices of the last row of each episode, [E].
    """
    final_observations = observations[last_rows]
    terminals = np.zeros(len(observations), dtype=bool)
    terminals[last_rows - 1] = True
    return Dataset(
        observations=without(observations, last_rows),
        actions=without(actions, last_rows),
        rewards=rewards.astype(np.float32, copy=False),
        masks=masks.astype(np.float32, copy=False),
        terminals=without(terminals, last_rows),
        final_observations=final_observations,
    )
