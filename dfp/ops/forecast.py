"""What the runs of a configuration will take, before anything starts: jobs, hours, disk and memory, by table.

Hours are steps times seconds per step, with evaluations if a finished run gave the rate. A rate comes from the
nearest thing that was measured: finished runs among the results, then ``cost.csv`` (this machine, by the rule
``cost``), then the paper's own Table 9 (an RTX 3090). Disk and memory are counted from widths, rows and parameters.

Several seeds in one program (``seeds_per_job``) take the time of one and, for each further one, that of its matrix
products: everything else of an update is taken to wait for launches and memory latency, which a batch of seeds shares.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dfp.agents.base.actor_critic import ActorCritic
from dfp.plan.catalogue import Catalogue, Config, base_method
from dfp.plan.experiments import Plan, Run, plan, programs
from dfp.report.paper import paper_table
from dfp.report.tables.cost import read_cost
from dfp.runs.layout import MANIFEST, read_object
from dfp.spec import RunSpec
from dfp.training.flops import update_flop
from dfp.training.session import build_agent

FLOAT = 4  # bytes
# Bytes of main memory without the rows: the trainer and five simulators, each at its peak, at the paper's sizes
# (tests/support/job_memory.py measured 3.5 to 4.1 GB). Small networks with one evaluation process take half of it.
JAX_AND_SIMULATORS = 4_000_000_000
PAPER_DEVICE = "the paper's Table 9, its sizes on an RTX 3090, evaluations not counted"
# Float32 products on a GPU: a third of the RTX 3090's peak of 35.6e12. An assumption, not a measurement.
GPU_FLOP_PER_S = 12e12
CPU_SEED = 1.2  # on a CPU a further seed takes so many times a run alone (docs/performance.md)
LIKE = "dfp"  # its rate is used for a method that was not measured


class Rate(NamedTuple):
    """How long a step of a run takes."""

    seconds: float
    source: str

    @property
    def on_cpu(self) -> bool:
        """Whether a CPU was measured, as the device's name in the source says."""
        return "cpu: " in self.source


# --------------------------------------------------------------------------- rates


@dataclasses.dataclass(frozen=True)
class Rates:
    """Seconds per step by what is known of a run, and where they were measured."""

    finished: dict[tuple[str, ...], Rate]  #: by (kind of folder, method, task) and by (kind of folder, method)
    measured: dict[tuple[str, str], Rate]  #: cost.csv, by (phase, method)
    paper: dict[str, Rate]  #: Table 9, by method

    def of(self, folder: str, method: str) -> Rate:
        """The rate of the run in ``folder``, which ``method`` needs: that of the nearest thing that was measured.

        Table 9 has no offline updates: an online step, simulator included, is used instead.
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
    return Rates(_finished(results_dir, specs), _measured(results_dir / "cost.csv"), _paper())


def _finished(results_dir: Path, specs: dict[str, RunSpec]) -> dict[tuple[str, ...], Rate]:
    found: dict[tuple[str, ...], list[tuple[float, str]]] = defaultdict(list)
    for folder, spec in specs.items():
        manifest = read_object(results_dir / folder / MANIFEST)
        # What a program of several seeds took is not the time of a run.
        if manifest.get("digest") == spec.digest() and "companions" not in manifest:
            kind, task, name, _ = folder.split("/")
            for key in ((kind, name, task), (kind, name)):
                found[key].append((manifest["wall_s"] / steps(spec), manifest["device"]))
    return {key: _median(rates) for key, rates in found.items()}


def _median(rates: list[tuple[float, str]]) -> Rate:
    devices = " and ".join(sorted({device for _, device in rates}))
    return Rate(statistics.median(seconds for seconds, _ in rates), f"finished runs, on {devices}")


def _measured(path: Path) -> dict[tuple[str, str], Rate]:
    cost = read_cost(path, partial=True)
    cells = cost.groupby(["phase", "method"]).agg(ms=("ms", "mean"), device=("device", "first")).reset_index()
    return {
        (row["phase"], row["method"]): Rate(row["ms"] / 1e3, f"cost.csv, on {row['device']}")
        for row in cells.to_dict("records")
    }


def _paper() -> dict[str, Rate]:
    online = paper_table(9).query("phase == 'online'")
    return {method: Rate(ms / 1e3, PAPER_DEVICE) for method, ms in zip(online.method, online.ms, strict=True)}


# --------------------------------------------------------------------------- hours, disk, memory


def steps(spec: RunSpec) -> int:
    """Gradient steps of an offline run, environment steps of an online one."""
    return spec.training.offline_steps if spec.online is None else spec.online.steps


def hours(spec: RunSpec, rate: Rate) -> float:
    """Hours of one run at this rate."""
    return steps(spec) * rate.seconds / 3600.0


def further_seed_s(spec: RunSpec, rate: Rate) -> float:
    """Seconds per step that each further seed adds to a program, which takes ``rate`` with one."""
    if rate.on_cpu:
        return CPU_SEED * rate.seconds
    return min(rate.seconds, _update_flop(build_agent(spec)) / GPU_FLOP_PER_S)


_update_flop = functools.cache(update_flop)  # many runs share an agent


def hours_each(spec: RunSpec, rate: Rate, seeds: int) -> float:
    """Hours of each of ``seeds`` runs that share one program."""
    if seeds == 1:
        return hours(spec, rate)
    together = rate.seconds + (seeds - 1) * further_seed_s(spec, rate)
    return hours(spec, rate._replace(seconds=together / seeds))


def state_bytes(spec: RunSpec) -> int:
    """Parameters, target, average and optimiser of one run: what a checkpoint holds besides the online rows."""
    agent = build_agent(spec)
    whole, actor = _state_bytes(build_agent(spec.pretraining()))
    return whole if agent.anchor_rate is None else whole + actor


@functools.cache
def _state_bytes(agent: ActorCritic) -> tuple[int, int]:
    """Bytes of the state without pi_old, and of its actor. Cached, because tracing a network is slow."""
    shapes = agent.state_shape()._replace(anchor=None)
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


def running_bytes(spec: RunSpec) -> int:
    """What an unfinished run has on disk at most: two checkpoints and its online rows."""
    return 2 * state_bytes(spec) + (spec.online.steps * row_bytes(spec) if spec.online else 0)


def memory_bytes(spec: RunSpec) -> int:
    """Main memory of a job on a CPU: JAX, the simulators, the rows, and the dataset from which the rows are made."""
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
    jobs: int  #: programs that train them
    hours: float
    unshared_hours: float  #: with a pretraining for every fine-tuning
    disk_bytes: int  #: what the finished runs leave: their final states
    memory_bytes: int  #: main memory of the largest job


class Forecast(NamedTuple):
    """A line for every table and figure that is made from runs, then one for all of them together."""

    lines: list[Line]
    total: Line
    running_bytes: int  #: on disk, of the largest unfinished run
    datasets: dict[str, int]  #: rows by name
    sources: dict[str, int]  #: number of runs, pretrainings among them, by the source of their rate


def forecast(config: Config, catalogue: Catalogue, results_dir: Path, seeds_per_job: int = 1) -> Forecast:
    """What ``config`` takes if nothing is done yet, with up to ``seeds_per_job`` seeds in a program."""
    planned = plan(config, catalogue)
    rates, methods = known_rates(results_dir, planned.specs), _methods(planned)
    rate = {folder: rates.of(folder, methods[folder]) for folder in planned.specs}
    program = {folder: tuple(group) for group in programs(planned.specs, seeds_per_job) for folder in group}
    cost = {folder: hours_each(planned.specs[folder], rate[folder], len(group)) for folder, group in program.items()}
    by_experiment: dict[str, list[Run]] = defaultdict(list)
    for run in planned.runs:
        by_experiment[run.experiment].append(run)

    def line(name: str, runs: list[Run]) -> Line:
        starts = {run.folder: run.pretrained for run in runs}
        jobs = starts.keys() | set(starts.values())
        unshared = [folder for pair in starts.items() for folder in set(pair)]
        specs = [planned.specs[folder] for folder in jobs]
        stages = [spec.stage for spec in specs]
        return Line(
            name=name,
            pretrain=stages.count("pretrain"),
            finetune=stages.count("finetune"),
            offline=stages.count("offline"),
            jobs=len({program[folder] for folder in jobs}),
            hours=sum(cost[folder] for folder in jobs),
            unshared_hours=sum(cost[folder] for folder in unshared),
            disk_bytes=sum(map(state_bytes, specs)),
            memory_bytes=max(map(memory_bytes, specs), default=0),
        )

    return Forecast(
        lines=[line(name, runs) for name, runs in by_experiment.items()],
        total=line("together", planned.runs),
        running_bytes=max(map(running_bytes, planned.specs.values()), default=0),
        datasets={spec.task.dataset: dataset_rows(spec) for spec in planned.specs.values()},
        sources=dict(Counter(one.source for one in rate.values())),
    )


def _methods(planned: Plan) -> dict[str, str]:
    """A method for every run and pretraining, by folder. Of the methods that share a folder, this is the first."""
    return {folder: run.method for run in reversed(planned.runs) for folder in (run.folder, run.pretrained)}
