"""The directions of imports: a room imports from the floors below it, no module imports itself on a detour."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the ground up. A room may import from its own floor as long as no circle closes.
FLOORS = (
    {"errors", "files", "spec", "drift", "shipped"},
    {"agents", "tasks", "runs", "plan"},
    {"training", "report"},
    {"ops", "studies", "policies"},
    {"commands"},
    {"__main__", "__init__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name below ``dfp``."""
    package = ROOT / "dfp"
    names = {path: path.relative_to(package).with_suffix("").parts for path in sorted(package.rglob("*.py"))}
    return {".".join(parts).removesuffix(".__init__"): path for path, parts in names.items()}


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a file imports, at its top or inside a function; not for types alone."""
    found = set()
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dfp":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "dfp"]
        for name in names:
            inside = name.partition(".")[2]
            found.add(inside if inside in known else inside.rpartition(".")[0])
    return {name for name in found if name in known and name}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(path, known) - {name} for name, path in known.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_has_a_floor():
    assert {room(name) for name in modules()} == set(FLOOR)


def test_no_import_goes_up(graph: dict[str, set[str]]):
    up = [
        f"{name} -> {other}"
        for name, others in graph.items()
        for other in others
        # the package's own lazy load_policy is the one door from the roof
        if name != "__init__" and FLOOR[room(other)] > FLOOR[room(name)]
    ]
    assert up == []


def test_no_circle_of_modules(graph: dict[str, set[str]]):
    list(graphlib.TopologicalSorter(graph).static_order())


def test_no_circle_of_rooms(graph: dict[str, set[str]]):
    rooms: dict[str, set[str]] = {}
    for name, others in graph.items():
        rooms.setdefault(room(name), set()).update({room(other) for other in others} - {room(name)})
    list(graphlib.TopologicalSorter(rooms).static_order())


def test_agents_know_neither_environments_nor_training(graph: dict[str, set[str]]):
    assert {room(other) for name in graph if room(name) == "agents" for other in graph[name]} <= {
        "agents", "spec", "drift", "errors",
    }  # fmt: skip


def test_the_report_reads_files_only(graph: dict[str, set[str]]):
    assert {room(other) for name in graph if room(name) == "report" for other in graph[name]} <= {
        "report", "plan", "runs", "spec", "files", "errors", "shipped",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["plan", "runs", "tasks"])
def test_loads_without_jax(name: str):
    """Planning a grid of a thousand runs must not cost an import of JAX."""
    names = [module for module in modules() if room(module) == name]
    code = (
        "import contextlib, importlib, sys\n"
        "from dfp.spec import ConfigError\n"
        f"for name in {names}:\n"
        "    with contextlib.suppress(ConfigError):  # a suite's files whose extra is not installed\n"
        "        importlib.import_module(f'dfp.{name}')\n"
        "print([name for name in ('jax', 'flax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_training_loads_neither_pandas_nor_a_simulator():
    """A run starts with what it needs: data frames belong to the tables, and a simulator to its own process."""
    code = (
        "import sys, dfp.training.stages, dfp.agents.dfp\n"
        "print([name for name in ('pandas', 'matplotlib', 'mujoco', 'ogbench') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
