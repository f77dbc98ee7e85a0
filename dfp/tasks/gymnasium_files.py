"""npz files of a Gymnasium environment's episodes: what has to be in them, and a reader that refuses what is not.

A file holds the rows of several episodes, one after the other, in OGBench's columns:

- ``observations`` [R, S]; ``actions`` [R, A] in the environment's own numbers, inside the bounds of its action space;
- ``rewards`` [R] of each action; ``masks`` [R], 0 where that action ended the task, else 1;
- ``terminals`` [R], 1 on the last ROW of an episode, whatever ended it, else 0.

The last row of an episode is the state after its last transition: of its other columns only ``terminals`` is read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dfp.spec import TaskSpec
from dfp.tasks import Dataset, gymnasium
from dfp.tasks.dataset import ACTION_LIMIT, DataError
from dfp.tasks.npz import column_of, episode_ends, reading, transitions, without

TOLERANCE = 1e-4  # by which a recorded action may lie outside [-1, 1], for rounding


def read_transitions(file: Path, task: TaskSpec) -> Dataset:
    """The transitions of one file, its actions mapped to [-1, 1].

    Raises:
      DataError: the file is damaged, or a column is missing, has another shape, or holds what it must not.
      ConfigError: the environment, whose bounds the actions are mapped from, cannot be made.
    """
    bounds = gymnasium.action_bounds(task)
    with reading(file, task) as archive:
        last_rows = episode_ends(file, archive)
        rows = int(last_rows[-1]) + 1
        rewards, masks = (without(column_of(file, archive, name, (rows,)), last_rows) for name in ("rewards", "masks"))
        actions = bounds.shrink(column_of(file, archive, "actions", (rows, task.action_size)))
        observations = column_of(file, archive, "observations", (rows, task.observation_size))
    if not np.isin(masks, (0, 1)).all():
        raise DataError(f"{file}: 'masks' holds other values than 0 and 1")
    outside = np.abs(np.delete(actions, last_rows, axis=0)).max(axis=1) > 1 + TOLERANCE
    if outside.any():
        low, high = bounds.low.tolist(), bounds.high.tolist()
        raise DataError(
            f"{file}: 'actions' leave the bounds of the environment's action space, {low} to {high}, first in "
            f"transition {outside.argmax()}; record them as they were given to its step"
        )
    actions = np.clip(actions, -ACTION_LIMIT, ACTION_LIMIT).astype(np.float32)
    return transitions(observations.astype(np.float32, copy=False), actions, rewards, masks, last_rows)
