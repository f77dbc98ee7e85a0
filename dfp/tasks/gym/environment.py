"""Any registered Gymnasium environment that says when it has succeeded.

An environment must have observations in a ``Box`` of one dimension and actions in a bounded one. The ``info`` of every
step must have one of :data:`SUCCESS_KEYS`, and an episode must be a function of its seed and actions. Reward and
termination are the environment's own.

Actions of a policy, in [-1, 1], are mapped onto the bounds of the action space, coordinate by coordinate. Recorded
actions are mapped from the bounds onto [-1, 1] (``dfp/tasks/gym/suite.py``).
"""

from __future__ import annotations

import importlib.metadata
import warnings
from typing import Any, NamedTuple, Self

import gymnasium
import numpy as np

from dfp.spec import ConfigError, TaskSpec
from dfp.tasks.interface import Step
from dfp.tasks.requirements import installed, place, require_sizes

SUCCESS_KEYS = ("success", "is_success")  # of a step's info; if both are there, the first counts


class Bounds(NamedTuple):
    """The bounds of an action space."""

    low: np.ndarray  #: [A] float64
    high: np.ndarray  #: [A] float64, above ``low``

    def expand(self, action: np.ndarray) -> np.ndarray:
        """From [-1, 1] to the environment's own numbers, ``[..., A]``; what lies outside is clipped."""
        return self.low + (np.clip(action, -1.0, 1.0) + 1.0) / 2.0 * (self.high - self.low)

    def shrink(self, action: np.ndarray) -> np.ndarray:
        """From the environment's own numbers to [-1, 1], ``[..., A]``, not clipped."""
        return 2.0 * (action - self.low) / (self.high - self.low) - 1.0


def make_environment(task: TaskSpec, render_mode: str | None = None) -> GymnasiumEnvironment:
    """See :func:`dfp.tasks.make_environment`. ``render_mode``: Gymnasium's, if frames are wanted."""
    environment = GymnasiumEnvironment(task, _make(task, render_mode))
    environment.examine()
    return environment


class GymnasiumEnvironment:
    """An :class:`dfp.tasks.Environment` around one of Gymnasium's."""

    def __init__(self, task: TaskSpec, simulator: gymnasium.Env) -> None:
        self.simulator = simulator
        self._task = task
        self._bounds = _bounds(task, simulator.action_space)

    def reset(self, seed: int) -> np.ndarray:
        observation, _ = self.simulator.reset(seed=seed)
        return _copied(observation)

    def step(self, action: np.ndarray) -> Step:
        own = self._bounds.expand(np.asarray(action, np.float64)).astype(self.simulator.action_space.dtype)
        observation, reward, terminated, truncated, info = self.simulator.step(own)
        return Step(_copied(observation), float(reward), bool(terminated), bool(truncated), self._success(info))

    def _success(self, info: dict[str, Any]) -> bool:
        for key in SUCCESS_KEYS:
            if key in info:
                return bool(info[key])
        raise ConfigError(
            f"{place(self._task)}: the info of a step has no '{"' or '".join(SUCCESS_KEYS)}', so nothing can be "
            "measured on it; report it there at every step, or register the environment in a wrapper that does"
        )

    def sibling(self) -> GymnasiumEnvironment:
        """See :meth:`dfp.tasks.Environment.sibling`. A new environment: what two of them could share is not known."""
        return GymnasiumEnvironment(self._task, _make(self._task, self.simulator.render_mode))

    def close(self) -> None:
        self.simulator.close()

    def examine(self) -> None:
        """Raises ``ConfigError`` if a size differs from the task's, or an episode is not a function of its seed."""
        first, again = (self._episode() for _ in range(2))
        found = {"observation_size": first[0].observation.size, "action_size": self._bounds.low.size}
        require_sizes(self._task, found)
        for step, twin in zip(first, again, strict=True):
            if step.observation.tobytes() != twin.observation.tobytes() or step[1:] != twin[1:]:
                raise ConfigError(
                    f"{place(self._task)}: two episodes with one seed and the same actions differ, so nothing can be "
                    "repeated; it must draw from self.np_random alone, after super().reset(seed=seed)"
                )

    def _episode(self) -> list[Step]:
        """The start of an episode and up to three steps of it."""
        actions = np.random.default_rng(0).uniform(-1, 1, (3, self._bounds.low.size))
        steps = [Step(self.reset(0), 0.0, False, False, False)]
        for action in actions:
            if steps[-1].terminated or steps[-1].truncated:
                break
            steps.append(self.step(action))
        return steps


def _copied(observation: Any) -> np.ndarray:
    """A copy of a state, because an environment may write the next state into the same array."""
    return np.array(observation, np.float32)


class OwnView:
    """A view whose frames the Gymnasium environment draws."""

    def __init__(self, task: TaskSpec) -> None:
        self.environment = make_environment(task, render_mode="rgb_array")
        self._task = task
        self.rate = float(self.environment.simulator.metadata.get("render_fps", 20.0))

    def frame(self) -> np.ndarray:
        picture = self.environment.simulator.render()
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
            raise ConfigError(f"task '{self._task.key}': its environment draws no pictures in mode 'rgb_array'")
        return picture

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.environment.close()


# --------------------------------------------------------------------------- what is registered


def _make(task: TaskSpec, render_mode: str | None) -> gymnasium.Env:
    """The environment with the task's cap. Raises ``ConfigError`` if it does not exist or has another cap."""
    if task.success_timing != "post":
        raise ConfigError(f"{place(task)}: a step reports its own success; allowed for success_timing: post")
    try:
        with warnings.catch_warnings(action="ignore"):  # warnings about spaces, versions and displays
            simulator = gymnasium.make(task.environment, render_mode=render_mode, disable_env_checker=True)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{place(task)}: {reason}; wanted: a registered id, or `module:id`") from None
    assert simulator.spec is not None  # of everything that is registered
    cap = simulator.spec.max_episode_steps
    if cap is None:
        simulator = gymnasium.wrappers.TimeLimit(simulator, task.max_episode_steps)
    require_sizes(task, {"max_episode_steps": cap or task.max_episode_steps})
    space = simulator.observation_space
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise ConfigError(
            f"{place(task)}: observations are {_kind(space)}; wanted a Box of one dimension: "
            "register it with gymnasium.wrappers.FlattenObservation"
        )
    return simulator


def _bounds(task: TaskSpec, space: gymnasium.Space) -> Bounds:
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise ConfigError(f"{place(task)}: actions are {_kind(space)}; wanted a Box of one dimension")
    bounds = Bounds(space.low.astype(np.float64), space.high.astype(np.float64))
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all() and (bounds.low < bounds.high).all()):
        raise ConfigError(
            f"{place(task)}: actions lie between {space.low.min()} and {space.high.max()}; wanted finite bounds, "
            "onto which [-1, 1] is mapped"
        )
    return bounds


def action_bounds(task: TaskSpec) -> Bounds:
    """Bounds of the environment's actions. Raises ``ConfigError`` as :func:`make_environment`."""
    if task.environment not in _BOUNDS:
        simulator = _make(task, None)
        _BOUNDS[task.environment] = _bounds(task, simulator.action_space)
        simulator.close()
    return _BOUNDS[task.environment]


_BOUNDS: dict[str, Bounds] = {}  # by environment; kept because a run may read a file every thousand updates


def _kind(space: gymnasium.Space) -> str:
    return f"a {type(space).__name__} of shape {space.shape}"


def installed_versions(task: TaskSpec) -> dict[str, str]:
    """Versions of NumPy, Gymnasium and the package that brings the environment, by package."""
    packages = {"numpy", "gymnasium"}
    module, _, _ = task.environment.rpartition(":")
    if module:
        packages.update(importlib.metadata.packages_distributions().get(module.split(".")[0], ()))
    return installed(sorted(packages))
