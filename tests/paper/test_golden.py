"""Values and gradients of the losses in double precision, against the NumPy loops of ``reference.py``."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from paper import cases, reference
from paper.cases import BANDWIDTHS, LAMBDA, B, K, close, tree

from dfp import drift
from dfp.report import statistics
from dfp.training import replay

D = 2


def cloud(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.0, 1.0, shape)


SAMPLES, POSITIVES, EXTRA, MASK = cloud(0, 3, 4, D), cloud(1, 3, 2, D), cloud(2, 3, 3, D), np.eye(3, D)

# --------------------------------------------------------------------------- Eqs. 3 and 4


@pytest.mark.parametrize("normalisation", ["joint", "mean_shift"])
@pytest.mark.parametrize("bandwidths", [(0.3,), (0.1, 0.8)], ids=["one h", "two h"])
@pytest.mark.parametrize("extra", [None, EXTRA], ids=["", "extra negatives"])
def test_field(normalisation, bandwidths, extra):
    more = None if extra is None else jnp.asarray(extra)
    field = jax.jit(functools.partial(drift.drifting_field, bandwidths=bandwidths, normalisation=normalisation))
    found = field(jnp.asarray(SAMPLES), jnp.asarray(POSITIVES), more)
    expected = reference.FIELDS[normalisation](SAMPLES, POSITIVES, bandwidths, extra)
    for name in ("velocity", "scale", "strength", "distance"):
        close(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("normalisation", ["joint", "mean_shift"])
@pytest.mark.parametrize("weights", [None, MASK], ids=["", "masked"])
def test_drift_loss_and_its_gradient(normalisation, weights):
    """The gradient takes the field as a constant: it is that of a regression onto a fixed target."""

    def loss(samples):
        field = drift.drifting_field(
            samples, jnp.asarray(POSITIVES), bandwidths=BANDWIDTHS, normalisation=normalisation
        )
        return drift.drift_loss(samples, field, None if weights is None else jnp.asarray(weights))

    field = reference.FIELDS[normalisation](SAMPLES, POSITIVES, BANDWIDTHS)
    found, slope = jax.jit(jax.value_and_grad(loss))(jnp.asarray(SAMPLES))
    close(found, reference.drift_loss(SAMPLES, field, weights))
    close(slope, reference.gradient(lambda x: reference.drift_loss(x, field, weights), SAMPLES))


def test_the_positives_get_no_gradient():
    def loss(positives):
        field = drift.drifting_field(jnp.asarray(SAMPLES), positives, bandwidths=BANDWIDTHS)
        return drift.drift_loss(jnp.asarray(SAMPLES), field)

    close(jax.jit(jax.grad(loss))(jnp.asarray(POSITIVES)), 0.0 * POSITIVES, rtol=0.0, atol=0.0)


# --------------------------------------------------------------------------- chunks and the TD target


def buffer() -> replay.Buffer:
    """The rows of :func:`cases.episodes` in a ring of twelve places."""
    rows, finals = cases.episodes(), []
    entries = {name: np.zeros((12, *np.shape(getattr(rows[0], name)))) for name in ("observation", "action", "reward")}
    mask, final = np.ones(12), np.full(12, -1, np.int32)
    for place, row in enumerate(rows):
        for name, column in entries.items():
            column[place] = getattr(row, name)
        mask[place] = 0.0 if row.task_ended else 1.0
        if row.episode_ended:
            final[place] = len(finals)
            finals.append(row.next_observation)
    columns = [entries["observation"], entries["action"], entries["reward"], mask, final, np.array(finals)]
    return replay.Buffer(*map(jnp.asarray, columns))


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks(chunk):
    firsts = list(range(11 - chunk))
    expected = reference.cut(cases.episodes(), firsts, chunk, cases.GAMMA)
    found = jax.jit(replay.chunks_at, static_argnums=(2, 3))(buffer(), jnp.asarray(firsts), chunk, cases.GAMMA)
    for name in expected._fields:
        close(getattr(found, name), getattr(expected, name))


AGENTS = {
    "DFP": (cases.drifting, cases.dfp_draws, reference.one_pass),
    "BFN": (cases.best_of_flow, cases.bfn_draws, reference.flow_action),
}


@pytest.mark.parametrize("method", AGENTS)
def test_td_target_and_critic_loss(method):
    make, draw, sample = AGENTS[method]
    agent, key, data = make(), jax.random.key(7), cases.chunks()
    state = cases.initial(agent)
    actor, critic, target_critic = map(tree, (state.actor, state.critic, state.target_critic))
    critic_key = jax.random.split(key)[0]
    loss = jax.jit(jax.value_and_grad(agent.critic_loss, has_aux=True))
    (found, metrics), slope = loss(state.critic, state, cases.to_batch(data), critic_key)

    target = reference.td_target(sample, actor, critic, target_critic, data, draw(key).next_action)
    close(metrics["target_mean"], target.mean())
    close(found, reference.critic_loss(critic, target, data))
    close(slope, reference.gradient(lambda phi: reference.critic_loss(phi, target, data), critic))


# --------------------------------------------------------------------------- actor losses


def actor_loss(agent, state, data, key):
    """Loss, gradient and metrics of an agent's actor."""
    function = jax.jit(jax.value_and_grad(agent.actor_loss, has_aux=True))
    (loss, metrics), slope = function(state.actor, state, cases.to_batch(data), jax.random.split(key)[1])
    return loss, slope, metrics


DFP_CASES = {
    "joint": {},
    "mean shift, masked": {"normalisation": "mean_shift", "mask_invalid": True},
    "without top-K": {"top_k": None, "mask_invalid": True},
}


@pytest.mark.parametrize("name", DFP_CASES)
def test_dfp(name):
    agent, key, data = cases.drifting(**DFP_CASES[name]), jax.random.key(8), cases.chunks()
    state, draws = cases.initial(agent), cases.dfp_draws(key)
    settings = reference.DFP(BANDWIDTHS, LAMBDA, agent.config.normalisation, agent.config.mask_invalid)
    actor, critic = tree(state.actor), tree(state.critic)
    favourites = None
    if agent.config.top_k is not None:
        favourites = reference.top_k(
            reference.one_pass, tree(state.anchor), critic, data.observation, draws.candidates, K
        )
    found, slope, metrics = actor_loss(agent, state, data, key)
    total, cloning, improvement = reference.dfp_loss(actor, data, draws.actor[0], favourites, settings)
    close(found, total)
    close(metrics["bc_loss"], cloning)
    if favourites is not None:
        close(metrics["top_k_loss"], improvement)
    close(
        slope, reference.gradient(lambda w: reference.dfp_loss(w, data, draws.actor[0], favourites, settings)[0], actor)
    )


@pytest.mark.parametrize("top_k", [None, cases.TOP_K], ids=["MVP", "MVP w/ top-K"])
def test_mvp(top_k):
    agent, key, data = cases.mean_velocity(top_k=top_k), jax.random.key(9), cases.chunks()
    state, draws = cases.initial(agent), cases.mvp_draws(key)
    actor = tree(state.actor)
    valid = reference.over_coordinates(data.valid, D)

    def loss(w):
        cloning = reference.mvp_loss(w, actor, data.observation, data.action, valid, draws.actor, 1.0)
        if top_k is None:
            return cloning
        favourites = reference.top_k(
            reference.mvp_action, tree(state.anchor), tree(state.critic), data.observation, draws.candidates, K
        )
        observation, ones = np.repeat(data.observation, K, axis=0), np.ones((B * K, D))
        return cloning + LAMBDA * reference.mvp_loss(
            w, actor, observation, favourites.reshape(B * K, D), ones, draws.positives, 1.0
        )

    found, slope, _ = actor_loss(agent, state, data, key)
    close(found, loss(actor))
    close(slope, reference.gradient(loss, actor))


def test_bfn():
    agent, key, data = cases.best_of_flow(), jax.random.key(10), cases.chunks()
    state, draws = cases.initial(agent), cases.bfn_draws(key)
    actor = tree(state.actor)
    found, slope, _ = actor_loss(agent, state, data, key)
    close(found, reference.flow_loss(actor, data, *draws.actor))
    close(slope, reference.gradient(lambda w: reference.flow_loss(w, data, *draws.actor), actor))


def test_fql():
    agent, key, data = cases.flow_q(), jax.random.key(11), cases.chunks()
    state, draws = cases.initial(agent), cases.fql_draws(key)
    actor, critic = tree(state.actor), tree(state.critic)

    def loss(w):
        return reference.fql_loss(w, actor, critic, data, draws.actor, agent.config.alpha)

    found, slope, metrics = actor_loss(agent, state, data, key)
    total, cloning, distillation, value = loss(actor)
    close([found, *(metrics[name] for name in ("bc_loss", "distillation_loss", "student_q_mean"))],
          [total, cloning, distillation, value])  # fmt: skip
    close(slope, reference.gradient(lambda w: loss(w)[0], actor))


# --------------------------------------------------------------------------- statistics

RATES = [0.31, 0.92, 0.58, 0.47, 0.99, 0.05, 0.73]


def test_mean_and_std_over_seeds():
    table = pd.DataFrame({"task": "one", "success_rate": RATES})
    (row,) = statistics.over_seeds(table, ["task"]).to_dict("records")
    close([row["mean"], row["std"], row["n"]], [sum(RATES) / 7, reference.sample_std(RATES), 7])


@pytest.mark.parametrize("count", [4, 5, 7])
def test_interquartile_mean(count):
    close(statistics.interquartile_mean(np.array(RATES[:count])), reference.interquartile_mean(RATES[:count]))


def test_interquartile_mean_pools_the_tasks():
    close(statistics.interquartile_mean(np.array(RATES[:3]), np.array(RATES[3:])), reference.interquartile_mean(RATES))


def test_regret_is_the_area_above_the_curve():
    steps = [0.0, 100.0, 250.0, 400.0]
    found = statistics.online_regret(np.array(steps), np.array(RATES[:4]))
    close(found, 1.0 - reference.area_under(steps, RATES[:4]))


def test_bootstrap_interval_of_a_mean():
    """Two values of two seeds: of all resamples, 1/4 have the mean 0, 1/2 have 1/2, 1/4 have 1."""
    low, high = statistics.stratified_bootstrap(statistics.task_mean, [np.array([0.0, 1.0])])
    assert (float(low), float(high)) == (0.0, 1.0)
    # Twelve seeds, six of them 1: the mean of a resample is Binomial(12, 1/2) / 12, whose 2.5 and 97.5 % are 3 and 9.
    low, high = statistics.stratified_bootstrap(statistics.task_mean, [np.repeat([0.0, 1.0], 6)])
    close([low, high], [3 / 12, 9 / 12])
