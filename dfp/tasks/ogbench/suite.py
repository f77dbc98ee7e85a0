"""Suite ``ogbench``: OGBench's state-based manipulation tasks, their npz files, and experts that record more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dfp.spec import DataSpec, TaskSpec
from dfp.tasks.interface import Dataset, Environment, Origin, Recording, Suite, View
from dfp.tasks.manifest import file_names
from dfp.tasks.rendering import MuJoCoView, Sight, simulator_module

EPISODE_STEPS = 1000  # transitions per generated episode, as in the published play datasets


class OGBenchSuite(Suite):
    """Tasks that share a dataset differ only in their goal, so rewards are computed when a file is read."""

    mirror = "DFP_OGBENCH_URL"
    judges_rewards = True

    def make_environment(self, task: TaskSpec) -> Environment:
        return simulator_module("dfp.tasks.ogbench.environment").make_environment(task)

    def read_transitions(self, file: Path, task: TaskSpec, rewards: np.ndarray | None = None) -> Dataset:
        return simulator_module("dfp.tasks.ogbench.files").read_transitions(file, task, rewards)

    def prepare_reading(self, task: TaskSpec) -> None:
        simulator_module("dfp.tasks.ogbench.environment").reward_columns(task)

    def versions(self, task: TaskSpec) -> dict[str, str]:
        return simulator_module("dfp.tasks.ogbench.environment").installed_versions()

    def origin(self, task: TaskSpec, mirror: str) -> Origin:
        base = mirror or simulator_module("ogbench.utils").DATASET_URL.rstrip("/")
        if task.shards > 1:
            base = f"{base}/{task.dataset}"
        urls = {name: f"{base}/{name}" for name in file_names(task.dataset, task.shards)}
        return Origin(f"{base}/" if task.shards > 1 else next(iter(urls.values())), urls)

    def episode_steps(self, task: TaskSpec) -> int:
        return EPISODE_STEPS

    def generated_folder(self, task: TaskSpec, data: DataSpec) -> str:
        return f"{task.dataset}-{data.episodes}x{EPISODE_STEPS}-seed{data.seed}-v{data.version}"

    def generate(self, task: TaskSpec, data: DataSpec, folder: Path, processes: int) -> Recording:
        experts = simulator_module("dfp.tasks.ogbench.experts")
        return experts.generate(task, data, folder, processes, EPISODE_STEPS)

    def open_view(self, task: TaskSpec, camera: str | None, size: tuple[int, int] | None) -> View:
        made = simulator_module("dfp.tasks.ogbench.environment").make_environment(task)
        inner: Any = made.simulator.unwrapped
        sight = Sight(lookat=(0.40, 0.0, 0.16), distance=1.15, azimuth=180.0, elevation=-32.0)
        return MuJoCoView(task, made, lambda: (inner.model, inner.data), sight, camera, size)
