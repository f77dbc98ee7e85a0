"""npz files of a Gymnasium environment's episodes: what has to be in them, and a reader that refuses what is not.

A file holds the rows of several episodes, one after the other, in OGBench's columns:

- ``observations`` [R, S]; ``actions`` [R, A] in the environment's own numbers, inside the bounds of its action space;
- ``rewards`` [R] of each action; ``masks`` [R], 0 where that action ended the task, else 1;
- ``terminals`` [R], 1 on the last ROW of an episode, whatever ended it, else 0.

The last row of an episode is the state after its last transition: of its other columns only ``terminals`` is read.
"""

from __future__ import annotations

from pathlib import Path

from dfp.spec import TaskSpec
from dfp.tasks.gym import environment
from dfp.tasks.interface import Dataset
from dfp.tasks.npz import read_episodes


def read_transitions(file: Path, task: TaskSpec) -> Dataset:
    """The transitions of one file, its actions mapped to [-1, 1].

    Raises:
      DataError: the file is damaged, or a column is missing, has another shape, or holds what it must not.
      ConfigError: the environment, whose bounds the actions are mapped from, cannot be made.
    """
    bounds = environment.action_bounds(task)
    low, high = bounds.low.tolist(), bounds.high.tolist()
    return read_episodes(file, task, bounds.shrink, f"the bounds of the environment's action space, {low} to {high}")
