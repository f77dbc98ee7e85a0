"""Frames of a task's environment: the only place where an OpenGL context is made, and never by training.

MuJoCo chooses its context when it is imported, by ``MUJOCO_GL``: call :func:`choose_context` before anything of a
simulator is.
"""
# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions come without stubs.)

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, Protocol, Self

import numpy as np

from dfp.spec import ConfigError, TaskSpec
from dfp.tasks import Environment, make_environment

CONTEXTS = {"egl": "libegl1", "osmesa": "libosmesa6"}  # in the order of their speed; Debian's package that brings each
SIGHTS = {  # by suite: where a free camera looks [m], from how far [m], azimuth and elevation [degrees]
    "ogbench": ((0.40, 0.0, 0.16), 1.15, 180.0, -32.0),
    "robomimic": ((-0.05, 0.02, 0.95), 1.5, 155.0, -26.0),
}
SIZE = (480, 480)  # pixels, width and height
DEFAULT_RATE = 20.0  # frames per second; OGBench and Robomimic are controlled at 20 Hz


class View(Protocol):
    """An environment and a camera that looks at it."""

    rate: float  # steps per second of the world shown

    @property
    def environment(self) -> Environment: ...

    def frame(self) -> np.ndarray:
        """What is to be seen now, ``[height, width, 3]`` uint8."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def choose_context() -> str:
    """Set ``MUJOCO_GL`` to the first context that can be made here, and return it. A value that is set stays.

    Raises:
      ConfigError: none can.
    """
    if chosen := os.environ.get("MUJOCO_GL"):
        return chosen
    for context in CONTEXTS:
        if _works(context):
            os.environ["MUJOCO_GL"] = context
            return context
    packages = " or ".join(CONTEXTS.values())
    raise ConfigError(
        f"no OpenGL context: neither {' nor '.join(CONTEXTS)} works here; without a GPU's driver install OSMesa, "
        f"`apt-get install libosmesa6` (packages: {packages}), or `conda install -c conda-forge mesalib`"
    )


def _works(context: str) -> bool:
    """Whether a context can be made, tried in a process of its own: a library that is there need not have a display."""
    script = "import mujoco; context = mujoco.GLContext(64, 64); context.make_current()"
    surroundings = {**os.environ, "MUJOCO_GL": context}
    surroundings.pop("PYOPENGL_PLATFORM", None)
    try:
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=surroundings, capture_output=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def open_view(task: TaskSpec, camera: str | None = None, size: tuple[int, int] | None = None) -> View:
    """A fresh environment of ``task`` and a camera.

    Args:
      camera: by its name in the simulator's model; None: a free one with robot and objects in sight.
      size: width and height in pixels; None: :data:`SIZE`. Of suite ``gymnasium`` both are the environment's own.

    Raises:
      ConfigError: as :func:`dfp.tasks.make_environment`; there is no such camera, or the environment draws no frames.
    """
    if task.suite == "gymnasium":
        if camera is not None or size is not None:
            raise ConfigError(f"task '{task.key}': camera and size are its environment's own, of suite 'gymnasium'")
        return _OwnView(task)
    return _MuJoCoView(task, camera, size or SIZE)


class _MuJoCoView:
    """MuJoCo's renderer, beside an environment that knows nothing of it."""

    rate = DEFAULT_RATE

    def __init__(self, task: TaskSpec, camera: str | None, size: tuple[int, int]) -> None:
        import mujoco

        self.environment = make_environment(task)
        self._task, self._size = task, size
        self._option = mujoco.MjvOption()
        self._option.geomgroup[0] = task.suite != "robomimic"  # what robosuite's robots collide with
        self._drawn: tuple[Any, Any] | None = None  # a model, and its renderer
        cameras = [self._parts[0].camera(index).name for index in range(self._parts[0].ncam)]
        self._camera: Any = camera
        if camera is None:
            self._camera = mujoco.MjvCamera()
            self._camera.lookat[:], self._camera.distance, self._camera.azimuth, self._camera.elevation = SIGHTS[
                task.suite
            ]
        elif camera not in cameras:
            self.environment.close()
            raise ConfigError(f"task '{task.key}': no camera '{camera}'; allowed: {', '.join(cameras)}")

    @property
    def _parts(self) -> tuple[Any, Any]:
        """Model and data, as they are now: robosuite makes others."""
        simulator: Any = self.environment.simulator
        if self._task.suite == "robomimic":
            return simulator.sim.model._model, simulator.sim.data._data
        return simulator.unwrapped.model, simulator.unwrapped.data

    def frame(self) -> np.ndarray:
        model, data = self._parts
        renderer = self._renderer(model)
        renderer.update_scene(data, self._camera, self._option)
        return renderer.render()

    def _renderer(self, model: Any) -> Any:
        import mujoco

        if self._drawn is None or self._drawn[0] is not model:
            self._close_renderer()
            width, height = self._size
            shape = model.vis.global_
            shape.offwidth, shape.offheight = max(shape.offwidth, width), max(shape.offheight, height)
            self._drawn = model, mujoco.Renderer(model, height, width)
        return self._drawn[1]

    def _close_renderer(self) -> None:
        if self._drawn is not None:
            self._drawn[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_renderer()
        self.environment.close()


class _OwnView:
    """What a Gymnasium environment draws itself."""

    def __init__(self, task: TaskSpec) -> None:
        from dfp.tasks import gymnasium

        self.environment = gymnasium.make_environment(task, render_mode="rgb_array")
        self._task = task
        self.rate = float(self.environment.simulator.metadata.get("render_fps", DEFAULT_RATE))

    def frame(self) -> np.ndarray:
        picture = self.environment.simulator.render()
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
            raise ConfigError(f"task '{self._task.key}': its environment draws no pictures in mode 'rgb_array'")
        return picture

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.environment.close()
