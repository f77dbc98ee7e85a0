"""Checks of versions, simulators and rendering."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from dfp.errors import one_line
from dfp.files import read_text
from dfp.ops.doctor.findings import Finding, Level
from dfp.shipped import ROOT
from dfp.spec import TaskSpec
from dfp.tasks import make_environment, suite_of

RENDER_S = 300.0  # seconds; drawing that takes longer counts as hanging
# Packages that compute a run's numbers or the report's: another version may round, draw or simulate differently.
# All other packages read, write, plan or print. Their versions are compared too, but differences are warnings.
NUMBERS = (
    "jax", "jaxlib", "flax", "optax", "ml-dtypes", "opt-einsum",  # the networks, their updates, the order of sums
    "numpy", "scipy", "numba", "llvmlite", "pandas",  # sampling, statistics, robosuite's compiled controllers, tables
    "mujoco", "dm-control", "ogbench", "gymnasium", "robosuite", "mink", "daqp", "qpsolvers",  # simulators, experts
    "h5py",  # the data
)  # fmt: skip
# On a GPU also JAX's plugins and the CUDA libraries that they load. Without a plugin nothing loads them.
CUDA_PLUGIN = re.compile(r"jax-cuda\d+-(plugin|pjrt)")
CUDA_LIBRARY = re.compile(r"jax-cuda\d+-(plugin|pjrt)|nvidia-.+")
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


def computes_numbers(package: str, installed: Iterable[str]) -> bool:
    """Whether another version of ``package`` may change a result in an environment with the ``installed`` packages."""
    on_gpu = any(CUDA_PLUGIN.fullmatch(name) for name in installed)
    return package in NUMBERS or (on_gpu and CUDA_LIBRARY.fullmatch(package) is not None)


def check_versions(
    locked: Mapping[str, str], installed: Mapping[str, str], own: str = "dfp-repro", prefix: Path | None = None
) -> list[Finding]:
    """Packages that differ from the lock: an error for those that compute numbers, a warning for the others.

    Packages that the lock does not list are left out. ``prefix``: the folder of the environment, on which the remedy
    depends. Default: the running environment.
    """
    shared = sorted(set(locked) & set(installed) - {own})
    differ = {name: locked[name] for name in shared if installed[name] != locked[name]}
    numbers = {name: version for name, version in differ.items() if computes_numbers(name, installed)}
    others = {name: version for name, version in differ.items() if name not in numbers}

    def finding(level: Level, packages: Mapping[str, str], why: str) -> Finding:
        named = ", ".join(f"{name} {installed[name]} (lock: {version})" for name, version in packages.items())
        pins = [f"{name}=={version}" for name, version in packages.items()]
        return Finding("versions", level, f"not the locked version: {named}", why, install_command(pins, prefix=prefix))

    found = []
    if numbers:
        found.append(finding("error", numbers, "results of different versions do not belong in one table"))
    if others:
        found.append(finding("warning", others, "they compute no result, but only the locked versions are tested"))
    return found or [Finding("versions", "ok", f"{len(shared)} packages have the versions of uv.lock")]


def install_command(arguments: Iterable[str], extra: str | None = None, prefix: Path | None = None) -> str:
    """What to type to install the lock, by the installer that made the environment.

    conda and uv install the whole lock; uv needs the name of the ``extra``. pip installs its ``arguments`` only.
    """
    prefix = prefix or Path(sys.prefix)
    if (prefix / "conda-meta").is_dir():
        return (
            f"conda env update --prefix {shlex.quote(str(prefix))} --file {shlex.quote(str(ROOT / 'environment.yml'))}"
        )
    settings = prefix / "pyvenv.cfg"
    if settings.is_file() and re.search(r"^uv\s*=", read_text(settings), re.MULTILINE):
        return "uv sync --inexact" + (f" --extra {extra}" if extra else "")
    return shlex.join([str(prefix / "bin" / "pip"), "install", *arguments])


def check_simulators(tasks: Iterable[TaskSpec]) -> list[Finding]:
    """Check the simulator of every dataset once. Tasks that share a dataset differ only in their goal."""
    kinds = {(task.suite, task.dataset): task for task in tasks}
    return [check_simulator(task) for task in kinds.values()]


def check_simulator(task: TaskSpec) -> Finding:
    """Make the task's environment, reset it and step once."""
    extra = suite_of(task).extra
    remedy = install_command(["--editable", f".[{extra}]" if extra else "."], extra)
    reason = "its jobs would stop at once with exit code 2"
    try:
        environment = make_environment(task)
        observation = environment.reset(0)
        step = environment.step(np.zeros(task.action_size, np.float32))
        environment.close()
    except Exception as error:  # whatever a broken simulator raises is the finding
        text = one_line(error) or type(error).__name__
        return Finding("simulator", "error", f"{task.key} ({task.suite}): {text}", reason, remedy)
    if not (np.isfinite(observation).all() and np.isfinite(step.observation).all() and np.isfinite(step.reward)):
        return Finding("simulator", "error", f"{task.key}: a state or reward is not finite", reason, remedy)
    return Finding("simulator", "ok", f"{task.key} ({task.suite}): made, reset and stepped, S = {observation.size}")


def check_rendering(python: str = sys.executable, source: str = RENDER) -> Finding:
    """Draw a picture without a screen, in a separate process: a broken driver ends it, not this one."""
    settings = {"MUJOCO_GL": "egl"} | os.environ
    backend = settings["MUJOCO_GL"]
    try:
        done = subprocess.run([python, "-c", source], capture_output=True, text=True, timeout=RENDER_S, env=settings)
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        problem = said[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"no answer within {RENDER_S:.0f} s"
    if not problem:
        return Finding("rendering", "ok", f"MuJoCo draws with MUJOCO_GL={backend}")
    return Finding(
        "rendering",
        "error",
        f"MuJoCo cannot draw with MUJOCO_GL={backend}: {problem}",
        "pictures of the tasks need OpenGL; training does not, it opens no context",
        "MUJOCO_GL=osmesa dfp ops doctor --rendering    (Debian: apt-get install libegl1 libosmesa6)",
    )
