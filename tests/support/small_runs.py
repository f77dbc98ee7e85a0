"""Runs at small size on rows of noise, and what is compared of them."""

import csv
import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from dfp.plan.catalogue import agent_for, load_catalogue
from dfp.runs.layout import FINAL_STATE
from dfp.runs.value_log import read_values
from dfp.spec import RunSpec
from dfp.tasks import Dataset, Step
from dfp.training import offline, stages

CATALOGUE = load_catalogue()


def random_dataset(task, shard=0) -> Dataset:
    """1,000 rows of noise in two episodes: what a run does with its rows does not depend on their meaning."""
    rng = np.random.default_rng(shard)
    terminals = np.zeros(1000, bool)
    terminals[[499, 999]] = True
    return Dataset(
        observations=rng.normal(size=(1000, task.observation_size)).astype(np.float32),
        actions=rng.uniform(-1, 1, size=(1000, task.action_size)).astype(np.float32),
        rewards=-np.ones(1000, np.float32),
        masks=np.ones(1000, np.float32),
        terminals=terminals,
        final_observations=rng.normal(size=(2, task.observation_size)).astype(np.float32),
    )


class RandomShards:
    """In place of the files of a dataset: a file's number is the seed of its rows."""

    sha256 = 64 * "0"

    def __init__(self, task, data, data_dir) -> None:
        self.count, self._task, self.prefetched = task.shards, task, []

    def read(self, shard) -> Dataset:
        return random_dataset(self._task, shard)

    def prefetch(self, shard) -> None:
        self.prefetched.append(shard)

    def close(self) -> None:
        pass


def use_random_data() -> None:
    offline.ShardReader = RandomShards


def make_spec(method: str = "dfp", **changes) -> RunSpec:
    content = {
        "stage": "finetune",
        "task": CATALOGUE.tasks["cube-single-task2"].spec,
        "data": {"source": "generate", "episodes": 1, "seed": 0},
        "agent": agent_for(method, "cube-single-task2", CATALOGUE),
        "network": {"width": 8, "depth": 1, "ensemble_size": 2},
        "training": {
            "batch_size": 8,
            "discount": 0.99,
            "learning_rate": 3e-4,
            "target_update_rate": 5e-3,
            "offline_steps": 40,
        },
        # More steps than an episode has, and a ring that wraps.
        "online": {"steps": 450, "warmup_steps": 33, "buffer_capacity": 1100},
        "evaluation": {"interval": 225, "episodes": 2},
        "seed": 0,
    }
    return RunSpec.model_validate(content | changes)


def options(**changes) -> stages.Options:
    return dataclasses.replace(stages.Options(Path("unused"), workers=1), **changes)


def weights(folder: Path) -> str:
    with np.load(folder / FINAL_STATE) as file:
        names = sorted(set(file.files) - {"stamp"})
        return hashlib.sha256(b"".join(file[name].tobytes() for name in names)).hexdigest()


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "wall_s"} for row in csv.DictReader(file)]


def values(folder: Path) -> list[tuple[int, str, str, float]]:
    """Rows of ``train.csv`` without their times."""
    return [row[:4] for row in read_values(folder)]


class Poisoned:
    """A task's environment whose observation is not a number at one step; its first episode ends at step 3."""

    def __init__(self, task, bad: int) -> None:
        self.width, self.bad, self.steps = task.observation_size, bad, 0

    def reset(self, seed: int) -> np.ndarray:
        return np.zeros(self.width, np.float32)

    def step(self, action: np.ndarray) -> Step:
        self.steps += 1
        observation = np.zeros(self.width, np.float32)
        observation[2] = np.nan if self.steps == self.bad else 0.0
        return Step(observation, -1.0, self.steps == 3, False, False)

    def sibling(self):
        return self
