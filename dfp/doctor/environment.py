"""Versions, simulators, rendering: what the jobs will run with."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from dfp.doctor.findings import Finding
from dfp.spec import ConfigError, TaskSpec

LOCK = Path(__file__).resolve().parents[2] / "uv.lock"
EXTRA_OF_SUITE = {"robomimic": "robomimic"}
STEP_S = 300.0  # a simulator that needs longer for its first step hangs
RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data)
    print(renderer.render().max())
"""


def locked_versions(text: str) -> dict[str, str]:
    """Versions that ``uv.lock`` pins, by package name in its normal form; a package with several is left out."""
    found: dict[str, set[str]] = {}
    for package in tomllib.loads(text)["package"]:
        if "version" in package:
            found.setdefault(package["name"], set()).add(package["version"])
    return {name: next(iter(versions)) for name, versions in found.items() if len(versions) == 1}


def installed_versions() -> dict[str, str]:
    """Versions of this environment, by package name in its normal form."""
    return {
        re.sub(r"[-_.]+", "-", distribution.name).lower(): distribution.version
        for distribution in importlib.metadata.distributions()
    }


def check_versions(locked: Mapping[str, str], installed: Mapping[str, str], own: str = "dfp-repro") -> list[Finding]:
    """Packages whose version is not the locked one. What the lock does not know is none of its business."""
    shared = sorted(set(locked) & set(installed) - {own})
    differ = [f"{name} {installed[name]} (lock: {locked[name]})" for name in shared if installed[name] != locked[name]]
    if not differ:
        return [Finding("versions", "ok", f"{len(shared)} packages have the versions of uv.lock")]
    return [
        Finding(
            "versions",
            "error",
            f"not the locked version: {', '.join(differ)}",
            "results of different versions do not belong in one table; simulators refuse others than theirs",
            "uv sync --inexact    (with conda: conda env update -f environment.yml)",
        )
    ]


def check_simulators(tasks: Iterable[TaskSpec]) -> list[Finding]:
    """Make every suite's environment and step once; one task per environment, they differ in their goal alone."""
    kinds = {(task.suite, task.dataset): task for task in tasks}
    return [check_simulator(task) for task in kinds.values()]


def check_simulator(task: TaskSpec) -> Finding:
    """Make the task's environment, reset it and step once."""
    extra = EXTRA_OF_SUITE.get(task.suite)
    remedy = f"uv sync --inexact --extra {extra}" if extra else "uv sync --inexact"
    reason = "its jobs would stop at once with exit code 2"
    try:
        from dfp.tasks import make_environment

        environment = make_environment(task)
        observation = environment.reset(0)
        step = environment.step(np.zeros(task.action_size, np.float32))
        environment.close()
    except (ConfigError, ImportError) as error:
        text = " ".join(str(error).split())
        return Finding("simulator", "error", f"{task.key} ({task.suite}): {text}", reason, remedy)
    if not (np.isfinite(observation).all() and np.isfinite(step.observation).all() and np.isfinite(step.reward)):
        return Finding("simulator", "error", f"{task.key}: a state or reward is not finite", reason, remedy)
    return Finding("simulator", "ok", f"{task.key} ({task.suite}): made, reset and stepped, S = {observation.size}")


def check_rendering(python: str = sys.executable, source: str = RENDER) -> Finding:
    """Draw a picture without a screen, in a process of its own: a broken driver ends it, not this one."""
    settings = {"MUJOCO_GL": "egl"} | os.environ
    backend = settings["MUJOCO_GL"]
    try:
        done = subprocess.run([python, "-c", source], capture_output=True, text=True, timeout=STEP_S, env=settings)
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        problem = said[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"no answer within {STEP_S:.0f} s"
    if not problem:
        return Finding("rendering", "ok", f"MuJoCo draws with MUJOCO_GL={backend}")
    return Finding(
        "rendering",
        "error",
        f"MuJoCo cannot draw with MUJOCO_GL={backend}: {problem}",
        "pictures of the tasks need OpenGL; training does not, it opens no context",
        "MUJOCO_GL=osmesa python -m dfp doctor --rendering    (Debian: apt-get install libegl1 libosmesa6)",
    )
