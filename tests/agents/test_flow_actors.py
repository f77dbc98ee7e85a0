"""FAWAC and FBRAC: weights by hand, and a gradient through every Euler step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from support.small_agents import A, S, bandit, changed, make, start, two_modes
from support.small_offline_agents import chunks, close, known, small

from dfp.agents.base.actor_critic import AgentState, per_step
from dfp.agents.base.implicit_q import advantage_weights
from dfp.agents.models.flow import draw_start, integrate
from dfp.agents.offline import fawac, fbrac

# --------------------------------------------------------------------------- FAWAC


def test_fawac_weights_by_hand_and_at_the_clip():
    """``Q = c (a_1 + s_0 + 1)`` and the policy's own action is ``s_0 - 1``: ``V = 0`` at the state, which is zero."""
    base = make(fawac, chunk=1, inverse_temperature=2.0)
    agent = known(
        base,
        generate=lambda self, actor, observation, noise: observation[:, :1] - 1.0 + 0.0 * noise,
        values=lambda self, critic, observation, action: (
            critic * (action[None, :, 0] + observation[None, :, 0] + 1.0) + jnp.array([[0.1], [-0.1]])
        ),
    )
    data = two_modes(size=4, chunk=1, action_size=A)._replace(
        action=jnp.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.5, 0.0]]), next_observation=jnp.ones((4, S))
    )
    state = start(base)._replace(critic=jnp.asarray(1.5))
    advantage = agent.advantage(state, data, jax.random.key(0))
    np.testing.assert_allclose(advantage, [0.0, 1.5, 3.0, 2.25], atol=1e-6)
    weights = [1.0, np.exp(3.0), 100.0, np.exp(4.5)]  # exp(6) is 403
    np.testing.assert_allclose(advantage_weights(advantage, 2.0), weights, rtol=1e-5)
    _, metrics = agent.actor_loss(state.actor, state, data, jax.random.key(1))
    np.testing.assert_allclose(metrics["weight_mean"], np.mean(weights), rtol=1e-5)
    assert metrics["clipped_share"] == 0.25


def test_fawac_draws_one_action_for_each_state():
    """``pi(s, z) = z`` and ``Q = a_1``; the data's action is 0. The advantage is minus the state's own noise."""
    agent = known(
        make(fawac, chunk=1, inverse_temperature=1.0),
        generate=lambda self, actor, observation, noise: noise,
        values=lambda self, critic, observation, action: action[None, :, 0],
    )
    data, key = two_modes(4, chunk=1)._replace(action=jnp.zeros((4, A))), jax.random.key(1)
    drawn = [float(jax.random.normal(row, (1, A))[0, 0]) for row in jax.random.split(key, 4)]
    advantage = agent.advantage(AgentState(None, {}, {}, None, ()), data, key)
    np.testing.assert_allclose(advantage, -np.clip(drawn, -1.0, 1.0), rtol=1e-5)


def test_fawac_loss_is_flow_matching_with_those_weights():
    agent = small(fawac, inverse_temperature=3.0)
    state, data, key = start(agent), chunks(), jax.random.key(1)
    flow_key, value_key = jax.random.split(key)
    noise, t = draw_start(flow_key, data.action)
    velocity = agent.velocity(state.actor, data.observation)
    error = velocity((1 - t) * noise + t * data.action, t) - (data.action - noise)
    weights = jnp.minimum(jnp.exp(3.0 * agent.advantage(state, data, value_key)), 100.0)
    expected = jnp.mean(weights[:, None] * per_step(data.valid, A) * error**2)
    np.testing.assert_allclose(agent.actor_loss(state.actor, state, data, key)[0], expected, rtol=1e-4)
    assert weights.std() > 0.1


def test_fawac_value_by_regression_by_hand():
    """``Q_e = c (a_1 + s_0 + e)``, e = 0 and 1, c = 2 online and 3 in the target; ``V = v + s_0``; ``s_0 = 0``."""
    base = make(fawac, chunk=1, inverse_temperature=2.0, value="regression")
    agent = known(
        base,
        generate=lambda self, actor, observation, noise: jnp.ones_like(noise),
        values=lambda self, critic, observation, action: (
            critic * (action[None, :, 0] + observation[None, :, 0] + jnp.array([[0.0], [1.0]]))
        ),
        state_value=lambda self, value, observation: value + observation[:, 0],
    )
    data = two_modes(size=2, chunk=1, action_size=A)._replace(
        action=jnp.array([[-0.5, 0.0], [0.5, 0.0]]), return_=jnp.zeros(2), valid=jnp.array([[1.0], [0.0]]),
        next_observation=jnp.full((2, S), 5.0),
    )  # fmt: skip
    state = start(base)._replace(critic={"q": 2.0, "v": 0.25}, target_critic=3.0)

    # The mean online critic is 2 (a + 0.5), so 0 and 2 at the two actions; V is 0.25 at both.
    np.testing.assert_allclose(agent.advantage(state, data, jax.random.key(0)), [-0.25, 1.75], atol=1e-6)

    # The target critics give -1.5 and 1.5 at the first action; V is 1 there; the second chunk is not valid.
    loss, metrics = agent.critic_loss({"q": 2.0, "v": 1.0}, state, data, jax.random.key(0))
    value_loss = (2.5**2 + 0.5**2 + 0.0 + 0.0) / 4
    td = (1.0**2 + 1.0**2 + 0.0 + 0.0) / 4  # Q is -1 and 1, the target 0: no reward, and the discount is 0
    np.testing.assert_allclose(metrics["value_loss"], value_loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["v_mean"], 1.0)
    np.testing.assert_allclose(loss, td + value_loss, rtol=1e-6)


def test_fawac_value_by_regression_becomes_the_mean_of_the_data():
    """One action of a state pays 1, the other 0. V is 0.5, although the policy prefers the one that pays."""
    agent = make(fawac, inverse_temperature=1.0, value="regression")
    data = two_modes(size=8)._replace(observation=jnp.ones((8, 3)), next_observation=jnp.ones((8, 3)))
    agent = dataclasses.replace(
        agent, training=agent.training.model_copy(update={"learning_rate": 1e-2, "target_update_rate": 0.1})
    )
    final = bandit(agent, data, 300)
    np.testing.assert_allclose(agent.state_value(final.critic["v"], jnp.ones((1, 3))), [0.5], atol=0.05)


def test_fawac_value_by_regression_and_the_critics_have_no_gradient_in_each_others_loss():
    agent = small(fawac, value="regression")
    state, data, key = start(agent), chunks(), jax.random.key(1)
    for term, part in (("value_loss", "q"), ("critic_loss", "v")):
        leaves = jax.jit(jax.grad(lambda c, term=term: agent.critic_loss(c, state, data, key)[1][term]))(state.critic)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(leaves[part]))
        assert any(np.any(leaf) for leaf in jax.tree.leaves(leaves))


def test_fawac_value_by_regression_is_trained_and_its_target_is_of_q_alone():
    agent = small(fawac, value="regression")
    before = start(agent)
    after, metrics = jax.jit(agent.update)(before, chunks(), jax.random.key(1))
    assert changed(before.critic["v"], after.critic["v"])
    assert changed(before.critic["q"], after.critic["q"])
    close_trees = jax.tree.map(lambda new, old: 0.01 * new + 0.99 * old, after.critic["q"], before.target_critic)
    jax.tree.map(close, after.target_critic, close_trees)
    assert {"value_loss", "v_mean"} <= set(metrics)
    assert "v" not in start(small(fawac)).critic["params"]  # without it, there is no such network


# --------------------------------------------------------------------------- FBRAC


def test_fbrac_bootstraps_from_the_mean_of_the_target_critics():
    """``Q'_e = 4 a_1 + e``, e = 0 and 1: at the policy's action 0.5 they are 2 and 3."""
    agent = known(
        make(fbrac, chunk=1, alpha=1.0),
        generate=lambda self, actor, observation, noise: 0.5 + 0.0 * noise,
        values=lambda self, critic, observation, action: critic * action[None, :, 0] + jnp.array([[0.0], [1.0]]),
    )
    data = two_modes(2, chunk=1)._replace(return_=jnp.zeros(2), discount=jnp.full(2, 0.5))
    state = AgentState(actor=None, critic=-9.0, target_critic=4.0, anchor=None, optimiser=())
    _, metrics = agent.critic_loss(0.0, state, data, jax.random.key(0))
    np.testing.assert_allclose(metrics["target_mean"], 0.5 * 2.5)


def test_fbrac_gradient_goes_through_all_euler_steps():
    """``v = c x`` and ``Q = a_1 + a_2``: Q sums ``z (1 + c / 10)^10``; its slope by hand and by differences."""
    base = make(fbrac, chunk=1, alpha=0.0)
    agent = known(
        base,
        velocity=lambda self, c, observation: lambda x, t: c * x,
        values=lambda self, critic, observation, action: jnp.sum(action, axis=-1)[None],
    )
    state, data, key = start(base), two_modes(chunk=1), jax.random.key(4)
    z, c = np.asarray(jax.random.normal(jax.random.split(key)[1], data.action.shape)), -2.0
    assert np.abs(z * 0.8**10).max() < 1.0  # nothing is clipped

    @jax.jit
    def loss(c):
        return agent.actor_loss(c, state, data, key)[0]

    by_hand = -z.sum(axis=1).mean() * 0.8**9
    assert abs(by_hand) > 1e-3
    np.testing.assert_allclose(jax.grad(loss)(c), by_hand, rtol=1e-4)
    np.testing.assert_allclose((loss(c + 0.1) - loss(c - 0.1)) / 0.2, by_hand, rtol=2e-2)


def test_fbrac_gradient_of_its_own_network_by_finite_differences():
    agent = small(fbrac, alpha=0.0)
    state, data, key = start(agent), chunks(), jax.random.key(1)
    loss = jax.jit(lambda actor: agent.actor_loss(actor, state, data, key)[0])
    slope = jax.jit(jax.grad(loss))(state.actor)
    direction = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), slope)
    expected = sum(jnp.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (slope, direction)), strict=True))
    step = 2e-3
    ahead = loss(jax.tree.map(lambda leaf, way: leaf + step * way, state.actor, direction))
    behind = loss(jax.tree.map(lambda leaf, way: leaf - step * way, state.actor, direction))
    np.testing.assert_allclose((ahead - behind) / (2 * step), expected, rtol=0.03)


def test_fbrac_loss_is_alpha_times_cloning_minus_q():
    data, key = chunks(), jax.random.key(1)
    losses = []
    for alpha in (0.0, 3.0):
        agent = small(fbrac, alpha=alpha)
        state = start(agent)
        state = state._replace(target_critic=jax.tree.map(lambda leaf: 0.5 * leaf, state.target_critic))
        loss, metrics = agent.actor_loss(state.actor, state, data, key)
        close(loss, alpha * metrics["bc_loss"] - metrics["actor_q_mean"])
        losses.append(loss)
    assert losses[1] > losses[0] + 1.0
    # The Q is that of where ten Euler steps end, clipped.
    z = jax.random.normal(jax.random.split(key)[1], data.action.shape)
    actions = jnp.clip(integrate(agent.velocity(state.actor, data.observation), z, 10), -1.0, 1.0)
    close(metrics["actor_q_mean"], jnp.mean(agent.values(state.critic, data.observation, actions)))
