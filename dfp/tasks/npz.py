"""npz files with the rows of several episodes: what they share, whoever wrote them.

The last row of an episode is the state after its last transition and has no successor: 1,001 rows are 1,000
transitions.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dfp.spec import TaskSpec
from dfp.tasks import Dataset
from dfp.tasks.dataset import DataError, how_to_prepare


@contextlib.contextmanager
def reading(file: Path, task: TaskSpec) -> Iterator[np.lib.npyio.NpzFile]:
    """The open file. Raises ``DataError`` where it, or a column read from it, is damaged."""
    try:
        with zipfile.ZipFile(file), np.load(file, allow_pickle=False) as archive:  # np.load reads more than archives
            yield archive
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        raise DataError(f"{file}: not a whole npz file ({error}); delete it, then {how_to_prepare(task)}") from None


def episode_ends(file: Path, archive: np.lib.npyio.NpzFile) -> np.ndarray:
    """Indices of the last row of each episode, [E]. Raises ``DataError`` where ``terminals`` do not say."""
    terminals = column_of(file, archive, "terminals", None)
    if not np.isin(terminals, (0, 1)).all():
        raise DataError(f"{file}: 'terminals' holds other values than 0 and 1")
    if terminals.ndim != 1 or len(terminals) == 0 or not terminals[-1]:
        raise DataError(f"{file}: 'terminals' does not end with the end of an episode")
    ends = np.flatnonzero(terminals)
    lengths = np.diff(ends, prepend=-1)
    if lengths.min() < 2:
        raise DataError(f"{file}: the episode that ends at row {ends[lengths.argmin()]} has no transition")
    return ends


def column_of(file: Path, archive: np.lib.npyio.NpzFile, name: str, shape: tuple[int, ...] | None) -> np.ndarray:
    """A column as stored; floating-point ones as float32. ``shape`` None: whatever it has.

    Raises:
      DataError: it is missing, has another shape, or holds no numbers, NaN or infinity.
    """
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


def without(column: np.ndarray, dropped: np.ndarray) -> np.ndarray:
    """``column`` [R, ...] without the rows ``dropped`` (ascending, the last one among them), closed up in place."""
    start = 0
    for index, end in enumerate(dropped):
        column[start - index : end - index] = column[start:end]
        start = end + 1
    return column[: len(column) - len(dropped)]


def transitions(
    observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray, masks: np.ndarray, last_rows: np.ndarray
) -> Dataset:
    """A dataset of the rows of a file, closed up in place.

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
