"""Recording datasets with the simulator's own scripted experts, for machines without the published files.

The settings are those of OGBench's generator of its ``play`` sets. An expert carries out one random plan after another
(a cube to a random place, a button, the drawer, the window) for 1,000 steps an episode. The plans have temporally
correlated noise, and no action is random. The rows depend only on (dataset, seed, episode) and the simulator's version:
episode k does not depend on the number of processes, episodes or interruptions.
"""

from __future__ import annotations

import functools
import itertools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

from dfp.spec import DataSpec, TaskSpec, lookup
from dfp.tasks.interface import Recording
from dfp.tasks.manifest import file_names
from dfp.tasks.ogbench.environment import make_simulator, require_simulator, reset_episode
from dfp.tasks.recording import record_files

EPISODES_PER_FILE = 1000  # 1M transitions, as in the published shards
NOISE, NOISE_SMOOTHING = 0.1, 0.5  # of a plan: a share of the largest action, and a Gaussian filter's width in steps
TYPES = {"terminals": np.bool_, "button_states": np.int64}  # of OGBench's columns; all others are float32


def _cube_is_in_sight(qpos: np.ndarray) -> bool:
    """Whether scene's cube is in the middle of the table or in the drawer. OGBench drops other episodes."""
    _, y, z = qpos[14:17]  # metres
    return y < 0.29 and (y > -0.3 or 0.06 <= z <= 0.08)


def _always(qpos: np.ndarray) -> bool:
    return True


class Expert(NamedTuple):
    """How a ``play`` dataset is recorded."""

    environment: str  #: Gymnasium id
    planners: dict[str, Callable[..., Any]]  #: OGBench's planner, by the kind of target that the environment asks for
    stacking: tuple[float, float] = (0.0, 0.0)  #: range from which an episode draws its probability of stacking cubes
    healthy: Callable[[np.ndarray], bool] = _always  #: judges qpos; an episode with a row that fails is recorded anew


_CUBE = {"cube": CubePlanOracle}
_SCENE = _CUBE | {"button": ButtonPlanOracle, "drawer": DrawerPlanOracle, "window": WindowPlanOracle}
_PUZZLE = {"button": functools.partial(ButtonPlanOracle, gripper_always_closed=True)}
EXPERTS = {
    "cube-single-play-v0": Expert("cube-single-v0", _CUBE),
    "cube-double-play-v0": Expert("cube-double-v0", _CUBE, stacking=(0.0, 0.25)),
    "cube-triple-play-v0": Expert("cube-triple-v0", _CUBE, stacking=(0.05, 0.35)),
    "cube-quadruple-play-100m-v0": Expert("cube-quadruple-v0", _CUBE, stacking=(0.1, 0.5)),
    "scene-play-v0": Expert("scene-v0", _SCENE, healthy=_cube_is_in_sight),
    "puzzle-3x3-play-v0": Expert("puzzle-3x3-v0", _PUZZLE),
    "puzzle-4x4-play-v0": Expert("puzzle-4x4-v0", _PUZZLE),
}


def generate(task: TaskSpec, data: DataSpec, folder: Path, processes: int, steps: int) -> Recording:
    """Record what is missing in ``folder`` of ``data.episodes`` episodes of ``steps`` transitions.

    Raises:
      ConfigError: no expert for this dataset, or another simulator than ``dfp.tasks.ogbench.environment.SIMULATOR``.
      DataError: a recording process died.
    """
    require_simulator()
    lookup(EXPERTS, task.dataset, "dataset to generate", f"task '{task.key}'")
    assert data.episodes is not None  # DataSpec promises both for source 'generate'
    assert data.seed is not None
    # Training reads several files in rotation, and only one of them enters the online buffer. Several files are
    # therefore made only for a task whose published data has several.
    size = EPISODES_PER_FILE if task.shards > 1 else data.episodes
    batches = list(itertools.batched(range(data.episodes), size))
    names = file_names(task.dataset, len(batches))
    record = functools.partial(_record_part, task.dataset, data.seed, steps)
    record_files(folder, dict(zip(names, batches, strict=True)), record, _join, processes)
    plans, reached = np.sum([_column(folder / name, "plans").sum(axis=0) for name in names], axis=0).tolist()
    return Recording(names, {"plans": plans, "plans_reached": reached})


def record_episode(dataset: str, seed: int, episode: int, steps: int) -> dict[str, np.ndarray]:
    """One episode: OGBench's columns, each with ``steps + 1`` rows, and ``plans`` [1, 2].

    ``plans`` counts the plans carried out, and those that left their object at its target.

    NumPy's GLOBAL stream is seeded here, because OGBench's plans draw from it: call this in a separate process.
    """
    expert = EXPERTS[dataset]
    simulator = _simulator(expert.environment, steps)
    stream = np.random.default_rng((seed, episode))
    np.random.seed(stream.integers(2**32))  # noqa: NPY002
    planners = {
        kind: planner(env=simulator, noise=NOISE, noise_smoothing=NOISE_SMOOTHING)
        for kind, planner in expert.planners.items()
    }
    while True:
        stacking, reset_seed = stream.uniform(*expert.stacking), int(stream.integers(2**31))
        columns = _attempt(simulator, planners, stacking, reset_seed, expert.healthy)
        if columns is not None:
            return columns


def _attempt(
    simulator: gymnasium.Env,
    planners: dict[str, Any],
    stacking: float,
    reset_seed: int,
    healthy: Callable[[np.ndarray], bool],
) -> dict[str, np.ndarray] | None:
    """The columns of one episode; None as soon as a row is not healthy."""
    inner: Any = simulator.unwrapped
    observation, info = reset_episode(simulator, reset_seed)
    planner = _plan(planners, observation, info)
    recorded = [name for name in ("qpos", "qvel", "button_states") if name in info]
    rows = []
    plans = np.zeros((1, 2), dtype=np.int64)
    truncated = False
    while not truncated:
        action = np.clip(planner.select_action(observation, info), -1, 1)
        following, _, _, truncated, info = simulator.step(action)
        row = {"observations": observation, "actions": action, "terminals": truncated}
        row |= {name: info[f"prev_{name}"] for name in recorded}
        if not healthy(row["qpos"]):
            return None
        rows.append(row)
        observation = following
        if planner.done:
            plans += (1, info["success"])
            planner = _plan(planners, *inner.set_new_target(p_stack=stacking))
    columns = {name: np.array([row[name] for row in rows], TYPES.get(name, np.float32)) for name in rows[0]}
    return columns | {"plans": plans}


def _plan(planners: dict[str, Any], observation: np.ndarray, info: dict[str, Any]) -> Any:
    """The planner of the kind of target that is asked for, with a new plan."""
    planner = planners[info["privileged/target_task"]]
    planner.reset(observation, info)
    return planner


@functools.lru_cache(maxsize=1)
def _simulator(environment: str, steps: int) -> gymnasium.Env:
    return make_simulator(environment, mode="data_collection", terminate_at_goal=False, max_episode_steps=steps + 1)


# --------------------------------------------------------------------------- files


def _record_part(dataset: str, seed: int, steps: int, episode: int, file: Path) -> None:
    columns = record_episode(dataset, seed, episode, steps)
    with file.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **columns)


def _join(parts: list[Path], file: Path) -> None:
    """Write one npz file with the rows of all parts, a column at a time. Its bytes depend on nothing but the rows."""
    with np.load(parts[0]) as first:
        names = first.files
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, where numpy.savez would put the time of day
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as stream:
                rows = np.concatenate([_column(part, name) for part in parts])
                np.lib.format.write_array(stream, rows, allow_pickle=False)


def _column(file: Path, name: str) -> np.ndarray:
    with np.load(file, allow_pickle=False) as archive:
        return archive[name]
