"""Table 9: milliseconds per online step and per inference step, from ``cost.csv``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dfp.plan.catalogue import load_catalogue, method_entry
from dfp.plan.run_table import read_table, require
from dfp.report.paper import paper_table
from dfp.report.tables.grid import NOTHING
from dfp.report.tables.sheet import Block, Sheet, unmarked
from dfp.spec import ConfigError

COST_TYPES = {
    "method": "str", "label": "str", "phase": "str", "ms": "float64", "task": "str", "width": "int64",
    "depth": "int64", "batch": "int64", "device": "str",
}  # fmt: skip
PHASES = {"offline": "Offline update", "online": "Online step", "evaluation": "Inference step"}
PAPER_DEVICES = {"online": "NVIDIA RTX 3090", "evaluation": "a CPU (Intel Xeon Gold 6342)"}


def table9(results_dir: Path, partial: bool) -> tuple[pd.DataFrame, Sheet]:
    """Table 9: per method and phase the mean over the tasks that were measured.

    The CSV has one row per method: ``method, label``, then per phase of :data:`PHASES` ``<phase>_ms, <phase>_tasks,
    <phase>_device, <phase>_paper_ms``. Raises :class:`ConfigError` if ``cost.csv`` is missing (without
    ``partial``), malformed, or joins what was measured at two sizes or on two devices.
    """
    catalogue = load_catalogue()
    experiment = catalogue.experiments["table9"]
    cost = read_cost(results_dir / "cost.csv", partial)
    labels = dict(zip(cost.method, cost.label, strict=True))
    labels = labels or {method: method_entry(method, catalogue).label for method in experiment.methods}
    paper = paper_table(9).pivot(index="method", columns="phase", values="ms")
    paper = paper.reindex(columns=list(PHASES))
    numbers = pd.DataFrame({"method": list(labels), "label": list(labels.values())})
    for phase in PHASES:
        cells = cost[cost.phase == phase].groupby("method", sort=False)
        columns = {"ms": cells.ms.mean(), "tasks": cells.task.nunique(), "device": cells.device.first()}
        for name, values in (columns | {"paper_ms": paper[phase]}).items():
            numbers[f"{phase}_{name}"] = numbers.method.map(values)
        numbers[f"{phase}_tasks"] = numbers[f"{phase}_tasks"].fillna(0).astype(int)
    return numbers, _sheet(numbers, cost, experiment.title)


def read_cost(path: Path, partial: bool) -> pd.DataFrame:
    """``cost.csv``, checked: per phase one size and device, per method, phase and task one time."""
    if partial and not path.exists():
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COST_TYPES.items()})
    cost = read_table(path, COST_TYPES)
    checks = (
        ("phase", cost.phase.isin(list(PHASES)), ", ".join(PHASES)),
        ("ms", (cost.ms > 0) & (cost.ms < float("inf")), "a positive number"),
        ("task", ~cost.duplicated(["method", "phase", "task"]), "each method, phase and task once"),
    )
    require(cost, checks, path)
    for phase, rows in cost.groupby("phase"):
        for column in ("width", "depth", "batch", "device"):
            found = list(dict.fromkeys(map(str, rows[column])))
            if len(found) > 1:
                raise ConfigError(f"{path}: {phase}: more than one {column}: {', '.join(found)}; allowed: one")
    return cost


def _sheet(numbers: pd.DataFrame, cost: pd.DataFrame, title: str) -> Sheet:
    ours, paper = (_text(numbers, [f"{phase}_{name}" for phase in PHASES]) for name in ("ms", "paper_ms"))
    heads = [[label] for label in numbers.label]
    devices = dict(zip(cost.phase, cost.device, strict=True))
    tasks = cost.task.nunique()
    sizes = "".join(
        f" Networks of {row['depth']} layers of {row['width']:,}, batches of {row['batch']:,} online; "
        f"mean over {tasks} task{'s' if tasks > 1 else ''}."
        for row in cost.loc[cost.phase == "online"].head(1).to_dict("records")
    )
    return Sheet(
        number=9,
        caption=f"{title}. Wall-clock time in milliseconds.{sizes} Times on different devices do not compare; "
        "how the methods of one block relate to each other does.",
        head=["Method"],
        columns=[("", f"{name} (ms)") for name in PHASES.values()],
        blocks=[
            Block(f"Measured here: {_on(devices) or 'nothing yet'}", heads, [unmarked(ours)]),
            Block(
                f"Reported in the paper, Table 9, mean over 12 tasks: {_on(PAPER_DEVICES)}", heads, [unmarked(paper)]
            ),
        ],
    )


def _on(devices: dict[str, str]) -> str:
    """`on cpu: cpu`, or each phase with its device if they differ."""
    if len(set(devices.values())) == 1:
        return f"on {next(iter(devices.values()))}"
    return "; ".join(f"{name.lower()} on {devices[phase]}" for phase, name in PHASES.items() if phase in devices)


def _text(numbers: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    return numbers.reindex(columns=columns).map(lambda ms: NOTHING if pd.isna(ms) else f"{ms:,.2f}")
