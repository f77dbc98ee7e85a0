"""Suite ``robomimic``: lift, can and square on robosuite, robomimic's HDF5 files, and operators that record more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dfp.spec import DataSpec, TaskSpec
from dfp.tasks.interface import Dataset, Environment, Origin, Recording, Reproduction, Suite, View
from dfp.tasks.manifest import file_names
from dfp.tasks.rendering import MuJoCoView, Sight, simulator_module

DATASET_URL = "https://huggingface.co/datasets/robomimic/robomimic_datasets/resolve/main"


class RobomimicSuite(Suite):
    """A file holds whole demonstrations, with the simulator's states, so that they can be played again."""

    mirror = "DFP_ROBOMIMIC_URL"
    extra = "robomimic"
    replays = True
    bytes_per_number = 80  # a file has every observation twice, in float64, and more observations than a state

    def make_environment(self, task: TaskSpec) -> Environment:
        return simulator_module("dfp.tasks.robomimic.environment").make_environment(task)

    def read_transitions(self, file: Path, task: TaskSpec, rewards: np.ndarray | None = None) -> Dataset:
        return simulator_module("dfp.tasks.robomimic.files").read_transitions(file, task)

    def env_args(self, task: TaskSpec, file: Path) -> dict[str, Any]:
        return simulator_module("dfp.tasks.robomimic.files").read_env_args(file, task)

    def versions(self, task: TaskSpec) -> dict[str, str]:
        return simulator_module("dfp.tasks.robomimic.environment").installed_versions()

    def origin(self, task: TaskSpec, mirror: str) -> Origin:
        (name,) = file_names(task.dataset, 1, "hdf5")
        url = f"{mirror or DATASET_URL}/v1.5/{task.dataset.replace('-', '/')}.hdf5"
        return Origin(url, {name: url})

    def generate(self, task: TaskSpec, data: DataSpec, folder: Path, processes: int) -> Recording:
        return simulator_module("dfp.tasks.robomimic.experts").generate(task, data, folder, processes)

    def open_view(self, task: TaskSpec, camera: str | None, size: tuple[int, int] | None) -> View:
        made = simulator_module("dfp.tasks.robomimic.environment").make_environment(task)
        simulator = made.simulator
        sight = Sight(lookat=(-0.05, 0.02, 0.95), distance=1.5, azimuth=155.0, elevation=-26.0)
        collisions = 0  # the group of shapes that robosuite's robots collide with

        def scene() -> tuple[Any, Any]:  # looked up at every frame, because a reset may make another model
            return simulator.sim.model._model, simulator.sim.data._data

        return MuJoCoView(task, made, scene, sight, camera, size, hidden=collisions)

    def reproduce(self, task: TaskSpec, file: Path, count: int | None) -> Reproduction:
        return simulator_module("dfp.tasks.robomimic.check").reproduce(task, file, count)
