"""Suite ``gymnasium``: any registered environment with a success flag, and npz files of its episodes.

Their ``actions`` are in the environment's own numbers, inside the bounds of its action space; see
:mod:`dfp.tasks.npz` for all columns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dfp.spec import ConfigError, TaskSpec
from dfp.tasks.interface import Dataset, Environment, Origin, Suite, View
from dfp.tasks.manifest import file_names
from dfp.tasks.npz import read_episodes
from dfp.tasks.rendering import simulator_module


class GymnasiumSuite(Suite):
    """Nothing records its data: files are copied to the dataset's folder, or fetched from a mirror."""

    mirror = "DFP_GYMNASIUM_URL"
    draws_itself = True

    def make_environment(self, task: TaskSpec) -> Environment:
        return simulator_module("dfp.tasks.gym.environment").make_environment(task)

    def read_transitions(self, file: Path, task: TaskSpec, rewards: np.ndarray | None = None) -> Dataset:
        bounds = simulator_module("dfp.tasks.gym.environment").action_bounds(task)
        allowed = f"the bounds of the environment's action space, {bounds.low.tolist()} to {bounds.high.tolist()}"
        return read_episodes(file, task, bounds.shrink, allowed)

    def prepare_reading(self, task: TaskSpec) -> None:
        simulator_module("dfp.tasks.gym.environment").action_bounds(task)

    def versions(self, task: TaskSpec) -> dict[str, str]:
        return simulator_module("dfp.tasks.gym.environment").installed_versions(task)

    def origin(self, task: TaskSpec, mirror: str) -> Origin:
        names = file_names(task.dataset, task.shards)
        return Origin(mirror, {name: f"{mirror}/{name}" if mirror else "" for name in names})

    def open_view(self, task: TaskSpec, camera: str | None, size: tuple[int, int] | None) -> View:
        if camera is not None or size is not None:
            raise ConfigError(f"task '{task.key}': camera and size are its environment's own, of suite '{task.suite}'")
        return simulator_module("dfp.tasks.gym.environment").OwnView(task)
