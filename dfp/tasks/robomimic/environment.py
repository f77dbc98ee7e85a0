"""Robomimic's tasks lift, can and square: robosuite environments that are functions of their seed.

Source: robomimic (Mandlekar et al., 2021), its ``v1.5`` datasets, and robosuite 1.5.1. A state is the four
low-dimensional observations of robomimic's own configurations, :data:`STATE_KEYS`, concatenated and not normalised.
The reward is robosuite's sparse reward minus 1: it is -1 until the step whose action solves the task. There it is 0,
and the episode ends. Success is judged after the action. No renderer and no OpenGL context is ever made.

robosuite is an optional extra and takes two seconds to import, so this module imports it on first use.
"""
# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions come without stubs.)

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from dfp.spec import ConfigError, TaskSpec
from dfp.tasks.interface import Step
from dfp.tasks.requirements import installed, place, require_sizes, require_versions
from dfp.tasks.robomimic.osc import Arm

# Another simulator is another environment: results of different versions do not belong in one table.
SIMULATOR = {"mujoco": "3.7.0", "robosuite": "1.5.1"}

STATE_KEYS = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "object": None}  # None: by task
ENVIRONMENTS = ("Lift", "PickPlaceCan", "NutAssemblySquare")

_OSC_POSE = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],  # metres and radians that an action of 1 asks for
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150,
    "damping": 1,
    "impedance_mode": "fixed",
    "kp_limits": [0, 300],
    "damping_limits": [0, 10],
    "position_limits": None,
    "orientation_limits": None,
    "uncouple_pos_ori": True,
    "control_delta": True,
    "interpolation": None,
    "ramp_ratio": 0.2,
    "input_ref_frame": "world",
    "gripper": {"type": "GRIP"},
}
_ENV_KWARGS = {
    "has_renderer": False,
    "has_offscreen_renderer": False,
    "ignore_done": True,
    "use_object_obs": True,
    "use_camera_obs": False,
    "control_freq": 20,
    "controller_configs": {"type": "BASIC", "body_parts": {"right": _OSC_POSE}},
    "robots": ["Panda"],
    "camera_depths": False,
    "camera_heights": 84,
    "camera_widths": 84,
    "lite_physics": False,
    "reward_shaping": False,
}


def env_args(task: TaskSpec) -> dict[str, Any]:
    """The ``env_args`` of the published v1.5 files, from which every environment of ``task`` is built.

    The reader refuses a file whose ``env_args`` differ in a setting that can change an episode (:func:`settings`). Data
    and environment therefore always belong together.
    """
    return {
        "env_name": task.environment,
        "env_version": SIMULATOR["robosuite"],
        "type": 1,  # robomimic's number for robosuite
        "env_kwargs": copy.deepcopy(_ENV_KWARGS),
    }


# Settings that do not change an episode. Those of `env_kwargs` decide only what is drawn or reported, except for
# `lite_physics`: it leaves out repeated computation, which gives the same bits in half the time
# (tests/tasks/test_robomimic.py). OSC_POSE with a fixed impedance and without interpolation does not read the others.
_NO_MATTER = {
    "env_kwargs": {
        "has_renderer",
        "has_offscreen_renderer",
        "ignore_done",
        "use_camera_obs",
        "camera_depths",
        "camera_heights",
        "camera_widths",
        "camera_names",
        "render_gpu_device_id",
        "lite_physics",
    },
    "right": {"damping", "kp_limits", "damping_limits", "damping_ratio_limits", "ramp_ratio", "control_delta"},
}
_OSC_DEFAULTS = {"damping_ratio": 1, "input_type": "delta", "interpolation": None, "input_ref_frame": "base"}


def settings(arguments: dict[str, Any]) -> dict[str, Any]:
    """The settings of a file's ``env_args`` that can change an episode, by dotted name.

    Raises ``ValueError``, ``KeyError``, ``TypeError`` or ``AttributeError`` if they have another structure.
    """
    kwargs = dict(arguments["env_kwargs"])
    controller = dict(kwargs.pop("controller_configs"))
    parts = dict(controller.pop("body_parts"))
    arm = _OSC_DEFAULTS | dict(parts.pop("right"))
    robots = kwargs.pop("robots")
    kwargs.setdefault("reward_shaping", False)
    kwargs.setdefault("use_object_obs", True)
    groups = {
        "": {"env_name": arguments["env_name"], "env_version": arguments["env_version"], "type": arguments["type"]},
        "env_kwargs.": {key: kwargs[key] for key in kwargs.keys() - _NO_MATTER["env_kwargs"]},
        "env_kwargs.robots": {"": [robots] if isinstance(robots, str) else robots},
        "controller_configs.": controller,
        "controller_configs.body_parts.": parts,
        "controller_configs.body_parts.right.": {key: arm[key] for key in arm.keys() - _NO_MATTER["right"]},
    }
    return {f"{place}{key}": group[key] for place, group in groups.items() for key in sorted(group)}


# --------------------------------------------------------------------------- environments


def make_environment(task: TaskSpec) -> RobomimicEnvironment:
    """See :func:`dfp.tasks.make_environment`."""
    if task.environment not in ENVIRONMENTS:
        raise ConfigError(f"{place(task)} is not one of Robomimic's; allowed: {', '.join(ENVIRONMENTS)}")
    if task.success_timing != "post":
        raise ConfigError(f"{place(task)}: Robomimic judges success after the action; allowed for success_timing: post")
    require_simulator()
    environment = RobomimicEnvironment(task)
    found = {"observation_size": environment.observe().size, "action_size": environment.simulator.action_dim}
    require_sizes(task, found)
    return environment


class RobomimicEnvironment:
    """An :class:`dfp.tasks.Environment` around a robosuite environment.

    robosuite draws an episode's start from NumPy's GLOBAL stream, and rebuilds the model for every episode, which takes
    0.16 s, as long as 50 steps. Here each reset seeds the global stream, restores it afterwards, and keeps the model.
    Only lift's cube has a new size in every episode, which :func:`_resize_cube` writes into the compiled model. The
    episodes are bit for bit those of robosuite's own ``reset`` and ``step`` (tests/tasks/test_robomimic.py).
    """

    def __init__(self, task: TaskSpec) -> None:
        arguments = env_args(task)
        here = {"renderer": "mujoco", "lite_physics": True, "hard_reset": False}
        with _seeded(0):  # the construction draws too
            self.simulator: Any = _robosuite().make(task.environment, **arguments["env_kwargs"] | here)
            self.simulator.reset()
        self._task = task
        self._substeps = int(self.simulator.control_timestep / self.simulator.model_timestep)
        self._begin(foreign=False)  # foreign: the model is one that `restore` brought

    def reset(self, seed: int) -> np.ndarray:
        self._reset(seed, compile_model=self._foreign)
        return self.observe()

    def _reset(self, seed: int, compile_model: bool) -> None:
        self.simulator.hard_reset = compile_model
        with _seeded(seed):
            if self._task.environment == "Lift" and not compile_model:
                _resize_cube(self.simulator)
            self.simulator.reset()
        self._begin(foreign=False)

    def _begin(self, foreign: bool) -> None:
        self._arm, self._steps, self._foreign = Arm(self.simulator), 0, foreign
        self.simulator._update_observables(force=True)  # the second observation, see `observe`

    def step(self, action: np.ndarray) -> Step:
        inner = self.simulator
        self._arm.step(action, self._substeps)
        inner._update_observables(force=True)
        success = bool(inner._check_success())
        self._steps += 1
        truncated = self._steps >= self._task.max_episode_steps
        return Step(self.observe(), float(success) - 1.0, success, truncated, success)

    def sibling(self) -> RobomimicEnvironment:
        """See :meth:`dfp.tasks.Environment.sibling`. A new environment takes 0.2 s; lift's model differs by episode."""
        return RobomimicEnvironment(self._task)

    def close(self) -> None:
        self.simulator.close()

    def observe(self) -> np.ndarray:
        """The current state, [S] float32.

        robosuite computes an object's pose in the gripper's frame (can, square) from the object's place at the previous
        observation. At an episode's first observation that pose is zero, as it is in the published files. An
        environment here observes the start of an episode twice, as in the authors' release.
        """
        return np.concatenate(list(self.observations().values())).astype(np.float32)

    def observations(self, every: bool = False) -> dict[str, np.ndarray]:
        """The observations of :data:`STATE_KEYS`, or of ``every`` key of a published file, float64."""
        found = {name: item.obs for name, item in self.simulator._observables.items() if item.is_active()}
        robot = {name: value for name, value in found.items() if name.startswith("robot0_")}
        objects = [value for name, value in found.items() if name not in robot]
        if not every:
            robot = {name: robot[name] for name in STATE_KEYS if name in robot}
        return robot | {"object": np.concatenate(objects)}

    # ----------------------------------------------------------------------- recorded episodes

    def record(self, seed: int) -> str:
        """Begin the episode of ``seed`` as :meth:`restore` would. Returns its model as XML, as in robomimic's files.

        Paths of meshes begin with ``robosuite/``, wherever the package is. robosuite finds its own meshes by that.
        """
        self._reset(seed, compile_model=True)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.xml")
            mujoco.mj_saveLastXML(str(file), self.simulator.sim.model._model)  # the model just compiled, no other
            model = file.read_text(encoding="utf-8").replace(f"{Path(_robosuite().__file__).parent}/", "robosuite/")
        self.restore(model, self.flat_state())
        return model

    def flat_state(self) -> np.ndarray:
        """Time, positions and velocities, [W] float64."""
        return self.simulator.sim.get_state().flatten()

    def restore(self, model: str, state: np.ndarray) -> np.ndarray:
        """Begin an episode at a recorded state; its first observation, [S].

        robomimic and the recordings begin an episode in the same way: the arm's controller starts at its rest pose, so
        that recorded actions lead where they led before. The next ``reset`` compiles the task's own model again.
        """
        inner = self.simulator
        inner.hard_reset = False
        inner.reset_from_xml_string(model)
        inner.sim.reset()
        inner.sim.set_state_from_flattened(state)
        inner.sim.forward()
        inner._obs_cache = {}
        inner._update_observables(force=True)
        self._begin(foreign=True)
        return self.observe()


_CUBE_HALF = (0.020, 0.022)  # metres: half of an edge lies between these; robosuite/environments/manipulation/lift.py
_CUBE_DENSITY = 1000.0  # kg/m^3, MuJoCo's default


def _resize_cube(simulator: Any) -> None:
    """Draw the size of lift's cube, as robosuite does before anything else, and write it into the compiled model."""
    model, data = simulator.sim.model._model, simulator.sim.data._data
    cube = simulator.cube
    cube.size = half = np.array([np.random.uniform(*_CUBE_HALF) for _ in range(3)])  # noqa: NPY002
    x, y, z = half
    body = model.body(cube.root_body)
    geoms = slice(body.geomadr[0], body.geomadr[0] + body.geomnum[0])
    model.geom_size[geoms] = half
    model.geom_aabb[geoms, 3:] = half
    model.bvh_aabb[model.body_bvhadr[body.id], 3:] = half
    model.geom_rbound[geoms] = model.dof_length[body.dofadr[0] + 3 : body.dofadr[0] + 6] = np.linalg.norm(half)
    model.body_mass[body.id] = mass = 8 * x * y * z * _CUBE_DENSITY
    model.body_inertia[body.id] = mass * np.array([y * y + z * z, x * x + z * z, x * x + y * y]) / 3
    mujoco.mj_setConst(model, data)  # computes the constants that depend on these


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global stream, the only one that robosuite draws from, and restore it afterwards."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(np.random.SeedSequence(seed).generate_state(4))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


# --------------------------------------------------------------------------- versions


@functools.cache
def _robosuite() -> Any:
    """robosuite, imported without the lines that it prints, and with ``MUJOCO_GL``, which it changes, set back."""
    renderer = os.environ.get("MUJOCO_GL")
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            return importlib.import_module("robosuite")
    finally:
        logging.disable(logging.NOTSET)
        os.environ.pop("MUJOCO_GL", None)
        if renderer is not None:
            os.environ["MUJOCO_GL"] = renderer
        logging.getLogger("robosuite_logs").setLevel(logging.ERROR)


def require_simulator() -> None:
    """Raise ``ConfigError`` unless the installed simulator is the one of :data:`SIMULATOR`."""
    if installed_versions()["robosuite"] == "none":
        raise ConfigError("package 'robosuite': not installed; Robomimic's tasks need `uv sync --extra robomimic`")
    require_versions(SIMULATOR)


def installed_versions() -> dict[str, str]:
    """Versions of all that shapes an episode, by package; ``none`` if one is missing."""
    return installed(("numpy", *SIMULATOR))
