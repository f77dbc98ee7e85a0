"""Algorithm 1, line by line and in its order, then the same for the methods that DFP is compared with.

The lines of the page::

    Initialize old policy pi_old <- pi_theta
    for online training step k = 1, 2, ... do
      Observe s_k; draw {a_i}, i = 1..N', of pi_theta(s_k) and execute a* = argmax_j Q(s_k, a_j)
      Receive s_{k+1}, r_k; append (s_k, a*_k, r_k, s_{k+1}) to D
      Sample a mini-batch of D
        Generate N_gen samples of pi_theta for every state, shared by both terms
        Draw N candidates of pi_old
        Select P_K, the K candidates with the largest Q
      Update theta by minimising L_BC + lambda L_topK
      Update phi via the Bellman backup
      Update old policy: theta_old <- tau theta + (1 - tau) theta_old

What is expected is computed by ``reference.py``. One short online phase is played through the loop that trains: two
episodes with a scripted environment, ten offline rows, a buffer of twelve.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from paper import cases, reference
from paper.cases import BANDWIDTHS, BEST_OF, EMA, GAMMA, LAMBDA, POLYAK, RATE, A, B, K, S, close, tree
from support.small_runs import CATALOGUE, make_spec, options

from dfp.agents import dfp
from dfp.runs.checkpoint import save
from dfp.tasks import Dataset, Step
from dfp.training.online import OnlineLoop
from dfp.training.rollout import episode_seed
from dfp.training.session import FINAL_STATE, Session
from dfp.training.updates import stream

H, D = 2, 2
OFFLINE_STEPS, CAPACITY, WARMUP, SEED = cases.TRAINING.offline_steps, 12, 2, 5
LOSS = reference.DFP(BANDWIDTHS, LAMBDA)


# --------------------------------------------------------------------------- the methods in NumPy


class Method(NamedTuple):
    """A method's agent, the random numbers of one of its updates, and its policy and loss in NumPy."""

    agent: Callable[[], Any]
    draws: Callable[[Any], cases.Draws]
    sample: Callable[[Any, Any, Any], Any]  # params, [n, S], noise [n, D] -> [n, D]
    loss: Callable[[reference.Learner, reference.Chunks, cases.Draws], Callable[[Any], Any]]
    has_old: bool = False


def dfp_loss(state: reference.Learner, batch: reference.Chunks, draws: cases.Draws) -> Callable[[Any], Any]:
    favourites = reference.top_k(reference.one_pass, state.old, state.critic, batch.observation, draws.candidates, K)
    return lambda w: reference.dfp_loss(w, batch, draws.actor[0], favourites, LOSS)[0]


def cloning_loss(state: reference.Learner, batch: reference.Chunks, draws: cases.Draws) -> Callable[[Any], Any]:
    return lambda w: reference.dfp_loss(w, batch, draws.actor[0], None, LOSS)[0]


def mvp_loss(state: reference.Learner, batch: reference.Chunks, draws: cases.Draws) -> Callable[[Any], Any]:
    valid = reference.over_coordinates(batch.valid, batch.action.shape[1])
    return lambda w: reference.mvp_loss(w, state.actor, batch.observation, batch.action, valid, draws.actor, 1.0)


def mvp_top_k_loss(state: reference.Learner, batch: reference.Chunks, draws: cases.Draws) -> Callable[[Any], Any]:
    favourites = reference.top_k(reference.mvp_action, state.old, state.critic, batch.observation, draws.candidates, K)
    observation, positives = np.repeat(batch.observation, K, axis=0), favourites.reshape(B * K, -1)
    cloning, ones = mvp_loss(state, batch, draws), np.ones_like(positives)
    return lambda w: (
        cloning(w) + LAMBDA * reference.mvp_loss(w, state.actor, observation, positives, ones, draws.positives, 1.0)
    )


def flow_loss(state: reference.Learner, batch: reference.Chunks, draws: cases.Draws) -> Callable[[Any], Any]:
    return lambda w: reference.flow_loss(w, batch, *draws.actor)


def fql_loss(state: reference.Learner, batch: reference.Chunks, draws: cases.Draws) -> Callable[[Any], Any]:
    return lambda w: reference.fql_loss(w, state.actor, state.critic, batch, draws.actor, 3.0)[0]


def student(actor: Any, observation: Any, noise: Any) -> Any:
    return reference.one_pass(actor["student"], observation, noise)


METHODS = {
    "DFP": Method(cases.drifting, cases.dfp_draws, reference.one_pass, dfp_loss, has_old=True),
    "DFP w/o top-K": Method(
        functools.partial(cases.drifting, top_k=None), cases.dfp_draws, reference.one_pass, cloning_loss
    ),
    "MVP": Method(cases.mean_velocity, cases.mvp_draws, reference.mvp_action, mvp_loss),
    "MVP w/ top-K": Method(
        functools.partial(cases.mean_velocity, top_k=cases.TOP_K), cases.mvp_draws, reference.mvp_action,
        mvp_top_k_loss, has_old=True,
    ),
    "QC-FQL": Method(cases.flow_q, cases.fql_draws, student, fql_loss),
    "FQL": Method(
        functools.partial(cases.flow_q, 1), functools.partial(cases.fql_draws, chunk=1), student, fql_loss
    ),
    "QC-BFN": Method(cases.best_of_flow, cases.bfn_draws, reference.flow_action, flow_loss),
    "BFN": Method(
        functools.partial(cases.best_of_flow, 1), functools.partial(cases.bfn_draws, chunk=1),
        reference.flow_action, flow_loss,
    ),
}  # fmt: skip
OURS = METHODS["DFP"]


def in_numpy(state: Any) -> reference.Learner:
    """A state whose moments are zero: before its first update."""
    fresh = reference.learner(tree(state.actor), tree(state.critic))
    old = None if state.anchor is None else tree(state.anchor)
    return fresh._replace(target_critic=tree(state.target_critic), old=old)


def updated(method: Method, state: reference.Learner, batch: reference.Chunks, key: Any) -> reference.Learner:
    """One pass through the body of the algorithm."""
    draws = method.draws(key)
    target = reference.td_target(
        method.sample, state.actor, state.critic, state.target_critic, batch, draws.next_action
    )
    rates = reference.Rates(RATE, POLYAK, EMA if method.has_old else None)
    return reference.learn(
        state, method.loss(state, batch, draws), lambda phi: reference.critic_loss(phi, target, batch), rates
    )


def same(found: Any, expected: reference.Learner, **tolerance: float) -> None:
    """The two states agree in everything that an update changes."""
    close(found.actor, expected.actor, **tolerance)
    close(found.critic, expected.critic, **tolerance)
    close(found.target_critic, expected.target_critic, **tolerance)
    if expected.old is not None:
        close(found.anchor, expected.old, **tolerance)


# --------------------------------------------------------------------------- one short online phase

FIRST, SECOND = 0.01, 0.02  # every moment that the offline phase ended with


def after_the_offline_phase(optimiser: Any) -> Any:
    """Adam's state after ten updates."""
    first, second = (
        jax.tree.map(lambda leaf, value=value: jnp.full_like(leaf, value), optax.tree.get(optimiser, name))
        for name, value in (("mu", FIRST), ("nu", SECOND))
    )
    return optax.tree.set(optimiser, mu=first, nu=second, count=jnp.int32(OFFLINE_STEPS))


class Scripted:
    """Two episodes: five steps to success, then three steps to the cap. What is played in them changes nothing."""

    def __init__(self) -> None:
        numbers = np.random.default_rng(11).normal(size=(2, 6, S)).astype(np.float32)
        self.places, self.lengths = numbers, (5, 3)
        self.episode, self.step = -1, 0
        self.seeds: list[int] = []
        self.played: list[tuple[int, np.ndarray]] = []  # episode and action

    def reset(self, seed: int) -> np.ndarray:
        self.seeds.append(seed)
        self.episode, self.step = self.episode + 1, 0
        return self.places[self.episode, 0]

    def play(self, actions: np.ndarray) -> Iterator[Step]:
        for action in actions:
            self.played.append((self.episode, np.array(action)))
            self.step += 1
            last = self.step == self.lengths[self.episode]
            success, capped = last and self.episode == 0, last and self.episode == 1
            yield Step(self.places[self.episode, self.step], -0.25 * self.step, success, capped, success)
            if last:
                return


class Phase(NamedTuple):
    """An online phase: what it started from, and the loop's state and buffer after each episode."""

    agent: Any
    pretrained: Any
    at_switch: Any
    states: list[Any]
    buffers: list[Any]
    environment: Scripted


def dataset(rows: list[reference.Row]) -> Dataset:
    return Dataset(
        observations=np.array([row.observation for row in rows]),
        actions=np.array([row.action for row in rows]),
        rewards=np.array([row.reward for row in rows]),
        masks=np.array([1.0 - row.task_ended for row in rows]),
        terminals=np.array([row.episode_ended for row in rows]),
        final_observations=np.array([row.next_observation for row in rows if row.episode_ended]),
    )


def single(leaf: Any) -> Any:
    return leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf


@pytest.fixture(scope="module")
def phase(tmp_path_factory: pytest.TempPathFactory) -> Phase:
    """The online phase of DFP, played by the loop that trains."""
    folder: Path = tmp_path_factory.mktemp("phase")
    agent, environment = OURS.agent(), Scripted()
    sizes = {"observation_size": S, "action_size": A, "max_episode_steps": 6}
    spec = make_spec(
        task=CATALOGUE.tasks["cube-single-task2"].spec.model_copy(update=sizes), agent=agent.config,
        network=agent.network, training=agent.training, seed=SEED,
        online={"steps": 100, "warmup_steps": WARMUP, "buffer_capacity": CAPACITY},
        evaluation={"interval": 100, "episodes": 1},
    )  # fmt: skip
    with jax.enable_x64(True), Session(spec, folder / "run", options(), 100) as session:
        # The loop restores single precision. Everything else is computed in double precision here too.
        pretrained = cases.initial(agent)
        optimiser = after_the_offline_phase(pretrained.optimiser)
        pretrained = jax.tree.map(single, pretrained._replace(anchor=None, optimiser=optimiser))
        save(folder / FINAL_STATE, pretrained, spec.pretraining().digest(), {"step": OFFLINE_STEPS})
        loop = OnlineLoop(session, environment, folder, dataset(cases.episodes()))  # pyright: ignore
        at_switch = jax.device_get(loop.state)
        states, buffers = [], []
        for _ in range(2):
            loop.episode()
            states.append(jax.device_get(loop.state))
            buffers.append(jax.device_get(loop.buffer))
    return Phase(session.agent, pretrained, at_switch, states, buffers, environment)


class Algorithm1:
    """The page, in NumPy: the same two episodes."""

    def __init__(self, state: reference.Learner) -> None:
        self.state = state
        self.rows = cases.episodes()  # D, initialised with offline data
        self.executed: list[tuple[int, np.ndarray]] = []
        self.step = self.episode = 0
        self.environment = Scripted()
        self.data_key, self.acting_key = stream(SEED, "data"), stream(SEED, "actor")

    def play(self) -> None:
        """One episode."""
        observation, chunk, done = self.environment.reset(0), 0, False
        while not done:
            action = self.best_of(observation, chunk)
            for one in action.reshape(H, A):
                (result,) = self.environment.play(one[None])
                done = result.terminated or result.truncated
                self.executed.append((self.episode, one))
                stored = one.astype(np.float32)  # rows are in single precision
                self.rows.append(
                    reference.Row(observation, stored, result.reward, result.terminated, done, result.observation)
                )
                observation, self.step = result.observation, self.step + 1
                if self.step > WARMUP:
                    self.update()
                if done:
                    break
            chunk += 1
        self.episode += 1

    def best_of(self, observation: np.ndarray, chunk: int) -> np.ndarray:
        """Draw N' chunks of pi_theta and take the one with the largest Q."""
        noise = cases.normal(jax.random.fold_in(jax.random.fold_in(self.acting_key, self.episode), chunk), BEST_OF, D)
        return reference.best_of(
            OURS.sample, self.state.actor, self.state.critic, observation[None].astype(float), noise[None]
        )[0]

    def update(self) -> None:
        """Sample a mini-batch of D, the newest row included; update theta, phi and pi_old."""
        data_key, key = jax.random.split(jax.random.fold_in(self.data_key, OFFLINE_STEPS + self.step - 1))
        live = self.rows[-CAPACITY:]
        firsts = np.asarray(jax.random.randint(data_key, (B, 1), 0, len(live) - H + 1))[:, 0]
        self.state = updated(OURS, self.state, reference.cut(live, firsts, H, GAMMA), key)


@pytest.fixture(scope="module")
def page(phase: Phase) -> tuple[Algorithm1, list[reference.Learner]]:
    """The page played through, and its state after each episode."""
    with jax.enable_x64(True):
        actor = phase.pretrained.actor  # Initialize old policy pi_old <- pi_theta
        start = jax.tree.map(lambda leaf: np.asarray(leaf, float), phase.pretrained._replace(anchor=actor))
        params = {"actor": start.actor, "critic": start.critic}
        first, second = (
            reference.combined(lambda leaf, value=value: np.full_like(leaf, np.float32(value)), params)
            for value in (FIRST, SECOND)
        )
        begun = in_numpy(start)._replace(first=first, second=second, steps=OFFLINE_STEPS)
        algorithm, states = Algorithm1(begun), []
        for _ in range(2):
            algorithm.play()
            states.append(algorithm.state)
    return algorithm, states


# --------------------------------------------------------------------------- Initialize old policy pi_old <- pi_theta


def test_the_online_phase_begins_with_pi_old_equal_to_the_policy(phase):
    close(phase.at_switch.actor, tree(phase.pretrained.actor), rtol=0.0, atol=0.0)
    close(phase.at_switch.anchor, tree(phase.pretrained.actor), rtol=0.0, atol=0.0)


def test_the_online_phase_begins_with_the_critics_of_the_offline_phase(phase):
    close(phase.at_switch.critic, tree(phase.pretrained.critic), rtol=0.0, atol=0.0)
    close(phase.at_switch.target_critic, tree(phase.pretrained.target_critic), rtol=0.0, atol=0.0)


def test_the_online_phase_goes_on_with_the_moments_of_the_offline_phase(phase):
    close(phase.at_switch.optimiser, tree(phase.pretrained.optimiser), rtol=0.0, atol=0.0)
    assert {float(np.max(leaf)) for leaf in jax.tree.leaves(phase.at_switch.optimiser)} == {
        float(np.float32(FIRST)), float(np.float32(SECOND)), OFFLINE_STEPS,
    }  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_training_begins_with_the_target_critic_equal_to_the_critic_and_new_moments(method):
    agent = METHODS[method].agent()
    state = agent.init(jax.random.key(3))
    close(state.target_critic, tree(state.critic), rtol=0.0, atol=0.0)
    moments = [leaf for leaf in jax.tree.leaves(state.optimiser) if leaf.ndim]
    assert moments
    assert not any(np.any(leaf) for leaf in moments)


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].has_old])
def test_pi_old_becomes_the_policy_whatever_it_was(method):
    agent = METHODS[method].agent()
    state = cases.initial(agent)
    assert not np.allclose(*(jax.tree.leaves(params)[1] for params in (state.actor, state.anchor)))
    close(agent.start_improving(state).anchor, tree(state.actor), rtol=0.0, atol=0.0)


# --------------------------------------------------------------------------- Draw N' of pi_theta, execute the best


def test_the_first_chunk_is_the_best_of_n_of_the_pretrained_policy(phase):
    key = jax.random.fold_in(jax.random.fold_in(stream(SEED, "actor"), 0), 0)
    noise = cases.normal(key, BEST_OF, D)
    observation = np.tile(phase.environment.places[0, 0].astype(float), (BEST_OF, 1))
    actor, critic = tree(phase.pretrained.actor), tree(phase.pretrained.critic)
    candidates = reference.clip(reference.one_pass(actor, observation, noise))
    values = reference.critics(critic, observation, candidates).mean(axis=0)
    played = np.concatenate([action for _, action in phase.environment.played[:H]])
    close(played, candidates[np.argmax(values)])


def test_every_chunk_is_chosen_by_the_policy_that_all_steps_before_it_have_updated(phase, page):
    algorithm, _ = page
    assert [episode for episode, _ in phase.environment.played] == [0] * 5 + [1] * 3  # the rest of a chunk is dropped
    for (_, found), (_, expected) in zip(phase.environment.played, algorithm.executed, strict=True):
        close(found, expected, rtol=1e-5)


def test_each_episode_starts_where_the_seed_and_its_number_say(phase):
    starts = [episode_seed(SEED, "environment", number) for number in (0, 1)]
    assert phase.environment.seeds == starts
    assert len({*starts, episode_seed(0, "environment", 0), episode_seed(0, "environment", 1)}) == 4


# --------------------------------------------------------------------------- Append (s, a*, r, s') to D


def test_the_buffer_gets_what_was_executed(phase):
    """Ten offline rows and eight online ones, in a ring: the newest twelve are there, and how each ended."""
    buffer, environment = phase.buffers[1], phase.environment
    places = buffer.observation.shape[0]
    for step, (episode, action) in enumerate(environment.played):
        number, within = (10 + step) % places, step - 5 * episode
        np.testing.assert_array_equal(buffer.observation[number], environment.places[episode, within])
        close(buffer.action[number], action, rtol=1e-6)  # stored in single precision
        assert buffer.reward[number] == -0.25 * (within + 1)
        last = within + 1 == environment.lengths[episode]
        assert buffer.mask[number] == (0.0 if last and episode == 0 else 1.0)  # success, and not the cap
        assert (buffer.final[number] >= 0) == last
        if last:
            after = buffer.final_observation[buffer.final[number]]
            np.testing.assert_array_equal(after, environment.places[episode, within + 1])


# --------------------------------------------------------------------------- Sample a mini-batch of D


def test_no_update_during_the_warm_up_and_one_for_every_step_after_it(phase):
    counts = [int(jax.tree.leaves(state.optimiser)[0]) for state in phase.states]
    assert counts == [OFFLINE_STEPS + 5 - WARMUP, OFFLINE_STEPS + 5 + 3 - WARMUP]


# --------------------------------------------------------------------------- Generate N_gen samples, shared by both


class OneTarget(dfp.Agent):
    """Its best candidates are the data's action itself, so that L_topK and L_BC have the same positives."""

    def top_candidates(self, state, observation, key, top_k):
        return state.anchor


def test_both_terms_see_the_same_samples():
    base = OURS.agent()
    agent = OneTarget(base.network, base.training, S, A, base.config)
    data = cases.to_batch(cases.chunks())
    state = cases.initial(base)._replace(anchor=data.action[:, None, :])
    loss, metrics = jax.jit(agent.actor_loss)(state.actor, state, data, jax.random.key(0))
    for name in ("loss", "field_strength", "mean_distance"):
        assert metrics[f"top_k_{name}"] == metrics[f"bc_{name}"], name
    close(loss, (1.0 + LAMBDA) * np.asarray(metrics["bc_loss"]))


# --------------------------------------------------------------------------- Draw N candidates of pi_old, select P_K


def test_the_candidates_are_those_of_pi_old_and_the_live_critic_ranks_them():
    agent, data = OURS.agent(), cases.chunks()
    state, key = cases.initial(agent), jax.random.key(4)
    _, candidates_key = jax.random.split(jax.random.split(key)[1])
    observation = jnp.asarray(data.observation)
    found = agent.top_candidates(state, observation, candidates_key, agent.config.top_k)
    expected = reference.top_k(
        OURS.sample, tree(state.anchor), tree(state.critic), data.observation, OURS.draws(key).candidates, K
    )
    close(found, expected)
    values = reference.worth(tree(state.critic), data.observation, expected)
    assert (np.diff(values, axis=1) <= 0.0).all()  # the best first
    # Neither the live policy nor the target critic has a part in it.
    other = cases.initial(agent, seed=1)
    moved = state._replace(actor=other.actor, target_critic=other.target_critic)
    close(agent.top_candidates(moved, observation, candidates_key, agent.config.top_k), expected)


# --------------------------------------------------------------------------- Update theta, phi and pi_old


def test_the_losses_add_up_with_lambda_on_the_improvement():
    agent, data = OURS.agent(), cases.chunks()
    state = cases.initial(agent)
    loss, metrics = jax.jit(agent.actor_loss)(state.actor, state, cases.to_batch(data), jax.random.key(2))
    assert abs(metrics["bc_loss"] - metrics["top_k_loss"]) > 1e-3
    close(loss, np.asarray(metrics["bc_loss"] + LAMBDA * metrics["top_k_loss"]))


@pytest.mark.parametrize("method", METHODS)
def test_two_updates(method):
    """Adam on both losses, then Polyak and EMA towards the new parameters: twice, so that the moments count."""
    entry = METHODS[method]
    agent = entry.agent()
    data = cases.chunks(agent.chunk)
    state = cases.initial(agent)
    expected, update = in_numpy(state), jax.jit(agent.update)
    for key in jax.random.split(jax.random.key(6), 2):
        expected = updated(entry, expected, data, key)
        state, _ = update(state, cases.to_batch(data), key)
        same(state, expected)
    assert (state.anchor is not None) == entry.has_old


@pytest.mark.parametrize("method", METHODS)
def test_acting(method):
    """The best of N' samples of the live policy by the live critic; FQL takes the one sample of its student."""
    entry = METHODS[method]
    agent, data = entry.agent(), cases.chunks(entry.agent().chunk)
    state, key = cases.initial(agent), jax.random.key(3)
    noise = entry.draws(key).next_action
    keys = jax.random.split(jax.random.split(key)[0], B)
    found = jax.jit(agent.sample_actions)(state, jnp.asarray(data.observation), keys)
    close(found, reference.best_of(entry.sample, tree(state.actor), tree(state.critic), data.observation, noise))


def test_the_whole_online_phase(phase, page):
    """Eight steps, six updates: the parameters, and their averages, after each episode."""
    _, states = page
    for found, expected in zip(phase.states, states, strict=True):
        same(found, expected, rtol=1e-5, atol=1e-6)
