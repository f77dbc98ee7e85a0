"""The pictures of how things depend on each other: the rules of the workflow, and the folders of the package.

``uv run python docs/diagrams.py`` draws ``docs/dag.svg`` from Snakemake's own rule graph of the demo,
and ``docs/house.svg`` from the import statements below ``dfp/``. ``tests/workflow/test_diagrams.py`` compares them.
"""

import ast
import graphlib
import itertools
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parent
PACKAGE = DOCS.parent / "dfp"
EVERYWHERE = {"errors", "files", "shipped", "__init__", "__main__"}  # imported by nearly all, or the doors
Graph = dict[str, set[str]]  # a node, and what it needs

STYLE = {
    "svg.hashsalt": "dfp",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
}  # fmt: skip; the same picture at every run, with text that can be searched
COLUMN, ROW = 1.45, 0.85  # inches between the middles of two boxes


def rules() -> Graph:
    """The rules of the demo and the rules whose files they read."""
    command = [sys.executable, "-m", "snakemake", "--configfile", "config/demo.yaml", "--rulegraph"]
    text = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=True).stdout
    names = dict(re.findall(r'^\s*(\d+)\[label = "(\w+)"', text, re.MULTILINE))
    graph: Graph = {name: set() for name in names.values()}
    for needed, name in re.findall(r"^\s*(\d+) -> (\d+)", text, re.MULTILINE):
        graph[names[name]].add(names[needed])
    return graph


def rooms() -> Graph:
    """The folders and files at the top of the package and those that they import, not for types alone."""
    graph: Graph = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if name in EVERYWHERE:
            continue
        tree = ast.parse(path.read_text())
        for block in ast.walk(tree):
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
                block.body = []
        found = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        parts = [module.split(".") for module in found if module.startswith("dfp.")]
        graph.setdefault(name, set()).update({part[1] for part in parts} - EVERYWHERE - {name})
    return graph


def reduced(graph: Graph) -> Graph:
    """Without the needs that follow from others: of a -> b -> c and a -> c, the last is left out."""
    reach: Graph = {}
    for name in graphlib.TopologicalSorter(graph).static_order():
        reach[name] = set().union(*({needed} | reach[needed] for needed in graph[name]))
    return {
        name: {needed for needed in needs if not any(needed in reach[other] for other in needs)}
        for name, needs in graph.items()
    }


def ranks(graph: Graph) -> dict[str, int]:
    """The row of each node: above all that it needs."""
    rank: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(graph).static_order():
        rank[name] = 1 + max((rank[needed] for needed in graph[name]), default=-1)
    return rank


def bent(graph: Graph) -> Graph:
    """The graph with bends: an arrow over several rows has a place of its own in each, so that it crosses no box.

    The arrows from one node share their bends, which are named after the node and the row: ``runs 1``.
    """
    rank, result = ranks(graph), {name: set[str]() for name in graph}
    for name, needs in graph.items():
        for needed in needs:
            way = [needed, *(f"{needed} {row}" for row in range(rank[needed] + 1, rank[name])), name]
            for below, above in itertools.pairwise(way):
                result.setdefault(above, set()).add(below)
    return result


def places(graph: Graph) -> dict[str, tuple[float, float]]:
    """Column and row of each node, beside its neighbours in the rows around."""
    rank = ranks(graph)
    rows = [sorted(name for name in graph if rank[name] == number) for number in range(max(rank.values()) + 1)]
    column = {name: index - (len(row) - 1) / 2 for row in rows for index, name in enumerate(row)}
    users = {name: {user for user in graph if name in graph[user]} for name in graph}
    for sweep in range(8):
        for row in rows if sweep % 2 else rows[::-1]:
            near = {name: [column[other] for other in graph[name] | users[name]] or [0.0] for name in row}
            row.sort(key=lambda name, near=near: (sum(near[name]) / len(near[name]), name))
            column |= {name: index - (len(row) - 1) / 2 for index, name in enumerate(row)}
    return {name: (column[name], rank[name]) for name in graph}


def border(middle: tuple[float, float], other: tuple[float, float], half: tuple[float, float]) -> tuple[float, float]:
    """Where the line from the middle of a box to another point leaves the box."""
    across, up = other[0] - middle[0], other[1] - middle[1]
    share = min(half[0] / abs(across) if across else 1.0, half[1] / abs(up) if up else 1.0)
    return middle[0] + share * across, middle[1] + share * up


def draw(graph: Graph, path: Path) -> Path:
    """Boxes in rows, and an arrow from each to what uses it."""
    names = sorted(graph)
    graph = bent(reduced(graph))
    place = places(graph)
    columns, heights = zip(*place.values(), strict=True)
    size = ((max(columns) - min(columns) + 1) * COLUMN, (max(heights) + 1) * ROW)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(min(columns) - 0.5, max(columns) + 0.5), ylim=(-0.5, max(heights) + 0.5))
        axes.axis("off")
        half = dict.fromkeys(graph, (0.0, 0.0))  # half the width and height of each box; a bend has none
        for name in names:
            box = {"boxstyle": "round,pad=0.45", "facecolor": "#e8f0f8", "edgecolor": "#2b5d8c", "linewidth": 1.1}
            text = axes.text(*place[name], name, ha="center", va="center", color="#1d1d1d", bbox=box, zorder=2)
            figure.draw_without_rendering()  # gives the box its size
            extent = text.get_bbox_patch().get_window_extent().transformed(axes.transData.inverted())
            half[name] = (extent.width / 2, extent.height / 2)
        for name, needs in sorted(graph.items()):
            for needed in sorted(needs):
                ends = border(place[name], place[needed], half[name]), border(place[needed], place[name], half[needed])
                head = {"arrowstyle": "-|>", "shrinkB": 2} if name in names else {"arrowstyle": "-", "shrinkB": 0}
                axes.annotate(
                    "", *ends, arrowprops={"color": "#8a8a8a", "linewidth": 1.1, "shrinkA": 0, **head}, zorder=1
                )
        figure.savefig(path, metadata={"Date": None, "Creator": None}, facecolor="white")
    return path


if __name__ == "__main__":
    print(draw(rooms(), DOCS / "house.svg"))
    print(draw(rules(), DOCS / "dag.svg"))
