"""The loops by hand: what updates draw and when, how a chunk is executed, where a phase ends."""

import contextlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import small_agents
from support.chunks import dataset
from support.small_runs import (
    CATALOGUE,
    RandomShards,
    make_spec,
    options,
    random_dataset,
)

from dfp.agents import dfp
from dfp.agents.base.actor_critic import AgentState
from dfp.runs.checkpoint import save
from dfp.runs.layout import FINAL_STATE
from dfp.tasks import Step
from dfp.training import offline, replay
from dfp.training.online import OnlineLoop
from dfp.training.replay import Rows, append, live_rows, make_buffer, sample_chunks
from dfp.training.session import Session, build_agent
from dfp.training.updates import Diagnostics, Span, act, no_diagnostics, offline_updates, online_updates, stream


@pytest.fixture(autouse=True)
def _random_data(monkeypatch):
    monkeypatch.setattr(offline, "ShardReader", RandomShards)


class Numbered(dfp.Agent):
    """Its chunk is 0, 1, 2, ..."""

    def sample_actions(self, state, observation, keys):
        return jnp.arange(float(self.chunk_size))[None]


def test_a_chunk_is_executed_step_by_step():
    base = small_agents.make(dfp, chunk=3)
    agent = Numbered(base.network, base.training, 3, 2, base.config)
    state = AgentState(jnp.zeros(()), (), (), None, ())
    found = act(agent, state, np.zeros((1, 3), np.float32), np.array([0]), np.array([0]), jax.random.key(0))
    np.testing.assert_array_equal(found, [[[0, 1], [2, 3], [4, 5]]])


class Counting(dfp.Agent):
    """Its actor counts how many chunks began with each of the five states of ``support.chunks``."""

    def update(self, state, batch, key):
        began = batch.observation == jnp.array([[0.0, 1.0, 2.0, 10.0, 11.0]])
        return state._replace(actor=state.actor + jnp.sum(began, axis=0)), {}


def test_offline_updates_draw_from_all_rows():
    """400 batches of 4: each of the four rows that another one follows 400 times, give or take 17."""
    training = make_spec().training.model_copy(update={"batch_size": 4})
    agent = Counting(make_spec().network, training, 1, 1, dfp.Config(chunk=2, top_k=None))
    state = AgentState(jnp.zeros(5, jnp.int32), (), (), None, ())
    rows = make_buffer(dataset(), 5)
    state, _ = offline_updates(agent, state, no_diagnostics(agent, state), rows, jax.random.key(0), 0, 400)
    np.testing.assert_allclose(state.actor, [400, 400, 400, 400, 0], atol=90)
    assert state.actor[4] == 0
    assert state.actor.sum() == 1600


def test_every_stream_of_every_seed_is_another_one():
    names = ("init", "data", "actor", "evaluation")
    keys = {tuple(jax.random.key_data(stream(seed, name)).tolist()) for seed in (0, 5) for name in names}
    assert len(keys) == 8
    # 2918445923 is the CRC-32 of "data".
    expected = jax.random.fold_in(jax.random.key(5), 2918445923)
    np.testing.assert_array_equal(jax.random.key_data(stream(5, "data")), jax.random.key_data(expected))


class Clocked:
    """In place of the environment: the clock ends an episode after ``length`` steps; step n (from 1) leads to n."""

    def __init__(self, length: int) -> None:
        self.width = make_spec().task.observation_size
        self.length, self.steps, self.left = length, 0, 0

    def reset(self, seed: int) -> np.ndarray:
        self.left = self.length
        return np.zeros(self.width, np.float32)

    def play(self, actions):
        for _ in actions:
            self.steps, self.left = self.steps + 1, self.left - 1
            yield Step(np.full(self.width, self.steps, np.float32), -1.0, False, self.left == 0, False)
            if self.left == 0:
                return


@contextlib.contextmanager
def online_loop(folder: Path, environment: Clocked, steps: int, warmup: int = 33, capacity: int = 1100, **changes):
    """The loop of an attempt at a fine-tuning of so many steps; without updates, if they are fewer than the warm-up."""
    online = {"steps": steps, "warmup_steps": warmup, "buffer_capacity": capacity}
    spec = make_spec("dfp-no-topk", online=online, **changes)
    state = jax.jit(build_agent(spec).init)(jax.random.key(0))._replace(anchor=None)
    save(folder / FINAL_STATE, state, spec.pretraining().digest(), {"step": 40})
    with Session(spec, folder / "run", options(), steps, folder) as session:
        assert session.begin()
        yield OnlineLoop(session, environment, folder, random_dataset(spec.task))  # pyright: ignore


def play_and_save(loop: OnlineLoop, episodes: int) -> None:
    """Play whole episodes, store their last rows, and leave a checkpoint."""
    for _ in range(episodes):
        loop.episode()
    loop._update()
    loop.session.save(loop.step, loop.state, loop._progress)


@pytest.fixture
def _little_room_for_finals(monkeypatch):
    """For one episode more than have ended."""
    monkeypatch.setattr(replay, "_spare_finals", lambda used: 1)


@pytest.mark.usefixtures("_little_room_for_finals")
def test_every_episode_keeps_its_last_state_as_their_table_grows_and_after_a_restart(tmp_path):
    """Four episodes of one step, after which states are 1, 2, 3 and 4; the last one in a second attempt."""
    environment = Clocked(length=1)
    for episodes in (3, 1):
        with online_loop(tmp_path, environment, steps=20) as loop:
            play_and_save(loop, episodes)
            table, entries = loop.buffer.final_observation, loop.buffer.final[1000 : 1000 + loop.step]
            np.testing.assert_array_equal(table[entries, 0], [1, 2, 3, 4][: loop.step])
            np.testing.assert_array_equal(table[:2], random_dataset(make_spec().task).final_observations)
    assert loop.step == 4


@pytest.mark.usefixtures("_little_room_for_finals")
def test_the_online_phase_ends_at_its_last_step_in_the_middle_of_a_chunk(tmp_path, monkeypatch):
    evaluated = []
    monkeypatch.setattr(Session, "evaluate", lambda self, state, step: evaluated.append(step))
    with online_loop(tmp_path, Clocked(length=100), steps=7) as loop:
        loop.episode()
    assert (loop.step, evaluated) == (7, [7])


def test_an_evaluation_is_of_the_policy_that_every_step_so_far_has_updated(tmp_path, monkeypatch):
    """Of steps 4 and 8, in the middle of chunks of five; rows of the log come after steps 9, 18, ... of 450."""
    updates = []
    count = lambda state: int(jax.tree.leaves(state.optimiser)[0])  # noqa: E731
    monkeypatch.setattr(OnlineLoop, "_device_is_idle", lambda self: False)
    monkeypatch.setattr(Session, "evaluate", lambda self, state, step: updates.append((step, count(state))))
    evaluation = {"interval": 4, "episodes": 1}
    with online_loop(tmp_path, Clocked(length=8), steps=450, warmup=1, evaluation=evaluation) as loop:
        loop.episode()
    assert updates == [(4, 3), (8, 7)]


def test_a_buffer_smaller_than_the_dataset_holds_all_of_it_but_its_oldest_rows(tmp_path):
    """1,000 offline rows, a capacity of 10, three online steps: the newest 1,001 rows are drawn."""
    with online_loop(tmp_path, Clocked(length=3), steps=20, capacity=10) as loop:
        loop.episode()
        assert live_rows(loop.offline + loop.step, loop.capacity).size == 1001
        # The first update of a chunk of five still draws the oldest of `capacity` rows. By then four more rows and the
        # newest next observation are stored.
        assert len(loop.buffer.reward) >= loop.capacity + 4 + 1


class Stumbling(Clocked):
    """Its first step of an episode is a success that ends nothing; the first episode fails at its end, others stop."""

    def play(self, actions):
        for step in super().play(actions):
            failed = self.steps == self.length
            success, stopped = self.left == self.length - 1, step.truncated and not failed
            yield step._replace(success=success, terminated=failed, truncated=stopped)


def test_the_end_of_the_task_and_not_success_or_a_cut_off_ends_the_bootstrap_after_a_restart_too(tmp_path):
    environment = Stumbling(length=3)
    for episodes in (2, 0):
        with online_loop(tmp_path, environment, steps=20) as loop:
            play_and_save(loop, episodes)
            np.testing.assert_array_equal(loop.buffer.mask[1000:1006], [1, 1, 0, 1, 1, 1])
            np.testing.assert_array_equal(loop.buffer.final[1000:1006] >= 0, [0, 0, 1, 0, 0, 1])
    assert (loop.step, loop.episodes) == (6, 2)


class Passing(Clocked):
    """The last step of its first chunk of five is a success that ends nothing."""

    def play(self, actions):
        for step in super().play(actions):
            yield step._replace(success=self.steps == 5)


def test_an_episode_goes_on_after_a_success_that_does_not_end_it(tmp_path):
    with online_loop(tmp_path, Passing(length=7), steps=20) as loop:
        play_and_save(loop, 1)
        assert (loop.step, loop.episodes) == (7, 1)
        np.testing.assert_array_equal(loop.buffer.final[1000:1007] >= 0, [0, 0, 0, 0, 0, 0, 1])


def test_a_run_that_begins_again_keeps_no_rows_of_the_one_before(tmp_path):
    """Its checkpoints were refused, so they know nothing of the file."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "online_rows.bin").write_bytes(bytes(1000))
    with online_loop(tmp_path, Clocked(length=3), steps=20) as loop:
        loop.episode()
        loop._update()
        kept = loop._progress()
        assert kept["records"] == 3 + 1
        assert loop.rows.problem(kept["records"], kept["checksum"]) is None


def test_diagnostics_are_sums_and_the_first_update_that_went_wrong():
    """Update 0 counts, and a later failure does not hide an earlier one."""
    zero = {name: jnp.zeros(()) for name in ("early", "late", "fine")}
    diagnostics = Diagnostics(jnp.int32(0), zero, {name: jnp.int32(-1) for name in zero})
    for step in range(4):
        bad = {"early": step in (0, 2), "late": step in (1, 3), "fine": False}
        terms = {name: jnp.where(wrong, jnp.nan, float(step)) for name, wrong in bad.items()}
        diagnostics = diagnostics.add(terms, jnp.int32(step))
    assert jax.tree.map(int, diagnostics.first_bad) == {"early": 0, "late": 1, "fine": -1}
    assert (int(diagnostics.count), float(diagnostics.total["fine"])) == (4, 0.0 + 1.0 + 2.0 + 3.0)


def test_a_chunk_of_updates_in_one_dispatch_is_the_serial_loop():
    """Each update draws only from the rows that existed at its own step."""
    agent = dfp.Agent(
        network=make_spec().network, training=make_spec().training, observation_size=28, action_size=5,
        config=dfp.Config(top_k=None),
    )  # fmt: skip
    data = random_dataset(CATALOGUE.tasks["cube-single-task2"].spec)
    capacity, end, first, skip = 1001, 1000, 77, 2
    rng = np.random.default_rng(1)
    new = Rows(
        observation=rng.normal(size=(5, 28)).astype(np.float32),
        action=rng.uniform(-1, 1, size=(5, 5)).astype(np.float32),
        reward=-np.ones(5, np.float32),
        mask=np.ones(5, np.float32),
        final=np.full(5, -1, np.int32),
        next_observation=rng.normal(size=(5, 28)).astype(np.float32),
    )
    key = jax.random.key(3)
    start = jax.jit(agent.init)(jax.random.key(0))
    buffer = make_buffer(data, capacity + 6)

    state, diagnostics, stored = online_updates(
        agent, capacity, jax.tree.map(jnp.copy, start), no_diagnostics(agent, start), jax.tree.map(jnp.copy, buffer),
        key, new, Span(end, 5, first, skip),
    )  # fmt: skip
    assert diagnostics.count == 5 - skip

    @jax.jit
    def serial_update(state, buffer, end, number):
        data_key, update_key = jax.random.split(jax.random.fold_in(key, number))
        batch = sample_chunks(buffer, live_rows(end, capacity), data_key, 8, 5, 0.99)
        return agent.update(state, batch, update_key)[0]

    expected, ring = start, buffer
    for row in range(5):
        one = Rows(*(values[row : row + 1] for values in new))
        ring = append(ring, one, jnp.int32(end + row), jnp.int32(1))
        if row >= skip:
            expected = serial_update(expected, ring, jnp.int32(end + row + 1), first + row)
    for a, b in zip(jax.tree.leaves(ring), jax.tree.leaves(stored), strict=True):
        np.testing.assert_array_equal(a, b)
    # Another compiled program, so equal up to rounding.
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-6)


def test_shards_follow_each_other_by_step_and_the_last_one_is_kept():
    task = CATALOGUE.tasks["cube-single-task2"].spec.model_copy(update={"shards": 3, "shard_interval": 10})
    shards = offline.Shards(make_spec(task=task), Path("unused"))
    # Update number n (from 1) draws from file n // 10 % 3, as in the authors' release.
    first_rows = [float(shards.buffer(number - 1).observation[0, 0]) for number in (1, 9, 10, 19, 20, 30)]
    expected = [random_dataset(task, shard).observations[0, 0] for shard in (0, 0, 1, 1, 2, 0)]
    np.testing.assert_array_equal(first_rows, np.float32(expected))
    assert [shards.until_next(number - 1) for number in (1, 9, 10)] == [9, 1, 10]
    # The 40th and last offline update draws from file 4 % 3 = 1, which alone goes online.
    np.testing.assert_array_equal(shards.at_switch().observations, random_dataset(task, 1).observations)


def test_a_block_of_updates_ends_where_its_file_ends_or_an_evaluation_is_due(tmp_path, monkeypatch):
    """40 updates in blocks as long as can be. The file changes before updates 9, 19, 29 and 39, counted from 0."""
    task = make_spec().task.model_copy(update={"shards": 3, "shard_interval": 10})
    spec = make_spec(task=task, evaluation={"interval": 25, "episodes": 1}).pretraining()
    firsts = {float(np.float32(random_dataset(task, shard).observations[0, 0])): shard for shard in range(3)}
    blocks = []

    def noted(agent, state, diagnostics, rows, key, first, count):
        blocks.append((firsts[float(rows.observation[0, 0])], first, count))
        return state, diagnostics

    monkeypatch.setattr(offline, "offline_updates", noted)
    monkeypatch.setattr(offline, "next_block", lambda *_: 100)
    monkeypatch.setattr(Session, "evaluate", lambda self, state, step: blocks.append(f"evaluation at {step}"))
    with Session(spec, tmp_path / "run", options(), 40) as session, offline.Shards(spec, tmp_path) as shards:
        session.interval = 1000
        loop = offline.OfflineLoop(session, shards)
        loop._block = 100
        while loop.step < 40:
            loop.block()
    assert blocks == [
        (0, 0, 9), (1, 9, 10), (2, 19, 6), "evaluation at 25", (2, 25, 4), (0, 29, 10), (1, 39, 1), "evaluation at 40",
    ]  # fmt: skip
