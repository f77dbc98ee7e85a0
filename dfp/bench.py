"""How far from the machine's limit: every case beside its floor, both measured in one process and one run.

The floor of an update is the matrix products that its mathematics needs (counted from the shapes, `flops.py`) at
the rate of a large product on the same device; that of acting in the environment is the bare ``env.step``.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dfp import train
from dfp.flops import gemm_rate
from dfp.rollout import Evaluator, episode_seed
from dfp.spec import RunSpec
from dfp.tasks import Dataset, make_environment

Phase = Literal["offline", "online"]
SECONDS = 3.0  # how long each case is timed
ROWS = 20_000


def bench_updates(spec: RunSpec) -> Iterator[dict[str, Any]]:
    """Milliseconds per update of both phases, and per action of a single state, with their floors."""
    rate = gemm_rate()
    phases: tuple[tuple[Phase, RunSpec], ...] = (("offline", spec.pretraining()), ("online", spec))
    for phase, run in phases:
        agent = train.build_agent(run)
        state = jax.jit(agent.init)(jax.random.key(0))
        buffer = train.make_buffer(random_rows(run), ROWS)

        def advance(count: int, state: Any = state, buffer: Any = buffer, agent: Any = agent) -> None:
            # Donated, hence the copy: one per call, a few milliseconds in seconds.
            copy = jax.tree.map(jnp.copy, state)
            jax.block_until_ready(train.offline_updates(agent, copy, buffer, jax.random.key(1), 0, count))

        yield case(run, "update", phase, milliseconds(advance), 1e3 * agent.update_work() / rate)

    observation = np.zeros((1, agent.observation_size), np.float32)
    number = np.zeros(1, int)

    def choose(count: int) -> None:
        for _ in range(count):
            train.act(agent, state, observation, number, number, jax.random.key(0)).block_until_ready()

    floor = 1e3 * agent.candidate_work(agent.config.best_of) / rate
    yield case(spec, "act", "online", milliseconds(choose), floor)


def bench_simulator(spec: RunSpec, steps: int, episodes: int) -> Iterator[dict[str, Any]]:
    """The online loop per environment step, and an evaluation, both over the bare ``env.step``.

    Args:
      spec: the run; a small network shows what the loop itself costs.
      steps: environment steps of the loop.
      episodes: episodes of the evaluation.
    """
    environment = make_environment(spec.task)
    actions = np.random.default_rng(0).uniform(-1, 1, size=(steps, spec.task.action_size)).astype(np.float32)

    def bare() -> float:
        environment.reset(0)
        started = time.perf_counter()
        for number, action in enumerate(actions):
            if environment.step(action).truncated:
                paused = time.perf_counter()
                environment.reset(number)
                started += time.perf_counter() - paused
        return 1e3 * (time.perf_counter() - started) / steps

    floor = bare()
    assert spec.online is not None
    online = spec.online.model_copy(update={"steps": steps, "warmup_steps": 0, "buffer_capacity": ROWS})
    never = spec.evaluation.model_copy(update={"interval": 10 * steps})
    run = spec.model_copy(update={"online": online, "evaluation": never})
    with tempfile.TemporaryDirectory() as folder:
        loop = _online_loop(run, Path(folder))
        loop.episode()  # compiles
        first = loop.step
        started = time.perf_counter()
        while loop.step < steps:
            loop.episode()
        measured = 1e3 * (time.perf_counter() - started) / (steps - first)
        loop.session.console.__exit__()
    floor = (floor + bare()) / 2
    yield case(run, "online loop per environment step", "online", measured, floor)

    agent, state = train.build_agent(run), loop.state
    cores = len(os.sched_getaffinity(0))
    with Evaluator(run.task, episodes) as evaluator:

        def policy(observation: np.ndarray, episode: np.ndarray, chunk: np.ndarray) -> np.ndarray:
            return np.asarray(train.act(agent, state, observation, episode, chunk, jax.random.key(0)))

        seeds = [episode_seed(0, "bench", number) for number in range(episodes)]
        evaluator.evaluate(policy, seeds[: evaluator.slots])  # loads and compiles
        started = time.perf_counter()
        result = evaluator.evaluate(policy, seeds)
        measured = 1e3 * (time.perf_counter() - started)
    floor = (floor + bare()) / 2 * result.length_mean * episodes / cores
    yield case(run, f"evaluation of {episodes} episodes", "online", measured, floor)


def _online_loop(run: RunSpec, folder: Path) -> train.OnlineLoop:
    """The loop of the online phase on random rows, from a fresh state."""
    data = random_rows(run)
    session = train.Session(run, folder / "run", train.Options(folder), run.online.steps if run.online else 0)
    agent = train.build_agent(run.pretraining())
    (folder / "pre").mkdir()
    train.save(
        folder / "pre" / train.FINAL_STATE,
        jax.jit(agent.init)(jax.random.key(0)),
        run.pretraining().digest(),
        {"step": 0},
    )
    return train.OnlineLoop(session, folder / "pre", data)


def random_rows(spec: RunSpec) -> Dataset:
    """Rows of noise of the task's widths: the time of an update does not depend on their meaning."""
    rng = np.random.default_rng(0)
    terminals = np.zeros(ROWS, bool)
    terminals[999::1000] = True
    return Dataset(
        observations=rng.normal(size=(ROWS, spec.task.observation_size)).astype(np.float32),
        actions=rng.uniform(-1, 1, size=(ROWS, spec.task.action_size)).astype(np.float32),
        rewards=-np.ones(ROWS, np.float32),
        masks=np.ones(ROWS, np.float32),
        terminals=terminals,
        final_observations=rng.normal(size=(ROWS // 1000, spec.task.observation_size)).astype(np.float32),
    )


def milliseconds(work: Callable[[int], None]) -> float:
    """Per unit of ``work(count)``, over about :data:`SECONDS`, after a first call that compiles."""
    work(1)
    started = time.perf_counter()
    work(2)
    count = max(2, round(SECONDS / (time.perf_counter() - started) * 2))
    started = time.perf_counter()
    work(count)
    return 1e3 * (time.perf_counter() - started) / count


def case(spec: RunSpec, what: str, phase: Phase, ms: float, floor_ms: float) -> dict[str, Any]:
    """One line of the result."""
    device = jax.devices()[0]
    return {
        "case": what,
        "method": spec.agent.name,
        "phase": phase,
        "width": spec.network.width,
        "depth": spec.network.depth,
        "batch": spec.training.batch_size,
        "ms": round(ms, 4),
        "floor_ms": round(floor_ms, 4),
        "ratio": round(ms / floor_ms, 3),
        "device": f"{device.platform}: {device.device_kind}",
    }


def resized(spec: RunSpec, width: int | None, depth: int | None, batch: int | None) -> RunSpec:
    """The run with other sizes where given."""
    network = {"width": width or spec.network.width, "depth": depth or spec.network.depth}
    training = {"batch_size": batch or spec.training.batch_size}
    return spec.model_copy(
        update={
            "network": spec.network.model_copy(update=network),
            "training": spec.training.model_copy(update=training),
        }
    )
