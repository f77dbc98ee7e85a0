"""What the runs of a configuration will take, before anything starts: jobs, hours, disk and memory, by table.

Hours are steps times seconds per step, with evaluations where a finished run gave the rate. A rate comes from the
nearest thing that was measured: finished runs among the results, then ``cost.csv`` (this machine, by the rule
``cost``), then the paper's own Table 9 (an RTX 3090). Disk and memory are counted from widths, rows and parameters.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dfp.agents.actor_critic import ActorCritic
from dfp.catalogue import CATALOGUE, Catalogue, Config, base_method
from dfp.experiments import Plan, Run, plan
from dfp.session import build_agent
from dfp.spec import RunSpec

FLOAT = 4  # bytes
# Bytes of main memory beside the rows, the trainer and five simulators each at its peak, at the paper's sizes
# (tests/job_memory.py: 3.5 to 4.1 GB); with small networks and one evaluation process it is half of that.
JAX_AND_SIMULATORS = 4_000_000_000
PAPER_DEVICE = "the paper's Table 9, its sizes on an RTX 3090, evaluations not counted"
LIKE = "dfp"  # the method whose rate stands for one that nothing has measured


class Rate(NamedTuple):
    """How long a step of a run takes."""

    seconds: float
    source: str


# --------------------------------------------------------------------------- rates


@dataclasses.dataclass(frozen=True)
class Rates:
    """Seconds per step by what is known of a run, and where they were measured."""

    finished: dict[tuple[str, ...], Rate]  # by (kind of folder, method, task) and by (kind of folder, method)
    measured: dict[tuple[str, str], Rate]  # cost.csv, by (phase, method)
    paper: dict[str, Rate]  # Table 9, by method

    def of(self, folder: str, method: str) -> Rate:
        """The rate of the run in ``folder``, which ``method`` needs: that of the nearest thing that was measured.

        Table 9 has no offline updates: there an online step, simulator included, stands for one.
        """
        kind, task, name, _ = folder.split("/")
        base = base_method(method)
        nearest = (
            self.finished.get((kind, name, task)),
            self.finished.get((kind, name)),
            self.finished.get((kind, base)),
            self.measured.get(("online" if kind == "runs" else "offline", base)),
            self.paper.get(base),
            Rate(self.paper[LIKE].seconds, f"as {LIKE}, for want of a measurement: {PAPER_DEVICE}"),
        )
        return next(rate for rate in nearest if rate is not None)


def known_rates(results_dir: Path, specs: dict[str, RunSpec]) -> Rates:
    """What was measured so far.

    Args:
      results_dir: of the configuration; finished runs below it, and ``cost.csv``, are read.
      specs: the runs, by folder.
    """
    paper = CATALOGUE / "paper" / "table9.csv"
    return Rates(_finished(results_dir, specs), _measured(results_dir / "cost.csv"), _paper(paper))


def _finished(results_dir: Path, specs: dict[str, RunSpec]) -> dict[tuple[str, ...], Rate]:
    found: dict[tuple[str, ...], list[tuple[float, str]]] = defaultdict(list)
    for folder, spec in specs.items():
        path = results_dir / folder / "manifest.json"
        manifest = json.loads(path.read_text()) if path.exists() else {}
        if manifest.get("digest") == spec.digest():
            kind, task, name, _ = folder.split("/")
            for key in ((kind, name, task), (kind, name)):
                found[key].append((manifest["wall_s"] / steps(spec), manifest["device"]))
    return {key: _median(rates) for key, rates in found.items()}


def _median(rates: list[tuple[float, str]]) -> Rate:
    devices = " and ".join(sorted({device for _, device in rates}))
    return Rate(statistics.median(seconds for seconds, _ in rates), f"finished runs, on {devices}")


def _measured(path: Path) -> dict[tuple[str, str], Rate]:
    if not path.exists():
        return {}
    found: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
    for row in csv.DictReader(path.read_text().splitlines()):
        found[row["phase"], row["method"]].append((float(row["ms"]) / 1e3, row["device"]))
    return {
        key: Rate(statistics.mean(seconds for seconds, _ in rates), f"cost.csv, on {rates[0][1]}")
        for key, rates in found.items()
    }


def _paper(path: Path) -> dict[str, Rate]:
    rows = csv.DictReader(path.read_text().splitlines())
    return {row["method"]: Rate(float(row["ms"]) / 1e3, PAPER_DEVICE) for row in rows if row["phase"] == "online"}


# --------------------------------------------------------------------------- hours, disk, memory


def steps(spec: RunSpec) -> int:
    """Gradient steps of an offline run, environment steps of an online one."""
    return spec.training.offline_steps if spec.online is None else spec.online.steps


def hours(spec: RunSpec, rate: Rate) -> float:
    """Of one run at this rate."""
    return steps(spec) * rate.seconds / 3600.0


def state_bytes(spec: RunSpec) -> int:
    """Parameters, target, average and optimiser of one run: what a checkpoint holds besides the online rows."""
    agent = build_agent(spec)
    whole, actor = _state_bytes(build_agent(spec.pretraining()))
    return whole if agent.anchor_rate is None else whole + actor


@functools.cache
def _state_bytes(agent: ActorCritic) -> tuple[int, int]:
    """Of the whole state without pi_old, and of its actor. Tracing a network takes a while, and many runs share it."""
    shapes = jax.eval_shape(agent.init, jax.random.key(0))._replace(anchor=None)
    return _bytes(shapes), _bytes(shapes.actor)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def row_bytes(spec: RunSpec) -> int:
    """One transition in memory or in the file of online rows: state, action, reward, mask, kind."""
    return FLOAT * (spec.task.observation_size + spec.task.action_size + 3)


def dataset_rows(spec: RunSpec) -> int:
    """Transitions of the dataset; an episode that is generated has 1,000 at most."""
    return spec.task.rows if spec.data.episodes is None else 1000 * spec.data.episodes


def offline_rows(spec: RunSpec) -> int:
    """Transitions of the dataset that are in memory at once: all, or one of its files."""
    return dataset_rows(spec) // (spec.task.shards if spec.data.episodes is None else 1)


def kept_bytes(spec: RunSpec) -> int:
    """What a finished run leaves on disk."""
    return state_bytes(spec)


def running_bytes(spec: RunSpec) -> int:
    """What an unfinished run has on disk at most: two checkpoints and its online rows."""
    return 2 * state_bytes(spec) + (spec.online.steps * row_bytes(spec) if spec.online else 0)


def memory_bytes(spec: RunSpec) -> int:
    """Main memory of a job on a CPU: JAX, the simulator, the rows, and the dataset while they are made of it."""
    rows = offline_rows(spec)
    ring = max(spec.online.buffer_capacity, rows + 1) if spec.online else rows
    return JAX_AND_SIMULATORS + (ring + rows) * row_bytes(spec) + 2 * state_bytes(spec)


# --------------------------------------------------------------------------- the forecast


class Line(NamedTuple):
    """What a set of runs takes."""

    name: str
    pretrain: int
    finetune: int
    offline: int
    hours: float
    unshared_hours: float  # with a pretraining for every fine-tuning
    disk_bytes: int  # what the finished runs leave
    memory_bytes: int  # main memory of the largest job


class Forecast(NamedTuple):
    """A line for every table and figure that is made from runs, then one for all of them together."""

    lines: list[Line]
    total: Line
    running_bytes: int  # on disk, of the largest unfinished run
    datasets: dict[str, int]  # rows by name
    sources: dict[str, int]  # jobs by the source of their rate


class Size(NamedTuple):
    """Bytes of one run."""

    kept: int
    running: int
    memory: int


def forecast(config: Config, catalogue: Catalogue, results_dir: Path) -> Forecast:
    """What ``config`` takes, of which nothing counts as done."""
    planned = plan(config, catalogue)
    rates, methods = known_rates(results_dir, planned.specs), _methods(planned)
    rate = {folder: rates.of(folder, methods[folder]) for folder in planned.specs}
    size = {folder: _size(spec) for folder, spec in planned.specs.items()}
    by_experiment: dict[str, list[Run]] = defaultdict(list)
    for run in planned.runs:
        by_experiment[run.experiment].append(run)

    def line(name: str, runs: list[Run]) -> Line:
        starts = {run.folder: run.pretrained for run in runs}
        jobs = starts.keys() | set(starts.values())
        unshared = [folder for pair in starts.items() for folder in set(pair)]
        stages = [planned.specs[folder].stage for folder in jobs]
        return Line(
            name=name,
            pretrain=stages.count("pretrain"),
            finetune=stages.count("finetune"),
            offline=stages.count("offline"),
            hours=sum(hours(planned.specs[folder], rate[folder]) for folder in jobs),
            unshared_hours=sum(hours(planned.specs[folder], rate[folder]) for folder in unshared),
            disk_bytes=sum(size[folder].kept for folder in jobs),
            memory_bytes=max((size[folder].memory for folder in jobs), default=0),
        )

    return Forecast(
        lines=[line(name, runs) for name, runs in by_experiment.items()],
        total=line("together", planned.runs),
        running_bytes=max((one.running for one in size.values()), default=0),
        datasets={spec.task.dataset: dataset_rows(spec) for spec in planned.specs.values()},
        sources=dict(Counter(one.source for one in rate.values())),
    )


def _methods(planned: Plan) -> dict[str, str]:
    """A method that needs it, for every run and pretraining; of those that share one any will do."""
    return {folder: run.method for run in reversed(planned.runs) for folder in (run.folder, run.pretrained)}


def _size(spec: RunSpec) -> Size:
    return Size(kept_bytes(spec), running_bytes(spec), memory_bytes(spec))
