"""OGBench's manipulation tasks: environments that are functions of their seed, and the rewards of recorded rows.

Source: OGBench 1.2.2 (Park et al., 2025), ``ogbench.manipspace``. A reward is (parts of the goal in place) - (parts
of the goal), so it lies in [-parts, 0]; the task ends, with success, once all are in place. State-based: no OpenGL
context is ever made.
"""
# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions come without stubs.)

from __future__ import annotations

import copy
import functools
import warnings
from typing import Any

import gymnasium
import mujoco
import numpy as np
from ogbench.relabel_utils import relabel_dataset

from dfp.spec import ConfigError, TaskSpec
from dfp.tasks.interface import Step
from dfp.tasks.requirements import installed, place, require_sizes, require_versions

# Another simulator is another environment: results of different versions do not belong in one table.
SIMULATOR = {"mujoco": "3.7.0", "ogbench": "1.2.2", "dm_control": "1.0.39"}

_State = mujoco.mjtState
_SCENE = int(_State.mjSTATE_QPOS | _State.mjSTATE_QVEL | _State.mjSTATE_MOCAP_POS | _State.mjSTATE_MOCAP_QUAT)


def make_environment(task: TaskSpec) -> OGBenchEnvironment:
    """See :func:`dfp.tasks.make_environment`."""
    spec = _registered(task)
    simulator = make_simulator(task.environment, success_timing=task.success_timing)
    inner: Any = simulator.unwrapped
    found = {
        "observation_size": inner.compute_observation().size,
        "action_size": inner.action_low.size,
        "max_episode_steps": spec.max_episode_steps,
    }
    require_sizes(task, found)
    return OGBenchEnvironment(simulator)


def _registered(task: TaskSpec) -> gymnasium.envs.registration.EnvSpec:
    """What OGBench registers for the task. Raises ``ConfigError`` if that is no state-based manipulation task."""
    require_simulator()
    try:
        spec = gymnasium.spec(task.environment)
    except gymnasium.error.Error as error:
        raise ConfigError(f"{place(task)}: {error}") from None
    manipulation = str(spec.entry_point).startswith("ogbench.manipspace.") and "reward_task_id" in spec.kwargs
    if not manipulation or "ob_type" in spec.kwargs:
        raise ConfigError(
            f"{place(task)} is not one of OGBench's state-based manipulation tasks; "
            "allowed: cube-*-singletask-*, scene-singletask-*, puzzle-*-singletask-*"
        )
    return spec


class OGBenchEnvironment:
    """An :class:`dfp.tasks.Environment` around a simulator of OGBench's."""

    def __init__(self, simulator: gymnasium.Env) -> None:
        self.simulator = simulator
        self._model: Any = simulator.unwrapped.model
        self._damping = self._model.dof_damping.copy()

    def reset(self, seed: int) -> np.ndarray:
        observation, _ = reset_episode(self.simulator, seed)
        self._damping[:] = self._model.dof_damping
        return observation.astype(np.float32)

    def step(self, action: np.ndarray) -> Step:
        # Scene locks its drawer and window by damping in the model. Siblings share the model, so each sets its damping.
        self._model.dof_damping[:] = self._damping
        observation, reward, terminated, truncated, info = self.simulator.step(action)
        self._damping[:] = self._model.dof_damping
        return Step(
            observation.astype(np.float32), float(reward), bool(terminated), bool(truncated), bool(info["success"])
        )

    def sibling(self) -> OGBenchEnvironment:
        """See :meth:`dfp.tasks.Environment.sibling`. It shares the model, whose compiling takes 1 s and 100 MB."""
        inner = copy.copy(self.simulator.unwrapped)
        inner._data = mujoco.MjData(inner._model)
        wrapped = gymnasium.wrappers.TimeLimit(inner, self.simulator.get_wrapper_attr("_max_episode_steps"))
        return OGBenchEnvironment(wrapped)

    def close(self) -> None:
        self.simulator.close()


def reset_episode(simulator: gymnasium.Env, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Begin the episode that belongs to ``seed``: its first observation, [S] float64, and OGBench's ``info``.

    OGBench's own reset does not guarantee this. Before a task's first state it takes a few random steps at the goal,
    with actions from a fresh, unseeded ``action_space``. They change the solver's warm start, the controls and the
    contact forces, which are part of the observation. The first reset of an instance also differs from later ones,
    because it compiles the model. No observation was seen to change (MuJoCo 3.7.0, 360 seeds), but one could. This
    function therefore keeps what describes the scene, sets everything else to its state after ``mj_resetData``, and
    observes again. ``info["time"]`` is then 0 s.
    """
    with _quiet():
        simulator.reset(seed=seed)
    inner: Any = simulator.unwrapped
    model, data = inner.model, inner.data
    scene = np.empty(mujoco.mj_stateSize(model, _SCENE))
    mujoco.mj_getState(model, data, scene, _SCENE)
    mujoco.mj_resetData(model, data)
    mujoco.mj_setState(model, data, scene, _SCENE)
    mujoco.mj_forward(model, data)
    return inner.compute_observation(), inner.get_reset_info()


def make_simulator(name: str, **settings: Any) -> gymnasium.Env:
    """OGBench's own environment, compiled and ready, without Gymnasium's checks of each step.

    Raises:
      ConfigError: the info of a step does not say whether the step succeeded.
    """
    with _quiet():
        simulator = gymnasium.make(name, disable_env_checker=True, **settings)
        simulator.reset()
        info = simulator.step(np.zeros(simulator.action_space.shape or ()))[-1]
    if "success" not in info:
        raise ConfigError(
            f"environment '{name}': the info of a step has no 'success', so nothing can be measured on it; "
            "its step must report success as OGBench's manipulation environments do"
        )
    return simulator


def _quiet() -> warnings.catch_warnings:
    """Silence two warnings that do not matter: of a missing display, and of action spaces that become float32."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def require_simulator() -> None:
    """Raise ``ConfigError`` unless the installed simulator is the one of :data:`SIMULATOR`."""
    require_versions(SIMULATOR)


def installed_versions() -> dict[str, str]:
    """Versions of all that shapes an episode, by package; ``none`` if one is missing."""
    return installed(("numpy", *SIMULATOR))


# --------------------------------------------------------------------------- rewards of recorded rows


def reward_columns(task: TaskSpec) -> dict[str, int]:
    """Columns that the rewards of ``task`` are computed from, and their widths."""
    inner = _judge(task).unwrapped
    columns = {"qpos": inner.model.nq}
    if hasattr(inner, "_num_buttons"):
        columns["button_states"] = inner._num_buttons
    return columns


def rewards_and_masks(task: TaskSpec, columns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and masks of recorded rows, each [R] float32, by OGBench's own relabelling.

    A row is judged by its state BEFORE the action, whatever ``success_timing`` says of the running environment: this
    is how OGBench labels its files. A cube is in place within 0.04 m of its goal.

    Args:
      columns: the columns of :func:`reward_columns`, each [R, width].
    """
    rows = dict(columns)
    relabel_dataset(task.environment, _judge(task), rows)
    return rows["rewards"], rows["masks"]


class _Judge:
    """An environment for OGBench's relabelling. Its goal is set when it is made and is the same after every reset.

    Its ``reset`` therefore does nothing. A real reset warns, and a file may be read in the background, where Python
    cannot silence warnings for one thread alone.
    """

    def __init__(self, environment: str) -> None:
        self.unwrapped: Any = make_simulator(environment).unwrapped

    def reset(self) -> None:
        pass


def _judge(task: TaskSpec) -> _Judge:
    return _judge_of(_registered(task).id)


@functools.lru_cache(maxsize=1)  # making it takes seconds, and a run may load a file every thousand updates
def _judge_of(environment: str) -> _Judge:
    return _Judge(environment)
