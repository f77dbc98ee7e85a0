"""Recording datasets with the simulator's own scripted experts, for machines without the published files.

The settings are those of OGBench's generator of its ``play`` sets: an expert moves a random cube to a random place,
then the next one, along plans with temporally correlated noise, for 1,000 steps an episode. The rows are a function
of (dataset, seed, episode) and of the simulator's version alone: episode k is the same whatever the number of
processes, of episodes or of interruptions.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import shutil
import signal
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle

from dfp.spec import DataSpec, TaskSpec, lookup
from dfp.tasks.dataset import DataError, Manifest, describe, file_names, replacing
from dfp.tasks.ogbench import installed_versions, make_simulator, require_simulator, reset_episode

EPISODES_PER_FILE = 1000  # 1M transitions, as in the published shards
NOISE, NOISE_SMOOTHING = 0.1, 0.5  # of a plan: a share of the largest action, and a Gaussian filter's width in steps


class Expert(NamedTuple):
    """How a ``play`` dataset is recorded."""

    environment: str  # Gymnasium id
    stacking: tuple[float, float]  # an episode's probability of placing a cube on another is uniform between these
    planners: dict[str, type]  # OGBench's planner, by the kind of target that the environment asks for


_CUBE = {"cube": CubePlanOracle}
EXPERTS = {
    "cube-single-play-v0": Expert("cube-single-v0", (0.0, 0.0), _CUBE),
    "cube-double-play-v0": Expert("cube-double-v0", (0.0, 0.25), _CUBE),
    "cube-triple-play-v0": Expert("cube-triple-v0", (0.05, 0.35), _CUBE),
    "cube-quadruple-play-100m-v0": Expert("cube-quadruple-v0", (0.1, 0.5), _CUBE),
}


def generate(
    task: TaskSpec, data: DataSpec, folder: Path, processes: int, report: Callable[[str], None], steps: int
) -> Manifest:
    """Record what is missing in ``folder`` of ``data.episodes`` episodes of ``steps`` transitions.

    A finished episode is a file in ``parts/`` until its thousand is complete; a later call takes up what is there.

    Raises:
      ConfigError: no expert for this dataset, or another simulator than ``dfp.tasks.ogbench.SIMULATOR``.
      DataError: a recording process died.
    """
    require_simulator()
    lookup(EXPERTS, task.dataset, "dataset to generate", f"task '{task.key}'")
    assert data.episodes is not None  # DataSpec promises both for source 'generate'
    assert data.seed is not None
    batches = list(itertools.batched(range(data.episodes), EPISODES_PER_FILE))
    names = file_names(task.dataset, len(batches))
    record = functools.partial(_record_part, task.dataset, data.seed, steps)
    parts = folder / "parts"
    parts.mkdir(exist_ok=True)
    # A fresh interpreter per process: a fork would copy the caller's threads and device handles in mid-air.
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(min(processes, data.episodes), spawn, _obey_parent) as pool:
            for name, episodes in zip(names, batches, strict=True):
                if not (folder / name).exists():
                    _record_file(folder / name, [_part(parts, k) for k in episodes], record, pool, report)
    except BrokenProcessPool:
        raise DataError(
            f"{folder}: a recording process died (out of memory?); finished episodes are kept, run it again"
        ) from None
    shutil.rmtree(parts)
    files = tuple(describe(folder / name, name, task) for name in names)
    plans, reached = np.sum([_column(folder / name, "plans").sum(axis=0) for name in names], axis=0).tolist()
    return Manifest(
        dataset=task.dataset,
        source="generate",
        episodes=data.episodes,
        seed=data.seed,
        plans=plans,
        plans_reached=reached,
        rows=sum(file.rows for file in files),
        files=files,
        versions=installed_versions(),
    )


def record_episode(dataset: str, seed: int, episode: int, steps: int) -> dict[str, np.ndarray]:
    """One episode: OGBench's columns, each with ``steps + 1`` rows, and ``plans`` [1, 2].

    ``plans`` counts the plans carried out, and those that left their object at its target.

    NumPy's GLOBAL stream is seeded here, because OGBench's plans draw from it: call this in a process of its own.
    """
    expert = EXPERTS[dataset]
    simulator = _simulator(expert.environment, steps)
    inner: Any = simulator.unwrapped
    stream = np.random.default_rng((seed, episode))
    np.random.seed(stream.integers(2**32))  # noqa: NPY002
    stacking = stream.uniform(*expert.stacking)
    planners = {
        kind: planner(env=simulator, noise=NOISE, noise_smoothing=NOISE_SMOOTHING)
        for kind, planner in expert.planners.items()
    }
    observation, info = reset_episode(simulator, int(stream.integers(2**31)))
    planner = _plan(planners, observation, info)
    columns = {name: [] for name in ("observations", "actions", "terminals", "qpos", "qvel")}
    plans = np.zeros((1, 2), dtype=np.int64)
    truncated = False
    while not truncated:
        action = np.clip(planner.select_action(observation, info), -1, 1)
        following, _, _, truncated, info = simulator.step(action)
        row = (observation, action, truncated, info["prev_qpos"], info["prev_qvel"])
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
        observation = following
        if planner.done:
            plans += (1, info["success"])
            planner = _plan(planners, *inner.set_new_target(p_stack=stacking))
    types = {"terminals": np.bool_}
    return {name: np.array(column, types.get(name, np.float32)) for name, column in columns.items()} | {"plans": plans}


def _plan(planners: dict[str, Any], observation: np.ndarray, info: dict[str, Any]) -> Any:
    """The planner of the kind of target that is asked for, with a new plan."""
    planner = planners[info["privileged/target_task"]]
    planner.reset(observation, info)
    return planner


@functools.lru_cache(maxsize=1)
def _simulator(environment: str, steps: int) -> gymnasium.Env:
    return make_simulator(environment, mode="data_collection", terminate_at_goal=False, max_episode_steps=steps + 1)


# --------------------------------------------------------------------------- processes and parts


def _obey_parent() -> None:
    """End this process with its parent, however that one ends, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_after(process: Any) -> None:
    process.join()
    os._exit(1)


def _record_file(
    file: Path, parts: list[Path], record: Callable[[Path], None], pool: Executor, report: Callable[[str], None]
) -> None:
    """Record the episodes that are missing among ``parts``, and make one file of all."""
    missing = [part for part in parts if not part.exists()]
    for done, _ in enumerate(pool.map(record, missing), len(parts) - len(missing) + 1):
        if done * 10 // len(parts) > (done - 1) * 10 // len(parts):
            report(f"{file}: {done} of {len(parts)} episodes")
    _join(parts, file)
    for part in parts:
        part.unlink()


def _part(parts: Path, episode: int) -> Path:
    return parts / f"{episode:06d}.npz"


def _record_part(dataset: str, seed: int, steps: int, part: Path) -> None:
    columns = record_episode(dataset, seed, int(part.stem), steps)
    with replacing(part) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **columns)


def _join(parts: list[Path], file: Path) -> None:
    """Write one npz file with the rows of all parts, a column at a time. Its bytes depend on nothing but the rows."""
    with np.load(parts[0]) as first:
        names = first.files
    with replacing(file) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in names:
            member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, where numpy.savez would put the time of day
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as stream:
                rows = np.concatenate([_column(part, name) for part in parts])
                np.lib.format.write_array(stream, rows, allow_pickle=False)


def _column(file: Path, name: str) -> np.ndarray:
    with np.load(file, allow_pickle=False) as archive:
        return archive[name]
