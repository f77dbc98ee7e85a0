"""IQL's critics: expectiles and weights by hand, who is trained by what, and that no policy has a say in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_agents import A, H, S, batch, changed, make, start

from dfp.agents.base import implicit_q
from dfp.agents.base.actor_critic import AgentState
from dfp.agents.base.batch import Batch
from dfp.agents.offline import idql, ifql, iql, srpo

AGENTS = [(iql, {"alpha": 1.0}), (ifql, {}), (idql, {}), (srpo, {})]


# --------------------------------------------------------------------------- equations


def test_expectile_loss_by_hand():
    # targets above, below and at the value: 0.9 * 2^2, 0.1 * 3^2, 0; the fourth does not count
    value, target = jnp.array([1.0, 1.0, 1.0, 1.0]), jnp.array([3.0, -2.0, 1.0, 100.0])
    loss = implicit_q.expectile_loss(value, target, 0.9, jnp.array([1.0, 1.0, 1.0, 0.0]))
    np.testing.assert_allclose(loss, (3.6 + 0.9) / 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("expectile", "sample", "value"),
    [
        (0.9, [0.0, 1.0], 0.9),  # 0.9 (1 - v) = 0.1 v
        (0.7, [0.0, 1.0], 0.7),
        (0.5, [0.0, 1.0, 5.0], 2.0),  # the mean
        (0.9, [0.0, 1.0, 5.0], 46.0 / 11.0),  # above 1: 0.9 (5 - v) = 0.1 (v + v - 1)
        (0.1, [0.0, 1.0, 5.0], 6.0 / 11.0),  # below 1: 0.1 (1 - v + 5 - v) = 0.9 v
    ],
)
def test_the_expectile_of_a_sample_has_the_least_loss(expectile, sample, value):
    target = jnp.array(sample)
    slope = jax.grad(
        lambda v: implicit_q.expectile_loss(jnp.full(target.shape, v), target, expectile, jnp.ones(target.shape))
    )
    np.testing.assert_allclose(slope(value), 0.0, atol=1e-6)
    assert slope(value - 0.05) < 0.0 < slope(value + 0.05)


def test_weights_by_hand_and_at_the_clip():
    # exp(3 A): 1 at no advantage, 8 at ln 2, 1/8 at -ln 2; from ln(100) / 3 = 1.535 on, 100, and never infinite
    advantage = jnp.array([0.0, np.log(2.0), -np.log(2.0), 1.53, 1.54, 1e9, -1e9])
    weights = implicit_q.advantage_weights(advantage, 3.0)
    np.testing.assert_allclose(weights, [1.0, 8.0, 0.125, np.exp(4.59), 100.0, 100.0, 0.0], rtol=1e-5)
    np.testing.assert_array_equal(implicit_q.advantage_weights(advantage, 0.0), 1.0)


# --------------------------------------------------------------------------- the critics


class Known(iql.Agent):
    """Known functions: ``Q_e(s, a) = c + e (sum of a + 10 s_0)`` and ``V(s) = v (sum of s)``."""

    def values(self, critic, observation, action):
        total = jnp.sum(action, axis=-1) + 10.0 * observation[..., 0]
        return jnp.stack([critic + 0.0 * total, critic + total])

    def state_value(self, value, observation):
        return value * jnp.sum(observation, axis=-1)


def known():
    base = make(iql, alpha=2.0)
    agent = Known(base.network, base.training, S, A, base.config)
    return agent, AgentState(actor=None, critic={"q": 1.0, "v": 0.5}, target_critic=-2.0, anchor=None, optimiser=())


def test_the_critic_loss_by_definition():
    agent, state = known()
    data = batch()
    total = np.asarray(data.action).sum(axis=1) + 10.0 * np.asarray(data.observation)[:, 0]
    s, s_next = np.asarray(data.observation).sum(axis=1), np.asarray(data.next_observation).sum(axis=1)
    valid = np.asarray(data.valid[:, -1])
    pessimistic = -2.0 + np.minimum(0.0, total)  # of the target critics
    difference = pessimistic - 0.7 * s
    value_loss = np.mean(valid * np.where(difference < 0.0, 0.1, 0.9) * difference**2)
    target = np.asarray(data.return_) + np.asarray(data.discount) * 0.5 * s_next  # of V before the update
    td = [np.mean(valid * (q - target) ** 2) for q in (3.0 + 0.0 * total, 3.0 + total)]
    loss, metrics = agent.critic_loss({"q": 3.0, "v": 0.7}, state, data, jax.random.key(0))
    np.testing.assert_allclose(metrics["value_loss"], value_loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["critic_loss"], np.mean(td), rtol=1e-5)
    np.testing.assert_allclose(loss, value_loss + np.mean(td), rtol=1e-5)
    np.testing.assert_allclose(metrics["target_mean"], target.mean(), rtol=1e-5)


def test_v_learns_the_expectile_of_the_settings():
    """``V(s)`` is 1 and 4 where the target critics say 2: with 0.7 the errors weigh 0.7 and 0.3."""
    base = make(iql, alpha=2.0, expectile=0.7)
    agent = Known(base.network, base.training, S, A, base.config)
    nothing, states = jnp.zeros(2), jnp.array([[0.0, 1.0, 0.0], [0.0, 4.0, 0.0]])
    data = Batch(states, jnp.zeros((2, H * A)), jnp.ones((2, H)), nothing, nothing, jnp.zeros((2, S)))
    state = AgentState(actor=None, critic={"q": 0.0, "v": 0.0}, target_critic=2.0, anchor=None, optimiser=())
    _, metrics = agent.critic_loss({"q": 0.0, "v": 1.0}, state, data, jax.random.key(0))
    np.testing.assert_allclose(metrics["value_loss"], (0.7 * 1.0 + 0.3 * 4.0) / 2, rtol=1e-6)


def test_the_advantage_is_of_the_online_critics_minimum():
    agent, state = known()
    data = batch()
    s = np.asarray(data.observation)
    total = np.asarray(data.action).sum(axis=1) + 10.0 * s[:, 0]
    expected = 1.0 + np.minimum(0.0, total) - 0.5 * s.sum(axis=1)
    np.testing.assert_allclose(agent.advantage(state, data.observation, data.action), expected, rtol=1e-5, atol=1e-6)


def test_neither_critic_has_a_gradient_in_the_others_loss():
    agent = make(iql, alpha=1.0)
    state, data, key = start(agent), batch(), jax.random.key(1)

    for term, part in (("value_loss", "q"), ("critic_loss", "v")):
        leaves = jax.jit(jax.grad(lambda c, term=term: agent.critic_loss(c, state, data, key)[1][term]))(state.critic)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(leaves[part]))
        assert any(np.any(leaf) for leaf in jax.tree.leaves(leaves))


def test_an_update_moves_both_and_the_target_follows_q_alone():
    agent = make(iql, alpha=1.0)
    before = start(agent)
    assert set(before.critic) == {"q", "v"}
    assert not changed(before.critic["q"], before.target_critic)
    after, _ = jax.jit(agent.update)(before, batch(), jax.random.key(1))
    assert changed(before.critic["q"], after.critic["q"])
    assert changed(before.critic["v"], after.critic["v"])
    polyak = jax.tree.map(lambda new, old: 0.01 * new + 0.99 * old, after.critic["q"], before.target_critic)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after.target_critic, polyak)


def test_v_has_a_layer_norm_after_each_hidden_layer():
    layers = start(make(iql, alpha=1.0)).critic["v"]["params"]
    assert sorted(layers) == ["Dense_0", "Dense_1", "Dense_2", "LayerNorm_0", "LayerNorm_1"]
    assert [layers[f"Dense_{layer}"]["kernel"].shape for layer in range(3)] == [(3, 16), (16, 16), (16, 1)]


def test_the_critics_never_ask_the_policy():
    """Without an actor, and at any key, all four methods have one critic loss."""
    state = start(make(iql, alpha=1.0))._replace(actor=None)

    def loss(module, settings, key):
        agent = make(module, chunk=H, **settings)
        return jax.jit(agent.critic_loss)(state.critic, state, batch(), jax.random.key(key))[0]

    losses = [loss(module, settings, key) for key, (module, settings) in enumerate(AGENTS)]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


@pytest.mark.parametrize(("module", "settings"), AGENTS)
def test_acting_and_learning_ask_the_right_copies(module, settings):
    agent = make(module, **settings)
    state = AgentState(
        actor="live", critic={"q": "online", "v": "value"}, target_critic="target", anchor="average", optimiser=()
    )
    assert agent.acting(state) == (("average", "target") if module is idql else ("live", "online"))
    np.testing.assert_array_equal(agent.aggregate(jnp.array([[1.0, 5.0], [2.0, 3.0]])), [1.0, 3.0])


@pytest.mark.parametrize(("module", "settings"), AGENTS)
def test_an_expectile_lies_between_none_and_all(module, settings):
    for expectile in (0.0, 1.0):
        with pytest.raises(ValueError, match="expectile"):
            make(module, **settings, expectile=expectile)
    assert make(module, **settings).config.expectile == 0.9
