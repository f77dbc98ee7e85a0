"""Times, and floors below which they cannot be on this machine. Both are measured in one process and one run.

The floor of an update, and of choosing a chunk, is the matrix products that the program makes (counted from its
trace, ``flops.py``) at the rate of a large product on the same device. The full floor of an update adds its GELU and
layer normalisations, made on arrays of the same shapes (``pointwise.py``). The floor of the online loop is the bare
``env.step`` of the very same actions; that of an evaluation is the same, divided by the number of cores.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from dfp.ops.beside import Release
from dfp.ops.pointwise import pointwise_passes, pointwise_work
from dfp.runs.checkpoint import save
from dfp.runs.layout import FINAL_STATE
from dfp.spec import ConfigError, RunSpec, TaskSpec
from dfp.tasks import Dataset, Environment, Step, make_environment
from dfp.training.flops import act_flop, gemm_rate, update_flop
from dfp.training.offline import OfflineLoop, Shards
from dfp.training.online import OnlineLoop
from dfp.training.replay import Buffer, make_buffer
from dfp.training.rollout import Evaluator, RemoteEnvironment, episode_seed
from dfp.training.session import Options, Session, build_agent, device_name
from dfp.training.updates import act, no_diagnostics, offline_updates

Phase = Literal["offline", "online"]
PHASES: tuple[Phase, ...] = ("offline", "online")
Case = dict[str, Any]
SECONDS = 3.0  # how long each case is timed
REPEATS = 5  # in so many parts, of which the median counts
ROWS = 20_000


class Beside(NamedTuple):
    """The authors' release, to be timed in turns with ours."""

    folder: Path  #: a checkout
    python: Path  #: an interpreter that has its requirements


def bench_run(
    spec: RunSpec, phase: Phase | None, simulator: bool, steps: int, episodes: int, beside: Beside | None = None
) -> Iterator[Case]:
    """Updates of one phase or both, acting, and, with ``simulator``, what the loops add to them.

    A run of offline RL has one phase, and no online loop.
    """
    phases = PHASES if spec.online is not None else PHASES[:1]
    for one in phases if phase is None else (phase,):
        yield bench_update(spec, one, beside=beside)
    yield bench_act(spec)
    if simulator:
        yield bench_host(spec)
        if spec.online is not None:
            yield from bench_simulator(spec, steps, episodes)


# --------------------------------------------------------------------------- updates and acting


def bench_update(spec: RunSpec, phase: Phase, rows: int = ROWS, beside: Beside | None = None) -> Case:
    """Milliseconds per update, many of them in a dispatch, with its two floors and, if asked for, the release."""
    run = offline_phase(spec) if phase == "offline" else spec
    agent = build_agent(run)
    state = jax.jit(agent.init)(jax.random.key(0))
    dataset = random_rows(run, rows)
    buffer, key = make_buffer(dataset, rows), jax.random.key(1)
    carry = [state, no_diagnostics(agent, state)]

    def advance(count: int) -> None:
        carry[:] = jax.block_until_ready(offline_updates(agent, *carry, buffer, key, 0, count))

    with contextlib.ExitStack() as stack:
        works = [advance, pointwise_work(pointwise_passes(agent))]
        if beside is not None:
            works.append(stack.enter_context(Release(*beside, spec, dataset, phase)).advance)
        (ms, pointwise, *release), rate = in_turns(*works)
    floor = 1e3 * update_flop(agent) / rate
    return case(run, "update", phase, ms, floor, floor + pointwise, *release)


def bench_act(spec: RunSpec) -> Case:
    """Milliseconds to choose the chunk of one state, the copy to the host included."""
    agent = build_agent(spec)
    state = jax.jit(agent.init)(jax.random.key(0))
    observation, number = np.zeros((1, agent.observation_size), np.float32), np.zeros(1, np.int32)

    def choose(count: int) -> None:
        for _ in range(count):
            np.asarray(act(agent, state, observation, number, number, jax.random.key(0)))

    (ms,), rate = in_turns(choose)
    return case(spec, "act", "online", ms, 1e3 * act_flop(agent) / rate)


def in_turns(*works: Callable[[int], None]) -> tuple[list[float], float]:
    """Milliseconds per unit of each ``work(count)``, and FLOP/s of a large product, measured in turns."""
    counts = [_count_for(work, SECONDS / REPEATS) for work in works]
    times, rates = [[] for _ in works], []
    for _ in range(REPEATS):
        rates.append(gemm_rate(repeats=3))
        for work, count, found in zip(works, counts, times, strict=True):
            started = time.perf_counter()
            work(count)
            found.append(1e3 * (time.perf_counter() - started) / count)
    return [statistics.median(found) for found in times], statistics.median(rates)


def _count_for(work: Callable[[int], None], seconds: float) -> int:
    """How many units of ``work`` take about that long."""
    work(1)  # compiles
    started = time.perf_counter()
    work(2)
    return max(1, round(2 * seconds / (time.perf_counter() - started)))


# --------------------------------------------------------------------------- what the loops add


def bench_host(spec: RunSpec, updates: int = 2000) -> Case:
    """Milliseconds of the host's own work per offline update: CPU time of the thread that drives the updates."""
    run = never_evaluated(offline_phase(spec), 10 * updates)
    with tempfile.TemporaryDirectory() as folder, Session(run, Path(folder), Options(Path(folder)), updates) as session:
        loop = OfflineLoop(session, OneShard(make_buffer(random_rows(run), ROWS)))
        while loop.step < updates:  # compiles, and finds the length of a block
            loop.block()
        first, started = loop.step, time.thread_time()
        while loop.step < first + updates:
            loop.block()
        ms = 1e3 * (time.thread_time() - started) / (loop.step - first)
    return case(run, "host work per offline update", "offline", ms, None)


class OneShard(Shards):
    """A dataset that never changes."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer

    def buffer(self, step: int) -> Buffer:
        """The same rows at every step."""
        return self._buffer

    def until_next(self, step: int) -> int:
        """The rows never change, so the next change is far away."""
        return 1 << 30


def bench_simulator(spec: RunSpec, steps: int, episodes: int) -> Iterator[Case]:
    """The online loop per environment step, and an evaluation, both over the bare ``env.step``.

    Args:
      spec: the run; a small network shows what the loop itself costs.
      steps: environment steps of the loop, at least. The last episode is played to its end.
      episodes: episodes of the evaluation.
    """
    assert spec.online is not None
    longest = spec.task.max_episode_steps
    total = steps + 3 * longest  # never reached, so that every episode is a whole one
    run = never_evaluated(spec, total, buffer_capacity=ROWS + total)
    environment = make_environment(run.task)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        with (
            Session(run, path / "run", Options(path), total) as session,
            Recording(run.task) as recording,
        ):
            loop = OnlineLoop(session, recording, untrained(run, path / "pretrained"), random_rows(run))
            while loop.step < longest:  # compiles
                loop.episode()
            recording.episodes.clear()
            measured, bare = [], []
            last = loop.step + steps
            while loop.step < last:
                first, started = loop.step, time.perf_counter()
                loop.episode()
                jax.block_until_ready(loop.state)
                measured.append(1e3 * (time.perf_counter() - started) / (loop.step - first))
                bare.append(replay_ms(environment, *recording.episodes.pop()))
            state = loop.state
        floor = statistics.median(bare)
        yield case(run, "online loop per environment step", "online", statistics.median(measured), floor)

    agent = build_agent(run)
    cores = len(os.sched_getaffinity(0))
    with Evaluator(run.task, episodes) as evaluator:

        def policy(observation: np.ndarray, episode: np.ndarray, chunk: np.ndarray) -> np.ndarray:
            return np.asarray(act(agent, state, observation, episode, chunk, jax.random.key(0)))

        seeds = [episode_seed(0, "bench", number) for number in range(episodes)]
        evaluator.evaluate(policy, seeds[: evaluator.slots])  # loads and compiles
        started = time.perf_counter()
        result = evaluator.evaluate(policy, seeds)
        ms = 1e3 * (time.perf_counter() - started)
    yield case(run, f"evaluation of {episodes} episodes", "online", ms, floor * result.length_mean * episodes / cores)


class Recording(RemoteEnvironment):
    """An environment that records the seed and the actions of each episode."""

    def __init__(self, task: TaskSpec) -> None:
        super().__init__(task)
        self.episodes: list[tuple[int, list[np.ndarray]]] = []

    def reset(self, seed: int) -> np.ndarray:
        """See :meth:`Environment.reset`."""
        self.episodes.append((seed, []))
        return super().reset(seed)

    def play(self, actions: np.ndarray) -> Iterator[Step]:
        """See :meth:`RemoteEnvironment.play`."""
        for action, step in zip(actions, super().play(actions), strict=False):
            self.episodes[-1][1].append(action)
            yield step


def replay_ms(environment: Environment, seed: int, actions: list[np.ndarray]) -> float:
    """Milliseconds per bare step, reset included, of an episode that is played again."""
    started = time.perf_counter()
    environment.reset(seed)
    for action in actions:
        environment.step(action)
    return 1e3 * (time.perf_counter() - started) / len(actions)


def untrained(run: RunSpec, folder: Path) -> Path:
    """Write what the online phase reads of a finished offline phase, with a state that was never updated."""
    folder.mkdir()
    offline = run.pretraining()
    state = jax.jit(build_agent(offline).init)(jax.random.key(0))
    save(folder / FINAL_STATE, state, offline.digest(), {"step": 0})
    return folder


def random_rows(spec: RunSpec, rows: int = ROWS) -> Dataset:
    """Rows of noise of the task's widths: the time of an update does not depend on their meaning."""
    rng = np.random.default_rng(0)
    terminals = np.zeros(rows, bool)
    terminals[999::1000] = True
    return Dataset(
        observations=rng.standard_normal((rows, spec.task.observation_size), np.float32),
        actions=2 * rng.random((rows, spec.task.action_size), np.float32) - 1,
        rewards=-np.ones(rows, np.float32),
        masks=np.ones(rows, np.float32),
        terminals=terminals,
        final_observations=rng.standard_normal((rows // 1000, spec.task.observation_size), np.float32),
    )


# --------------------------------------------------------------------------- cost as work grows

SCALING: dict[str, tuple[int, ...]] = {
    "batch": (32, 64, 128, 256, 512),
    "width": (64, 128, 256, 512),
    "N": (4, 8, 16, 32, 64),
    "K": (1, 2, 4, 8, 16),
    "G": (2, 4, 8, 16, 32),
    "rows": (10_000, 100_000, 1_000_000, 3_000_000),
}


def bench_scaling(spec: RunSpec) -> Iterator[Case]:
    """Milliseconds per online update of DFP against one quantity at a time: see :data:`SCALING`.

    Raises:
      ConfigError: the method does not have these quantities.
    """
    if spec.agent.name != "dfp" or spec.online is None or spec.agent.model_dump()["top_k"] is None:
        raise ConfigError(
            f"--scaling: agent '{spec.agent.name}' has no N, K and G online; allowed: methods such as dfp"
        )
    for quantity, values in SCALING.items():
        for value in values:
            rows = value if quantity == "rows" else ROWS
            line = bench_update(changed(spec, quantity, value), "online", rows)
            yield {**line, "quantity": quantity, "value": value}


def changed(spec: RunSpec, quantity: str, value: int) -> RunSpec:
    """The run with one quantity of :data:`SCALING` at another value. K candidates need N >= K."""
    agent = spec.agent.model_dump()
    match quantity:
        case "N":
            agent |= {"best_of": value}
            agent["top_k"] |= {"candidates": value, "positives": min(value, agent["top_k"]["positives"])}
        case "K":
            agent["top_k"] |= {"positives": value}
        case "G":
            agent |= {"samples": value}
        case "batch" | "width":
            return resized(spec, **{quantity: value})
    return spec.model_copy(update={"agent": type(spec.agent).model_validate(agent)})


def resized(spec: RunSpec, width: int | None = None, depth: int | None = None, batch: int | None = None) -> RunSpec:
    """The run with the sizes that are given."""
    network = {"width": width or spec.network.width, "depth": depth or spec.network.depth}
    training = {"batch_size": batch or spec.training.batch_size}
    return spec.model_copy(
        update={
            "network": spec.network.model_copy(update=network),
            "training": spec.training.model_copy(update=training),
        }
    )


def never_evaluated(spec: RunSpec, steps: int, **online: int) -> RunSpec:
    """The run with ``steps`` in its last phase, without evaluations and warm-up; ``online``: further settings."""
    evaluation = spec.evaluation.model_copy(update={"interval": 10 * steps})
    if spec.online is None:
        training = spec.training.model_copy(update={"offline_steps": steps})
        return spec.model_copy(update={"training": training, "evaluation": evaluation})
    changed_online = spec.online.model_copy(update={"steps": steps, "warmup_steps": 0, **online})
    return spec.model_copy(update={"online": changed_online, "evaluation": evaluation})


def offline_phase(spec: RunSpec) -> RunSpec:
    """The offline phase of a run: the pretraining of a fine-tuning, or a run of offline RL itself."""
    return spec if spec.online is None else spec.pretraining()


# --------------------------------------------------------------------------- lines


def case(
    spec: RunSpec, what: str, phase: Phase, ms: float, floor_ms: float | None, full_floor_ms: float | None = None,
    release_ms: float | None = None,
) -> Case:  # fmt: skip
    """One line of the result. The ratios to floors are ours over a floor, ``release_ratio`` is theirs over ours."""
    return {
        "case": what,
        "method": spec.agent.name,
        "phase": phase,
        "width": spec.network.width,
        "depth": spec.network.depth,
        "batch": spec.training.batch_size,
        "ms": round(ms, 4),
        **_beside("floor_ms", floor_ms, "ratio", ms),
        **_beside("full_floor_ms", full_floor_ms, "full_ratio", ms),
        "release_ms": None if release_ms is None else round(release_ms, 4),
        "release_ratio": None if release_ms is None else round(release_ms / ms, 3),
        "device": device_name(),
        "cores": len(os.sched_getaffinity(0)),
    }


def _beside(name: str, floor_ms: float | None, ratio: str, ms: float) -> Case:
    """A floor, and ``ms`` as a multiple of it. Without a floor there is no ratio."""
    if floor_ms is None:
        return {name: None, ratio: None}
    return {name: round(floor_ms, 4), ratio: round(ms / floor_ms, 3)}
