"""Consistency functions: levels, scalings, the loss and the way from noise to action, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
from support.small_agents import A, B, H, batch, make

from dfp.agents.models import consistency
from dfp.agents.models.consistency import SIGMA_MAX, SIGMA_MIN
from dfp.agents.offline import cac

D = H * A


def test_levels_rise_from_epsilon_to_t_by_karras():
    levels = consistency.karras_levels(40)
    assert levels.shape == (40,)
    assert np.all(np.diff(levels) > 0)
    np.testing.assert_allclose(levels[jnp.array([0, -1])], [SIGMA_MIN, SIGMA_MAX], rtol=1e-4)
    # three levels: the middle one is ((0.002^(1/7) + 80^(1/7)) / 2)^7 = ((0.41156 + 1.87019) / 2)^7
    np.testing.assert_allclose(consistency.karras_levels(3)[1], 1.140875**7, rtol=1e-3)


def test_scalings_by_hand():
    one = jnp.array(0.502)
    np.testing.assert_allclose(consistency.skip_scale(one), 0.25 / (0.25 + 0.25), rtol=1e-5)
    np.testing.assert_allclose(consistency.output_scale(one), 0.5 * 0.5 / np.sqrt(0.502**2 + 0.25), rtol=1e-5)
    np.testing.assert_allclose(consistency.input_scale(jnp.array(0.0)), 2.0)


def test_a_consistency_function_by_hand():
    # F(x, t) = x + t; x = 2, sigma = 1.5. c_skip = 0.25 / (1.498^2 + 0.25) = 0.1002404,
    # c_out = 0.5 * 1.498 / sqrt(2.5) = 0.4737092, c_in = 1 / sqrt(2.5) = 0.6324555.
    # F = 1.264911 + log(1.5) / 4 = 1.366277; f = 0.2004808 + 0.6472180
    f = consistency.consistency_function(lambda x, t: x + t)
    np.testing.assert_allclose(f(jnp.array([[2.0]]), jnp.array([[1.5]])), [[0.847699]], rtol=1e-5)


def test_the_boundary_condition():
    """``f(x, epsilon) = x`` whatever the network says; far from it the network decides."""
    agent = make(cac, chunk=H, eta=1.0)
    params = jax.tree.map(lambda leaf: 5.0 * leaf, agent.init_actor(jax.random.key(0)))
    x = 3.0 * jax.random.normal(jax.random.key(1), (B, D))
    f = agent.function(params, batch().observation)
    np.testing.assert_array_equal(f(x, jnp.full((B, 1), SIGMA_MIN)), x)
    assert np.abs(f(x, jnp.full((B, 1), SIGMA_MAX)) - x).min() > 1e-3


def test_consistency_loss_is_zero_where_student_and_teacher_are_constant_along_paths():
    action, noise = jnp.array([[0.5, -0.25], [0.1, 0.9]]), jax.random.normal(jax.random.key(0), (2, 2))
    sigma, next_sigma, ones = jnp.array([[0.002], [3.0]]), jnp.array([[0.01], [5.0]]), jnp.ones((2, 2))

    def back(x, sigma):
        return x - sigma * noise  # the path's own end: the same at every level

    assert consistency.consistency_loss(back, back, action, noise, sigma, next_sigma, ones) < 1e-10
    assert consistency.consistency_loss(lambda x, s: x, back, action, noise, sigma, next_sigma, ones) > 0.1


def test_consistency_loss_by_hand_and_its_target_is_a_constant():
    # action 1, noise 2, levels 0.5 and 1: x = 2 and 3. f = c x, teacher 2 x: 100 / 0.5 * (3 c - 4)^2
    one, sigma, next_sigma = jnp.array([[1.0]]), jnp.array([[0.5]]), jnp.array([[1.0]])

    def loss(c, t):
        weights = consistency.level_weights(sigma, next_sigma)
        return consistency.consistency_loss(
            lambda x, s: c * x, lambda x, s: t * x, one, 2.0 * one, sigma, next_sigma, weights
        )

    np.testing.assert_allclose(loss(1.0, 2.0), 200.0)
    np.testing.assert_allclose(jax.grad(loss, argnums=(0, 1))(1.0, 2.0), (200.0 * 2 * 3 * -1.0, 0.0))


def test_drawn_levels_are_neighbours_and_all_are_drawn():
    levels = jnp.array([1.0, 2.0, 4.0, 8.0])
    low, high = consistency.draw_levels(jax.random.key(0), levels, 3000)
    assert (low.shape, high.shape) == ((3000, 1), (3000, 1))
    np.testing.assert_array_equal(high, 2.0 * low)
    counts = np.unique(low, return_counts=True)[1]  # every row draws a pair of its own
    assert counts.shape == (3,)
    assert counts.min() > 900


def test_multistep_by_hand():
    # f = x / 2 + sigma: 80 * 0.1 -> 4 + 80 = 84; 84 + sqrt(2^2 - 0.002^2) * (-1) = 82.000001 -> 41 + 2
    noise = jnp.array([[[0.1], [-1.0]]])
    found = consistency.multistep(lambda x, sigma: x / 2 + sigma, noise, jnp.array([80.0, 2.0]))
    np.testing.assert_allclose(found, [[43.0]], rtol=1e-6)
