"""OGBench's npz files: their columns, and a reader that checks them.

A file holds the rows of several episodes, one after the other:

- ``observations`` [R, S], ``actions`` [R, A] float32, ``terminals`` [R] bool, True on the last ROW of an episode;
- ``qpos``, ``qvel`` float32, and ``button_states`` if a task has buttons.

The last row of an episode is the state after its last transition and has no successor: 1,001 rows are 1,000
transitions. Rewards are not stored, because the tasks that share a file differ only in their rewards.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dfp.spec import TaskSpec
from dfp.tasks.interface import Dataset
from dfp.tasks.npz import actions_of, column_of, episode_ends, reading, transitions, without
from dfp.tasks.ogbench import environment


def read_transitions(file: Path, task: TaskSpec, rewards: np.ndarray | None = None) -> Dataset:
    """The transitions of one npz file with the rewards of ``task``, each state in memory once.

    Columns are read one at a time, the widest last, and changed in place, so that memory peaks a little above the
    result.

    Args:
      rewards: [N], from an earlier reading of this file; None: compute them, which takes half of the time.

    Raises:
      DataError: the file is damaged, or a column is missing, has another shape, or holds a value that is not allowed.
    """
    # Outside `reading`, which would report an error of the simulator as damage of the file.
    widths = environment.reward_columns(task) if rewards is None else {}
    with reading(file, task) as archive:
        last_rows = episode_ends(file, archive)
        rows = int(last_rows[-1]) + 1
        if rewards is None:
            rewards, masks = (without(column, last_rows) for column in _judge(file, archive, task, widths, rows))
        else:
            masks = rewards < 0  # the reward is 0 when all parts of the goal are in place, which ends the task
        actions = actions_of(file, archive, task, last_rows)
        observations = column_of(file, archive, "observations", (rows, task.observation_size))
    return transitions(observations, actions, rewards, masks, last_rows)


def _judge(
    file: Path, archive: np.lib.npyio.NpzFile, task: TaskSpec, widths: dict[str, int], rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and masks of the rows, each [R]. ``widths``: by column that they are computed from."""
    columns = {name: column_of(file, archive, name, (rows, width)) for name, width in widths.items()}
    return environment.rewards_and_masks(task, columns)
