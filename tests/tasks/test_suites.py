"""The rooms of ``dfp/tasks``: one folder per suite, one place that names the suites, no circle, nothing heavy."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.helpers import CUBE

from dfp.plan.catalogue import load_catalogue
from dfp.spec import ConfigError
from dfp.tasks import suite_of
from dfp.tasks.suites import SUITES

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "dfp" / "tasks").rglob("*.py")
}


def imported(path: Path) -> set[str]:
    """Modules of ``dfp.tasks`` that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    # `from dfp.tasks import versions` names a module; `from dfp.tasks.x import y` the module x.
    return {name for name in names & set(MODULES) if name != "dfp.tasks" or path.name != "__init__.py"}


def test_no_circle_of_imports():
    """Imports inside functions count too, so that a circle cannot hide in them."""
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    graph = {name: imported(path) - packages for name, path in MODULES.items()}
    while leaves := {name for name, needed in graph.items() if not needed & set(graph)}:
        graph = {name: needed for name, needed in graph.items() if name not in leaves}
    assert graph == {}


def test_no_module_of_the_tasks_imports_jax_or_the_package_itself():
    for path in MODULES.values():
        source = path.read_text()
        assert not re.search(r"^\s*(import|from) (jax|flax|optax)\b", source, re.MULTILINE), path
        assert not re.search(r"from dfp\.tasks import (?!versions$)", source, re.MULTILINE), path


def test_nothing_branches_on_the_name_of_a_suite():
    for path in (ROOT / "dfp").rglob("*.py"):
        if path.name == "suites.py":
            continue
        source = path.read_text()
        assert not re.search(
            r"(task|spec)\.suite\s*(==|!=|in\b|not in\b)|\[[\w.]*\.suite\]|\.get\([\w.]*\.suite\b", source
        ), path


def test_importing_the_tasks_and_every_suite_loads_neither_jax_nor_a_simulator():
    script = (
        "import sys, dfp.tasks; from dfp.plan.catalogue import load_catalogue; load_catalogue(); "
        "print([name for name in ('jax', 'mujoco', 'gymnasium', 'ogbench', 'robosuite', 'h5py', 'requests') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"


def test_every_suite_of_the_catalogue_is_served():
    assert set(SUITES) == {"ogbench", "robomimic", "gymnasium"}
    for entry in load_catalogue().tasks.values():
        assert suite_of(entry.spec) is SUITES[entry.spec.suite]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ogbnch", "No module named 'ogbnch'; allowed: ogbench, robomimic, gymnasium, or the import path of a module"),
        ("json", "the module has no `suite`, an instance of dfp.tasks.interface.Suite"),
    ],
)
def test_a_suite_that_does_not_exist_is_refused_by_name(name, message):
    with pytest.raises(ConfigError, match=rf"^task 'cube-single-task2': suite '{name}': {message}"):
        suite_of(CUBE.model_copy(update={"suite": name}))


def test_a_mistake_in_the_module_of_a_suite_is_not_taken_for_a_missing_suite(tmp_path, monkeypatch):
    (tmp_path / "suite_with_a_mistake.py").write_text("import math\nsuite = math.no_such_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AttributeError, match="no_such_name"):
        suite_of(CUBE.model_copy(update={"suite": "suite_with_a_mistake"}))


@pytest.mark.parametrize("name", ["no-such-context", "osmesa", "EGL"])
def test_what_draws_nothing_needs_no_opengl(name):
    """A simulator steps, and a file's address is known, whatever ``MUJOCO_GL`` says and whether its library is here.

    The process that starts it had another context: its ``PYOPENGL_PLATFORM`` is inherited.
    """
    script = (
        "from dfp.plan.catalogue import load_catalogue; from dfp.tasks import make_environment, suite_of; "
        "task = load_catalogue().tasks['cube-single-task2'].spec; suite_of(task).origin(task, ''); "
        "print(make_environment(task).reset(0).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"MUJOCO_GL": name, "PYOPENGL_PLATFORM": "egl"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.returncode) == ("(28,)\n", 0), done.stderr
