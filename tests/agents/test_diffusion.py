"""The VP schedule, noise prediction and the way back, against values worked by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_agents import S

from dfp.agents.models import diffusion
from dfp.agents.models.diffusion import VPSchedule
from dfp.agents.models.networks import JointNetwork, ResNet, parameter_count
from dfp.agents.offline.idql import SCHEDULE as IDQL
from dfp.agents.offline.srpo import SCHEDULE as SRPO

# alpha_t = exp(-t / 2): at t = ln(25 / 16) it is 0.8, and sigma 0.6.
CONSTANT = VPSchedule(beta_min=1.0, beta_max=1.0)
T = jnp.full((1, 1), math.log(25.0 / 16.0))


def spread(mean: float, std: float, schedule: VPSchedule):
    """The true noise prediction of data ``N(m, s^2)``: ``sigma (x - alpha m) / (alpha^2 s^2 + sigma^2)``."""

    def prediction(x, t):
        alpha, sigma = schedule.signal(t), schedule.noise(t)
        return sigma * (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    return prediction


# --------------------------------------------------------------------------- schedule


@pytest.mark.parametrize("schedule", [IDQL, SRPO, CONSTANT])
def test_signal_and_noise_preserve_the_variance(schedule):
    t = jnp.linspace(0.0, 1.0, 21)
    np.testing.assert_allclose(schedule.signal(t) ** 2 + schedule.noise(t) ** 2, 1.0, rtol=1e-6)
    assert (schedule.signal(0.0), schedule.noise(0.0)) == (1.0, 0.0)
    assert np.all(np.diff(schedule.signal(t)) < 0.0)


def test_signal_by_hand():
    np.testing.assert_allclose(CONSTANT.signal(T), 0.8, rtol=1e-6)
    np.testing.assert_allclose(CONSTANT.noise(T), 0.6, rtol=1e-6)
    # -9.9 / 4 - 0.1 / 2 and -19.9 / 4 - 0.1 / 2
    np.testing.assert_allclose(IDQL.log_signal(1.0), -2.525, rtol=1e-6)
    np.testing.assert_allclose(SRPO.log_signal(1.0), -5.025, rtol=1e-6)
    assert SRPO.noise(1.0) > 0.9999


def test_noise_keeps_its_digits_where_there_is_little():
    # sigma^2 = 1 - exp(-t) = 1e-8 to eight digits, which 1 - alpha^2 in float32 would lose.
    np.testing.assert_allclose(CONSTANT.noise(1e-8), 1e-4, rtol=1e-6)


def test_the_five_steps_of_idql():
    """beta_k = 1 - exp(-0.02 - 0.198 (2 k - 1)), and the product of 1 - beta_k is alpha^2 at k / 5."""
    k = jnp.arange(1, 6)
    variance = IDQL.step_variance(k / 5, (k - 1) / 5)
    np.testing.assert_allclose(variance, [0.195874, 0.458818, 0.635781, 0.754878, 0.835031], atol=2e-6)
    np.testing.assert_allclose(jnp.cumprod(1.0 - variance), IDQL.signal(k / 5) ** 2, rtol=1e-5)


# --------------------------------------------------------------------------- losses


def test_noise_prediction_loss_by_hand():
    # a_t = 0.8 * 0.5 - 0.6 * 1 = -0.2 and 0.8 * 1 + 0.6 * 2 = 2; eps_hat = 2 x: errors 0.6 and 2, weights 1 and 1/2
    action, noise = jnp.array([[0.5], [1.0]]), jnp.array([[-1.0], [2.0]])
    t = jnp.tile(T, (2, 1))
    loss = diffusion.noise_prediction_loss(lambda x, t: 2.0 * x, CONSTANT, action, noise, t, jnp.array([[1.0], [0.5]]))
    np.testing.assert_allclose(loss, (0.36 + 0.5 * 4.0) / 2, rtol=1e-5)


@pytest.mark.parametrize("schedule", [IDQL, SRPO])
def test_noise_prediction_loss_is_zero_where_the_data_is_one_action(schedule):
    action = jnp.full((6, 2), 0.3)
    noise, t = jax.random.normal(jax.random.key(0), (6, 2)), jnp.linspace(0.1, 1.0, 6)[:, None]
    loss = diffusion.noise_prediction_loss(spread(0.3, 0.0, schedule), schedule, action, noise, t, jnp.ones((6, 1)))
    assert loss < 1e-10


@pytest.mark.parametrize(("weighting", "weight"), [("variance", 0.36), ("score", 0.8 / 0.6)])
def test_score_regularisation_by_hand(weighting, weight):
    # Data N(0.25, 0.5^2): a_t = 0.8 * 1 + 0.6 * 0.5 = 1.1, eps_hat = 0.6 (1.1 - 0.2) / (0.16 + 0.36), less eps = 0.5
    prediction = spread(0.25, 0.5, CONSTANT)
    one, half = jnp.ones((1, 1)), jnp.full((1, 1), 0.5)
    found = diffusion.score_regularisation(prediction, CONSTANT, one, half, T, weighting)
    np.testing.assert_allclose(found, weight * (0.54 / 0.52 - 0.5), rtol=1e-5)


@pytest.mark.parametrize("weighting", ["variance", "score"])
def test_score_regularisation_is_the_gradient_of_the_smoothed_likelihood(weighting):
    """Its mean is ``w sigma / alpha`` times ``-d/da E log p_t(alpha a + sigma eps)``, here by finite differences."""
    noise = jax.random.normal(jax.random.key(0), (2000, 1))
    noise = jnp.concatenate([noise, -noise])
    t = jnp.tile(T, (4000, 1))

    def likelihood(a):  # of the smoothed data, N(0.8 * 0.25, 0.16 + 0.36)
        return np.mean(-((0.8 * a + 0.6 * np.asarray(noise, np.float64) - 0.2) ** 2) / (2.0 * 0.52))

    slope = -(likelihood(0.9 + 1e-4) - likelihood(0.9 - 1e-4)) / 2e-4
    prediction = spread(0.25, 0.5, CONSTANT)
    found = diffusion.score_regularisation(prediction, CONSTANT, jnp.full((4000, 1), 0.9), noise, t, weighting).mean()
    weight = {"variance": 0.36, "score": 0.8 / 0.6}[weighting]
    np.testing.assert_allclose(found, weight * 0.6 / 0.8 * slope, rtol=1e-4)


def two_points(x, t):
    """The true noise prediction of SRPO's schedule where the data is -0.6 and 0.6, half each."""
    alpha, sigma = SRPO.signal(t), SRPO.noise(t)
    return (x - 0.6 * alpha * jnp.tanh(0.6 * alpha * x / sigma**2)) / sigma


@pytest.mark.parametrize(("weighting", "between"), [("variance", 1.0), ("score", -1.0)])
def test_what_the_weighting_of_srpo_does_to_two_modes(weighting, between):
    """At 0.3, between the middle and a mode: by `variance` one is sent to the middle, by `score` to the mode."""
    count, (noise_key, time_key) = 40_000, jax.random.split(jax.random.key(0))
    noise = jax.random.normal(noise_key, (count, 1))
    t = jax.random.uniform(time_key, (count, 1), minval=0.02, maxval=0.98)
    away = [
        diffusion.score_regularisation(two_points, SRPO, jnp.full((count, 1), a), noise, t, weighting).mean()
        for a in (0.3, 0.9)
    ]
    assert np.sign(away[0]) == between
    assert away[1] > 0.0  # from outside, back to the data


# --------------------------------------------------------------------------- the way back


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_step_back_with_the_true_noise_is_the_posterior_mean(k):
    """``(sqrt(abar_{k-1}) beta_k a + sqrt(1 - beta_k) (1 - abar_{k-1}) x) / (1 - abar_k)`` (Ho et al., Eq. 7)."""
    t, earlier, action, x = jnp.full((1, 1), k / 5), jnp.full((1, 1), (k - 1) / 5), 0.3, jnp.array([[1.7]])
    abar, previous = IDQL.signal(t) ** 2, IDQL.signal(earlier) ** 2
    beta = 1.0 - abar / previous
    expected = (jnp.sqrt(previous) * beta * action + jnp.sqrt(1.0 - beta) * (1.0 - previous) * x) / (1.0 - abar)
    found = diffusion.ancestral_step(spread(action, 0.0, IDQL), IDQL, x, t, earlier, jnp.zeros((1, 1)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    noisy = diffusion.ancestral_step(spread(action, 0.0, IDQL), IDQL, x, t, earlier, jnp.full((1, 1), 2.0))
    np.testing.assert_allclose(noisy - found, 2.0 * jnp.sqrt(beta), rtol=1e-4)


def test_a_step_back_by_hand():
    # From alpha = 0.8 to data: beta = 1 - 0.64 = 0.36; (1.1 - 0.36 / 0.6 * 0.5) / 0.8, and 0.6 z
    step = diffusion.ancestral_step(
        lambda x, t: jnp.full_like(x, 0.5), CONSTANT, jnp.array([[1.1]]), T, jnp.zeros((1, 1)), jnp.array([[-1.0]])
    )
    np.testing.assert_allclose(step, [[1.0 - 0.6]], rtol=1e-5)


def test_where_the_data_is_one_action_all_noise_ends_in_it():
    noise = jax.random.normal(jax.random.key(0), (7, 5, 2))
    np.testing.assert_allclose(diffusion.ancestral(spread(-0.4, 0.0, IDQL), IDQL, noise), -0.4, atol=1e-5)


def test_the_way_back_is_its_steps_and_the_last_adds_no_noise():
    noise = 0.3 * jax.random.normal(jax.random.key(0), (4, 3, 2))
    prediction = spread(0.2, 0.4, IDQL)
    x = noise[:, 0]
    for k in (3, 2, 1):
        t, earlier = jnp.full((4, 1), k / 3), jnp.full((4, 1), (k - 1) / 3)
        z = noise[:, 4 - k] if k > 1 else jnp.zeros((4, 2))
        x = jnp.clip(diffusion.ancestral_step(prediction, IDQL, x, t, earlier, z), -1.0, 1.0)
    np.testing.assert_allclose(diffusion.ancestral(prediction, IDQL, noise), x, rtol=1e-5, atol=1e-6)


def test_every_step_is_held_within_the_actions_range():
    noise = jnp.full((1, 2, 1), 1.0)
    # No noise predicted: x only grows, to 1 after the first step; the second would take it to 1 / alpha(1/2).
    assert diffusion.ancestral(lambda x, t: 0.0 * x, IDQL, noise) == 1.0
    seen = []  # the loop hides its steps from Python: a callback shows them

    def watching(x, t):
        jax.debug.callback(lambda value: seen.append(float(value[0, 0])), x)
        return -3.0 * x

    jax.block_until_ready(diffusion.ancestral(watching, IDQL, noise))
    jax.effects_barrier()
    assert seen == [1.0, 1.0]


@pytest.mark.parametrize(("mean", "std"), [(0.2, 0.1), (-0.5, 0.05)])
def test_many_small_steps_recover_a_gaussian(mean, std):
    noise = jax.random.normal(jax.random.key(0), (2000, 100, 1))
    actions = np.asarray(diffusion.ancestral(spread(mean, std, IDQL), IDQL, noise))
    assert actions.mean() == pytest.approx(mean, abs=0.01)
    assert actions.std() == pytest.approx(std, rel=0.1)


# --------------------------------------------------------------------------- the network


def test_the_prediction_sees_state_action_and_time():
    network = JointNetwork(ResNet(16, 3, 2), (S, 2, 1))
    params = network.init(jax.random.key(0))
    observation, x, t = jnp.ones((1, S)), 2.0 * jnp.ones((1, 2)), jnp.full((1, 1), 0.5)
    expected = network.body.apply(params, jnp.concatenate([observation, x, t], axis=1))
    np.testing.assert_array_equal(network(params, observation, x, t), expected)


def test_a_residual_network_by_its_parts():
    """4 numbers in, width 2, one block, 3 out: LayerNorm, 2 -> 8, GELU, 8 -> 2, added; GELU; 2 -> 3."""
    body = ResNet(2, 1, 3)
    params = body.init(jax.random.key(0), jnp.zeros((1, 4)))
    inside, narrow, wide, out = (params["params"][f"Dense_{i}"] for i in (0, 1, 2, 3))
    assert parameter_count(params) == (4 * 2 + 2) + 2 * 2 + (2 * 8 + 8) + (8 * 2 + 2) + (2 * 3 + 3)
    x = jnp.array([[1.0, -2.0, 0.5, 3.0]]) @ inside["kernel"]
    normal = (x - x.mean()) / jnp.sqrt(x.var() + 1e-6)
    x = x + jax.nn.gelu(normal @ narrow["kernel"]) @ wide["kernel"]
    expected = jax.nn.gelu(x) @ out["kernel"]
    np.testing.assert_allclose(body.apply(params, jnp.array([[1.0, -2.0, 0.5, 3.0]])), expected, rtol=1e-4)
