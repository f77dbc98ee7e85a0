"""Frames of a task's environment. Only this module makes an OpenGL context, and training never does.

MuJoCo chooses its context by ``MUJOCO_GL`` when it is imported. Call :func:`choose_context` before any module of a
simulator is imported.
"""
# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions come without stubs.)

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np

from dfp.spec import ConfigError, TaskSpec
from dfp.tasks.interface import Environment

CONTEXTS = {"egl": "libegl1", "osmesa": "libosmesa6"}  # Debian's package of each, the fastest context first
SIZE = (480, 480)  # pixels, width and height
DEFAULT_RATE = 20.0  # frames per second; OGBench and Robomimic are controlled at 20 Hz


def choose_context() -> str:
    """Set ``MUJOCO_GL`` to the first context that can be made here, and return it. A value that is set stays.

    Raises:
      ConfigError: no context can be made, or not the one that is set.
    """
    if chosen := _named():
        if not _works(chosen):
            raise ConfigError(
                f"MUJOCO_GL is '{chosen}', and no OpenGL context can be made with it here; unset it, or set one of "
                f"{', '.join(CONTEXTS)} (packages: {', '.join(CONTEXTS.values())})"
            )
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


def simulator_module(name: str) -> Any:
    """Import a module that imports MuJoCo, whatever ``MUJOCO_GL`` says. Only drawing needs the context that it names.

    MuJoCo fails to import if the name is unknown or its library is missing. MuJoCo is then imported without a context,
    in this process and in those that it starts.

    MuJoCo and dm_control set ``PYOPENGL_PLATFORM`` from ``MUJOCO_GL`` when they are imported, and child processes
    inherit it. dm_control refuses to be imported if the two variables disagree. ``MUJOCO_GL`` then decides.
    """
    if os.environ.get("PYOPENGL_PLATFORM") != _named():
        os.environ.pop("PYOPENGL_PLATFORM", None)
    try:
        importlib.import_module("mujoco")
    except (ImportError, RuntimeError, AttributeError):  # an unknown name, or a missing library
        os.environ["MUJOCO_GL"] = "disable"
    return importlib.import_module(name)


def _named() -> str | None:
    """``MUJOCO_GL`` in lower case and without spaces, as dm_control needs it. MuJoCo ignores case and spaces."""
    if name := os.environ.get("MUJOCO_GL"):
        os.environ["MUJOCO_GL"] = name = name.strip().lower()
    return name


def _works(context: str) -> bool:
    """Whether a context can be made, tried in a separate process, because an installed library may have no display."""
    script = (
        "import mujoco; context = mujoco.GLContext(64, 64); context.make_current(); "
        "mujoco.MjrContext(mujoco.MjModel.from_xml_string('<mujoco/>'), mujoco.mjtFontScale.mjFONTSCALE_100)"
    )  # the last call fails with GLFW's context, which without a display is made silently and cannot draw
    surroundings = {**os.environ, "MUJOCO_GL": context}
    surroundings.pop("PYOPENGL_PLATFORM", None)
    try:
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=surroundings, capture_output=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


class Sight(NamedTuple):
    """The place of a free camera."""

    lookat: tuple[float, float, float]  #: metres
    distance: float  #: metres, from there
    azimuth: float  #: degrees
    elevation: float  #: degrees


class MuJoCoView:
    """MuJoCo's renderer for an environment that does not draw itself."""

    rate = DEFAULT_RATE

    def __init__(
        self,
        task: TaskSpec,
        environment: Environment,
        scene: Callable[[], tuple[Any, Any]],
        sight: Sight,
        camera: str | None,
        size: tuple[int, int] | None,
        hidden: int | None = None,
    ) -> None:
        """
        Args:
          environment: the environment to draw; closed with the view.
          scene: returns the current model and data of MuJoCo.
          sight: place of the free camera, which is used if ``camera`` is None.
          camera: name of a camera in the model, or None.
          size: width and height in pixels; None: :data:`SIZE`.
          hidden: the group of shapes that are not drawn; None: all are drawn.

        Raises:
          ConfigError: there is no such camera.
        """
        import mujoco

        self.environment = environment
        self._scene, self._size = scene, size or SIZE
        self._option = mujoco.MjvOption()
        if hidden is not None:
            self._option.geomgroup[hidden] = False
        self._drawn: tuple[Any, Any] | None = None  # a model, and its renderer
        model, _ = scene()
        cameras = [model.camera(index).name for index in range(model.ncam)]
        self._camera: Any = camera
        if camera is None:
            self._camera = mujoco.MjvCamera()
            self._camera.lookat[:], self._camera.distance, self._camera.azimuth, self._camera.elevation = sight
        elif camera not in cameras:
            self.environment.close()
            raise ConfigError(f"task '{task.key}': no camera '{camera}'; allowed: {', '.join(cameras)}")

    def frame(self) -> np.ndarray:
        model, data = self._scene()
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
