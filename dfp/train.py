"""The stages: ``pretrain`` (offline updates) and ``finetune`` (one update per environment step).

Every random draw is a function of the run's seed, the name of its stream and a step or episode number, so that nothing
random has to be saved: straight through and killed-and-resumed give the same bits on a CPU, and evaluating more
often changes nothing else. Many updates run in one dispatch, by a loop of dynamic length: one compiled program
whatever the number, so that the cut into dispatches cannot change a result either.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dfp import replay
from dfp.agents.actor_critic import ActorCritic, AgentState, Metrics
from dfp.checkpoint import Rotation, load, save
from dfp.console import Console
from dfp.flops import gemm_rate
from dfp.online_rows import OnlineRows
from dfp.replay import Buffer, Rows
from dfp.rollout import Evaluator, episode_seed
from dfp.run_folder import Lease, RunFolder
from dfp.spec import RunSpec, agent_module
from dfp.tasks import Dataset, Step, load_dataset, make_environment, shard_count

TARGET_DISPATCH_S = 1.0  # offline updates per dispatch are chosen to take about so long
CHECK_S = 2.0  # seconds between looks at the online losses
FINAL_STATE = "agent.npz"
ONLINE_ROWS = "online_rows.bin"
MAX_CPU_HOURS = 12.0
CPU_RATIO = 1.6  # time of an update over its matrix products alone on a CPU, from `python -m dfp bench`


class TrainingError(Exception):
    """Training cannot start or go on: one line with the reason."""


class Unfinished(Exception):
    """The deadline came first. Everything is saved; the same command continues."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What may differ between two attempts at one run without changing its result."""

    data_dir: Path
    checkpoint_s: float = 600.0  # seconds between checkpoints
    deadline: float | None = None  # wall-clock time (seconds since 1970) to be finished or saved by
    workers: int | None = None  # evaluation processes; none: one per core
    allow_cpu: bool = False  # train on a CPU however long it takes


# --------------------------------------------------------------------------- random streams


def stream(seed: int, name: str) -> Array:
    """The random stream of a name: ``init``, ``data``, ``actor`` or ``evaluation``."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def build_agent(spec: RunSpec) -> ActorCritic:
    """The agent that the spec describes."""
    module = agent_module(spec.agent.name)
    return module.Agent(
        network=spec.network,
        training=spec.training,
        observation_size=spec.task.observation_size,
        action_size=spec.task.action_size,
        config=spec.agent,
    )


# --------------------------------------------------------------------------- what runs on the device


class Diagnostics(NamedTuple):
    """Sums of each logged term over a block of updates, and the first step at which it was not finite."""

    total: Metrics
    first_bad: Metrics  # int32, -1: never


def update_loop(
    agent: ActorCritic, state: AgentState, draw: Callable[[Array, Array], replay.Batch], key: Array,
    first: Array, count: Array,
) -> tuple[AgentState, Diagnostics]:  # fmt: skip
    """Updates number ``first`` to ``first + count - 1``. Each depends on the state, ``draw`` and its number alone."""

    def one(step: Array, carry: tuple[AgentState, Diagnostics]) -> tuple[AgentState, Diagnostics]:
        state, diagnostics = carry
        data_key, update_key = jax.random.split(jax.random.fold_in(key, step))
        state, metrics = agent.update(state, draw(step, data_key), update_key)
        total = jax.tree.map(jnp.add, diagnostics.total, metrics)
        first_bad = jax.tree.map(
            lambda seen, value: jnp.where((seen < 0) & ~jnp.isfinite(value), step, seen), diagnostics.first_bad, metrics
        )
        return state, Diagnostics(total, first_bad)

    shapes = jax.eval_shape(lambda: agent.update(state, draw(first, key), key)[1])
    nothing = Diagnostics(
        {name: jnp.zeros(()) for name in shapes}, {name: jnp.full((), -1, jnp.int32) for name in shapes}
    )
    return jax.lax.fori_loop(first, first + count, one, (state, nothing))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def offline_updates(
    agent: ActorCritic, state: AgentState, buffer: Buffer, key: Array, first: Array, count: Array
) -> tuple[AgentState, Diagnostics]:
    """Gradient steps on chunks of a fixed dataset, all of whose rows fill the buffer."""
    rows = buffer.reward.shape[0]
    live = replay.live_rows(rows, rows)

    def draw(_: Array, key: Array) -> replay.Batch:
        return replay.sample_chunks(buffer, live, key, agent.training.batch_size, agent.chunk, agent.training.discount)

    return update_loop(agent, state, draw, key, first, count)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def online_updates(
    agent: ActorCritic, capacity: int, state: AgentState, buffer: Buffer, key: Array, rows: Rows,
    end: Array, count: Array, skip: Array, first: Array, observation: Array, act_key: Array,
) -> tuple[AgentState, Buffer, Array, Diagnostics]:  # fmt: skip
    """Store ``count`` new rows, make the update of each but the first ``skip``, and choose the next chunk.

    Update ``j`` draws only from the rows that existed at its own environment step: exactly the serial loop,
    which is what acting in whole chunks allows to run in one dispatch.

    Args:
      end: rows stored before these.
      first: number of the update that belongs to the first row.
      observation: the state to act in next, ``[S]``.

    Returns:
      The state, the buffer, the chunk ``[H, A]`` and the diagnostics.
    """
    buffer = replay.append(buffer, rows, end, count)

    def draw(step: Array, key: Array) -> replay.Batch:
        live = replay.live_rows(end + 1 + step - first, capacity)
        return replay.sample_chunks(buffer, live, key, agent.training.batch_size, agent.chunk, agent.training.discount)

    state, diagnostics = update_loop(agent, state, draw, key, first + skip, jnp.maximum(count - skip, 0))
    action = agent.sample_actions(state, observation[None], act_key[None])[0]
    return state, buffer, action.reshape(agent.chunk, agent.action_size), diagnostics


@functools.partial(jax.jit, static_argnums=0)
def act(agent: ActorCritic, state: AgentState, observation: Array, episode: Array, chunk: Array, key: Array) -> Array:
    """Chunks ``[n, H, A]`` for ``[n, S]`` states; the draw of a row depends on its episode and chunk numbers."""
    keys = jax.vmap(lambda e, c: jax.random.fold_in(jax.random.fold_in(key, e), c))(episode, chunk)
    actions = agent.sample_actions(state, observation, keys)
    return actions.reshape(-1, agent.chunk, agent.action_size)


@jax.jit
def parameters_are_finite(state: AgentState) -> Array:
    """False as soon as one parameter is not."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((state.actor, state.critic))]))


# --------------------------------------------------------------------------- the buffer


def make_buffer(dataset: Dataset, physical: int, online: OnlineRows | None = None) -> Buffer:
    """Put the offline rows, then the online ones of an earlier attempt, into a ring of ``physical`` places.

    Field by field, so that no more than one of them is in memory twice.
    """
    finals = dataset.final_observations
    stored = {} if online is None else online.read()
    if online is not None:
        stored["final"] = np.where(stored["final"] >= 0, stored["final"] + len(finals), -1).astype(np.int32)
        spare = np.zeros((_spare_finals(len(finals) + online.episodes), finals.shape[1]), np.float32)
        finals = np.concatenate([finals, stored["final_observation"], spare])
    ended = np.where(dataset.terminals, np.cumsum(dataset.terminals, dtype=np.int32) - 1, -1).astype(np.int32)
    return Buffer(
        observation=_ring(dataset.observations, stored.get("observation"), physical),
        action=_ring(dataset.actions, stored.get("action"), physical),
        reward=_ring(dataset.rewards, stored.get("reward"), physical),
        mask=_ring(dataset.masks, stored.get("mask"), physical),
        final=_ring(ended, stored.get("final"), physical),
        final_observation=jnp.asarray(finals),
    )


def _ring(offline: np.ndarray, online: np.ndarray | None, physical: int) -> Array:
    """Rows in the order they were made, each at its number modulo ``physical``; of a place's rows the newest stays."""
    if len(offline) == physical and online is None:
        return jnp.asarray(offline)
    ring = np.zeros((physical, *offline.shape[1:]), offline.dtype)
    ring[: len(offline)] = offline
    if online is not None:
        newest = online[-physical:]
        first = len(offline) + len(online) - len(newest)
        ring[(first + np.arange(len(newest))) % physical] = newest
    return jnp.asarray(ring)


def _spare_finals(used: int) -> int:
    """Room for more finished episodes: growing means compiling again, so grow to a power of two."""
    return max(1024, 1 << used.bit_length()) - used


def grow_finals(buffer: Buffer) -> Buffer:
    """Twice the room for finished episodes."""
    finals = buffer.final_observation
    return buffer._replace(final_observation=jnp.concatenate([finals, jnp.zeros_like(finals)]))


# --------------------------------------------------------------------------- what both stages do


class Session:
    """One attempt at a run: folder, checkpoints, evaluation, log and clock."""

    def __init__(self, spec: RunSpec, path: Path, options: Options, total: int) -> None:
        """``total``: steps of the stage, gradient steps or environment steps."""
        self.spec, self.options, self.total = spec, options, total
        self.agent = build_agent(spec)
        self.folder = RunFolder(path, spec)
        self.checkpoints = Rotation(path, spec.digest())
        self.console = Console(path / "train.log", spec.stage, total)
        self.log = self.console.line
        self._saved = time.monotonic()

    def __enter__(self) -> Session:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(Lease(self.folder.path))
        self._stack.enter_context(self.console)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """The evaluation workers; they load the simulator while the first updates compile."""
        evaluator = Evaluator(self.spec.task, self.spec.evaluation.episodes, self.options.workers)
        return self._stack.enter_context(evaluator)

    def restore(self, template: Any) -> tuple[Any, dict[str, Any]] | None:
        """The newest usable checkpoint of this very spec, if there is one."""
        found, refused = self.checkpoints.load(template)
        for line in refused:
            self.log(f"checkpoint refused: {line}")
        if found is not None:
            self.folder.restore(found[1]["folder"])
            self.log(f"continues from step {found[1]['step']} (attempt {self.folder.attempts})")
        return found

    def save_if_due(self, step: int, snapshot: Callable[[], tuple[AgentState, dict[str, Any]]]) -> None:
        """A checkpoint of ``snapshot()``, the state and further progress: by the clock, and at the deadline, which
        ends the attempt.
        """
        late = self.options.deadline is not None and time.time() >= self.options.deadline
        if late or time.monotonic() - self._saved >= self.options.checkpoint_s:
            state, progress = snapshot()
            self.checkpoints.save(state, {"step": step, "folder": self.folder.progress(), **progress})
            self._saved = time.monotonic()
            self.log(f"checkpoint at step {step}")
        if late:
            raise Unfinished(f"{self.folder.path}: deadline reached at step {step} of {self.total}; run it again")

    def check(self, state: AgentState, diagnostics: Diagnostics, step: int) -> Metrics:
        """Stop at a loss or parameter that is not finite; else the terms' sums, on the host."""
        total, first_bad = jax.device_get(diagnostics)
        bad = {name: int(at) for name, at in first_bad.items() if at >= 0}
        if not bad and not parameters_are_finite(state):
            bad = {"parameters": step}
        if bad:
            name = min(bad, key=lambda term: bad[term])
            raise TrainingError(
                f"{self.folder.path}: {name} is not finite at step {bad[name]}; the last checkpoint is kept; "
                f"spec {self.spec.canonical()}"
            )
        return total

    def evaluate(self, state: AgentState, phase: str, step: int, env_steps: int) -> None:
        """One evaluation, a row of the metrics. It shares no random stream with training."""
        seed, episodes = self.spec.seed, self.spec.evaluation.episodes
        key = jax.random.fold_in(stream(seed, "evaluation"), step)

        def policy(observation: np.ndarray, episode: np.ndarray, chunk: np.ndarray) -> np.ndarray:
            return np.asarray(act(self.agent, state, observation, episode, chunk, key))

        started = time.monotonic()
        result = self.evaluator.evaluate(policy, [episode_seed(seed, "evaluation", step, e) for e in range(episodes)])
        self.folder.add_row(phase, step, result, env_steps)
        self.log(
            f"{phase} step {step}: success {result.success_rate:.1%} of {result.episodes} episodes, "
            f"return {result.return_mean:.1f}, length {result.length_mean:.0f} ({time.monotonic() - started:.1f} s)"
        )

    def report(self, step: int, terms: dict[str, float]) -> None:
        """Show how far the run is; every now and then also in ``progress.json``."""
        rate = self.console.progress(step, terms)
        if rate is not None:
            self.folder.write_progress(step, self.total, rate)

    def finish(self, state: AgentState) -> None:
        """Keep the final state under its name, declare the run finished, drop the checkpoints."""
        save(self.folder.path / FINAL_STATE, state, self.spec.digest(), {"step": self.total})
        device = jax.devices()[0]
        self.folder.finish(f"{device.platform}: {device.device_kind}")
        self.folder.write_progress(self.total, self.total, 0.0)
        self.checkpoints.remove()
        (self.folder.path / ONLINE_ROWS).unlink(missing_ok=True)
        self.log(f"finished after {self.folder.wall_s:.0f} s")

    def begin(self) -> bool:
        """False where the run is finished already; else everything is ready for the first update."""
        if self.folder.finished():
            self.log(f"{self.folder.path}: already finished")
            return False
        refuse_slow_cpu(self.spec, self.options)
        cache_compilations()
        _ = self.evaluator
        return True


def cache_compilations() -> None:
    """Keep compiled programs, so that a restart, or the next seed, does not compile again.

    On the node's own disk: the programs belong to its processor, and no other user may write them.
    """
    folder = Path(tempfile.gettempdir()) / f"dfp-compiled-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid == os.getuid() and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def refuse_slow_cpu(spec: RunSpec, options: Options) -> None:
    """Stop before the first update where a CPU would need days; a broken GPU driver shows itself here too."""
    if jax.default_backend() != "cpu" or options.allow_cpu:
        return
    steps = spec.training.offline_steps if spec.online is None else spec.online.steps
    hours = steps * build_agent(spec).update_work() / gemm_rate() * CPU_RATIO / 3600.0
    if hours > MAX_CPU_HOURS:
        raise TrainingError(
            f"no GPU: JAX runs on the CPU here, where this {spec.stage} run would take about {hours:,.0f} hours "
            f"(more than {MAX_CPU_HOURS:.0f}); --allow-cpu starts it all the same"
        )


# --------------------------------------------------------------------------- the stages


def pretrain(spec: RunSpec, path: Path, options: Options) -> None:
    """The offline phase: gradient steps on the dataset, evaluated every ``spec.evaluation.interval`` of them.

    Leaves ``agent.npz``, ``metrics.csv`` and ``manifest.json`` in ``path``; returns at once where they are there.

    Raises:
      TrainingError: a term is not finite, or a CPU would need too long.
      Unfinished: the deadline came first.
    """
    steps = spec.training.offline_steps
    with Session(spec, path, options, steps) as session:
        if not session.begin():
            return
        state, step = jax.jit(session.agent.init)(stream(spec.seed, "init")), 0
        if (found := session.restore(state)) is not None:
            state, step = found[0], found[1]["step"]
        key = stream(spec.seed, "data")
        shards = Shards(spec, options.data_dir)
        block = 1
        while step < steps:
            started = time.monotonic()
            evaluation, shard = _until_next(step, spec.evaluation.interval), shards.until_next(step)
            count = min(block, evaluation, shard, steps - step)
            state, diagnostics = offline_updates(session.agent, state, shards.buffer(step), key, step, count)
            total = session.check(state, diagnostics, step)
            step += count
            # The first dispatch compiles; afterwards the block follows the speed.
            block = max(1, min(2 * block, int(count * TARGET_DISPATCH_S / (time.monotonic() - started))))
            session.report(step, {name: float(value) / count for name, value in total.items()})
            if step % spec.evaluation.interval == 0 or step == steps:
                session.evaluate(state, "offline", step, env_steps=0)
            session.save_if_due(step, functools.partial(_only, state))
        session.finish(state)


def _only(state: AgentState) -> tuple[AgentState, dict[str, Any]]:
    return state, {}


def _until_next(step: int, every: int) -> int:
    return every - step % every


class Shards:
    """The dataset's files as buffers, one at a time, in the order of their names; after the last the first again.

    As in the authors' release, which counts updates from 1, the file changes before updates 1000, 2000, ... and so
    also before the last one: of 100 files it is the first that enters the online buffer.
    """

    def __init__(self, spec: RunSpec, data_dir: Path) -> None:
        self._spec, self._data_dir = spec, data_dir
        self._count = shard_count(spec.task, spec.data, data_dir)
        self._interval = spec.task.shard_interval
        self._loaded: tuple[int, Buffer] | None = None

    def buffer(self, step: int) -> Buffer:
        """The rows that update ``step`` draws from, on the device."""
        shard = self._shard(step)
        if self._loaded is None or self._loaded[0] != shard:
            self._loaded = None  # free the old shard before the new one is read
            dataset = self._read(shard)
            self._loaded = (shard, make_buffer(dataset, len(dataset.rewards)))
        return self._loaded[1]

    def until_next(self, step: int) -> int:
        """Updates from ``step`` on that draw from the same file."""
        return _until_next(step + 1, self._interval)

    def at_switch(self) -> Dataset:
        """The rows that the offline phase ended with: they alone enter the online buffer."""
        return self._read(self._shard(self._spec.training.offline_steps - 1))

    def _read(self, shard: int) -> Dataset:
        return load_dataset(self._spec.task, self._spec.data, self._data_dir, shard)

    def _shard(self, step: int) -> int:
        return (step + 1) // self._interval % self._count


def finetune(spec: RunSpec, path: Path, pretrained: Path, options: Options) -> None:
    """The online phase: one environment step, one gradient step, from the state that ``pretrained`` ended with.

    Leaves ``agent.npz``, ``metrics.csv`` and ``manifest.json`` in ``path``; returns at once where they are there.

    Raises:
      TrainingError: a term is not finite, or a CPU would need too long.
      CheckpointError: ``pretrained`` holds no finished offline phase of this spec.
      Unfinished: the deadline came first.
    """
    assert spec.online is not None
    with Session(spec, path, options, spec.online.steps) as session:
        if not session.begin():
            return
        offline = Shards(spec, options.data_dir).at_switch()
        loop = OnlineLoop(session, pretrained, offline)
        del offline  # the buffer holds its rows now
        while loop.step < spec.online.steps:
            loop.episode()
        session.finish(loop.state)


class Transition(NamedTuple):
    """One environment step: where it began, what was done, what came of it."""

    observation: np.ndarray  # [S]
    action: np.ndarray  # [A]
    result: Step


class OnlineLoop:
    """The online phase from one episode start to the next; checkpoints are taken there."""

    def __init__(self, session: Session, pretrained: Path, dataset: Dataset) -> None:
        """``dataset``: the rows that the offline phase ended with."""
        assert session.spec.online is not None
        self.session, self.spec, self.online = session, session.spec, session.spec.online
        self.agent = session.agent
        self.environment = make_environment(self.spec.task)
        self.rows = OnlineRows(session.folder.path / ONLINE_ROWS, self.spec.task)
        self.data_key, self.actor_key = stream(self.spec.seed, "data"), stream(self.spec.seed, "actor")
        self.step = 0  # environment steps made
        self.episodes = 0  # episodes started
        self.state = self._initial_state(pretrained)
        self.offline = len(dataset.rewards)
        self.capacity = max(self.online.buffer_capacity, self.offline + 1)
        # Places beyond the capacity: a chunk stored ahead of its updates, and the newest next observation.
        self.buffer = make_buffer(dataset, self.capacity + self.agent.chunk + 1, self.rows)
        self.finals = len(dataset.final_observations) + self.rows.episodes
        self._unchecked: list[tuple[Diagnostics, int]] = []
        self._checked = time.monotonic()

    def _initial_state(self, pretrained: Path) -> AgentState:
        fresh = jax.eval_shape(self.agent.init, jax.random.key(0))
        if (found := self.session.restore(fresh)) is not None:
            state, progress = found
            self.step, self.episodes = progress["step"], progress["episodes"]
            self.rows.truncate(progress["records"])
        else:
            offline = self.spec.pretraining()
            # The policy-improvement part of the state begins at the switch.
            template = fresh._replace(anchor=None)
            state, _ = load(pretrained / FINAL_STATE, template, offline.digest())
            state = self.agent.start_improving(state)
            self.rows.truncate(0)
        return jax.tree.map(jnp.asarray, state)

    def episode(self) -> None:
        """Play one episode to its end, or to the end of the phase, with the updates that belong to its steps."""
        self.session.save_if_due(self.step, self._snapshot)
        seed = episode_seed(self.spec.seed, "environment", self.episodes)
        observation = self.environment.reset(seed)
        self.episodes += 1
        chunk = self._advance([], observation)
        done = False
        while not done and self.step < self.online.steps:
            chunk, observation, done = self._play(chunk, observation)

    def _play(self, chunk: np.ndarray, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """Execute a chunk open loop, then make its updates in one dispatch, which also chooses the next chunk.

        Where an evaluation falls inside the chunk, the updates up to it come first.
        """
        new: list[Transition] = []
        following, done = chunk, False
        for number, action in enumerate(chunk, start=1):
            result = self.environment.step(action)
            done = result.terminated or result.truncated
            new.append(Transition(observation, action, result))
            observation = result.observation
            self.step += 1
            evaluate = self.step % self.spec.evaluation.interval == 0 or self.step == self.online.steps
            if evaluate or done or number == len(chunk):
                following = self._advance(new, observation)
                new = []
            if evaluate:
                self._check()
                total = self.spec.training.offline_steps + self.step
                self.session.evaluate(self.state, "online", total, env_steps=self.step)
            if done or self.step == self.online.steps:
                break
        return following, observation, done

    def _advance(self, new: list[Transition], observation: np.ndarray) -> np.ndarray:
        """Store new transitions, make the updates of their steps, and choose the chunk to play from ``observation``."""
        before = self.step - len(new)
        if self.finals + 1 > self.buffer.final_observation.shape[0]:
            self.buffer = grow_finals(self.buffer)
        self.state, self.buffer, chunk, diagnostics = online_updates(
            self.agent,
            self.capacity,
            self.state,
            self.buffer,
            self.data_key,
            self._pack(new),
            self.offline + before,
            len(new),
            min(max(self.online.warmup_steps - before, 0), len(new)),
            self.spec.training.offline_steps + before,
            observation,
            jax.random.fold_in(self.actor_key, self.step),
        )
        self._unchecked.append((diagnostics, len(new)))
        if time.monotonic() - self._checked > CHECK_S:
            self._check()
        return np.asarray(chunk)

    def _pack(self, new: list[Transition]) -> Rows:
        """New transitions as padded arrays; also queued for the file."""
        count, width = self.agent.chunk, self.spec.task.observation_size
        rows = Rows(
            observation=np.zeros((count, width), np.float32),
            action=np.zeros((count, self.spec.task.action_size), np.float32),
            reward=np.zeros(count, np.float32),
            mask=np.ones(count, np.float32),
            final=np.full(count, -1, np.int32),
            next_observation=np.zeros((count, width), np.float32),
        )
        for index, (observation, action, result) in enumerate(new):
            done = result.terminated or result.truncated
            rows.observation[index], rows.action[index] = observation, action
            rows.reward[index], rows.mask[index] = result.reward, 1.0 - result.terminated
            rows.next_observation[index] = result.observation
            if done:
                rows.final[index] = self.finals
                self.finals += 1
            final = result.observation if done else None
            self.rows.add(observation, action, result.reward, 1.0 - result.terminated, final)
        return rows

    def _check(self) -> None:
        """Look at the diagnostics since the last look: one transfer for many dispatches."""
        sums: dict[str, float] = {}
        for diagnostics, _ in self._unchecked:
            for name, value in self.session.check(self.state, diagnostics, self.step).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        updates = max(1, sum(count for _, count in self._unchecked))
        self._unchecked.clear()
        self._checked = time.monotonic()
        self.session.report(self.step, {name: value / updates for name, value in sums.items()})

    def _snapshot(self) -> tuple[AgentState, dict[str, Any]]:
        self._check()
        return self.state, {"episodes": self.episodes, "records": self.rows.flush()}
