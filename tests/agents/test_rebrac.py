"""ReBRAC: its equations by hand, and the actor that moves at every second update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from support.small_agents import TRAINING, A, B, S, batch, changed, make, start, two_modes
from support.small_offline_agents import D, chunks, close, known, small

from dfp.agents.base.actor_critic import AgentState
from dfp.agents.base.batch import Batch
from dfp.agents.offline import rebrac


def test_rebrac_penalty_by_hand():
    # (0.5 - -0.5)^2 + (0 - 0.2)^2, then the same with the second coordinate left out
    action, other = jnp.array([[0.5, 0.0]] * 2), jnp.array([[-0.5, 0.2]] * 2)
    found = rebrac.distance(action, other, jnp.array([[1.0, 1.0], [1.0, 0.0]]))
    np.testing.assert_allclose(found, [1.04, 1.0], rtol=1e-6)


def test_rebrac_target_action_by_hand():
    # noise 0.2 * [1, 4, -4] is bounded to [0.2, 0.5, -0.5]; 0.9 + 0.2 leaves the range
    found = rebrac.smoothed(jnp.array([[0.9, 0.0, 0.0]]), jnp.array([[1.0, 4.0, -4.0]]), 0.2, 0.5)
    np.testing.assert_allclose(found, [[1.0, 0.5, -0.5]], rtol=1e-6)


def test_rebrac_actions_are_the_tanh_of_the_network():
    agent = make(rebrac, chunk=1, alpha_actor=1.0, alpha_critic=1.0)
    actor = jax.tree.map(lambda leaf: 3.0 * leaf, start(agent).actor)
    observation, noise = batch().observation, jnp.zeros((B, A))
    raw = np.asarray(super(rebrac.Agent, agent).generate(actor, observation, noise), np.float64)
    assert np.abs(raw).max() > 0.3
    np.testing.assert_allclose(agent.generate(actor, observation, noise), np.tanh(raw), rtol=1e-5)


def hand_agent(**settings):
    """``pi = params``; ``Q_1 = c a_1``, ``Q_2 = c a_1 + 1``: the minimum is the first."""
    base = make(rebrac, chunk=1, **{"target_noise": 0.0, **settings})
    return known(
        base,
        generate=lambda self, actor, observation, noise: actor[None] + 0.0 * noise,
        values=lambda self, critic, observation, action: critic * action[None, :, 0] + jnp.array([[0.0], [1.0]]),
    )


def test_rebrac_td_target_by_hand():
    """y = r + gamma mask (min Q' - alpha_2 |a' - a'_data|^2), and no penalty where the episode ends."""
    agent = hand_agent(alpha_actor=0.0, alpha_critic=0.5)
    data = Batch(
        observation=jnp.zeros((3, S)), action=jnp.zeros((3, A)), valid=jnp.ones((3, 1)),
        return_=jnp.array([-1.0, -2.0, -3.0]), discount=jnp.array([0.9, 0.9, 0.0]),
        next_observation=jnp.zeros((3, S)), next_action=jnp.array([[0.0, 0.0], [-0.8, 0.6], [1.0, 1.0]]),
        next_valid=jnp.array([[1.0], [0.0], [1.0]]),
    )  # fmt: skip
    state = start(make(rebrac, chunk=1, alpha_actor=0.0, alpha_critic=0.0))
    state = state._replace(anchor=jnp.array([0.2, 0.6]), target_critic=jnp.asarray(10.0))
    _, metrics = agent.critic_loss(jnp.asarray(0.0), state, data, jax.random.key(0))
    # min Q' = 2. Row 1: |a' - a'_data|^2 = 0.04 + 0.36 = 0.4, so -1 + 0.9 (2 - 0.5 * 0.4) = 0.62.
    # Row 2 ended: -2 + 0.9 * 2 = -0.2. Row 3 succeeded: -3.
    np.testing.assert_allclose(metrics["target_mean"], (0.62 - 0.2 - 3.0) / 3, rtol=1e-5)
    np.testing.assert_allclose(metrics["next_penalty"], (0.4 + 0.0 + 0.64 + 0.16) / 3, rtol=1e-5)


def test_rebrac_target_actions_have_noise_of_that_deviation_within_that_bound():
    agent = hand_agent(alpha_actor=0.0, alpha_critic=0.0, target_noise=0.2, target_noise_clip=0.1)
    data, key = two_modes(64, chunk=1)._replace(return_=jnp.zeros(64), discount=jnp.full(64, 0.9)), jax.random.key(2)
    data = data._replace(next_action=jnp.zeros((64, A)), next_valid=jnp.ones((64, 1)))
    state = start(agent)._replace(anchor=jnp.array([0.95, 0.0]), target_critic=jnp.asarray(10.0))
    _, metrics = agent.critic_loss(jnp.asarray(0.0), state, data, key)
    actions = []
    for first, second in np.asarray(jax.random.normal(key, (64, A))):
        first, second = (min(max(0.2 * number, -0.1), 0.1) for number in (first, second))
        actions.append((min(0.95 + first, 1.0), second))  # the first would leave the range of actions
    actions = np.array(actions)
    assert set(np.round([actions.min(axis=0), actions.max(axis=0)], 6).ravel()) == {0.85, 1.0, -0.1, 0.1}
    np.testing.assert_allclose(metrics["target_mean"], 0.9 * 10.0 * actions[:, 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["next_penalty"], np.mean(actions[:, 0] ** 2 + actions[:, 1] ** 2), rtol=1e-5)


def test_rebrac_losses_by_hand_at_two_states():
    """``pi(s) = p (s_0, s_1)`` and ``Q_e = c (s_0 + a_0) + e``, e = 0 and 1; ``s = (1, 0, 0)``, ``s' = (10, 0, 0)``."""
    base = make(rebrac, chunk=1, alpha_actor=3.0, alpha_critic=0.4, target_noise=0.0)
    agent = known(
        base,
        generate=lambda self, actor, observation, noise: actor * observation[:, :A],
        values=lambda self, critic, observation, action: (
            critic * (observation[None, :, 0] + action[None, :, 0]) + jnp.array([[0.0], [1.0]])
        ),
    )
    data = Batch(
        observation=jnp.array([[1.0, 0.0, 0.0]]), action=jnp.array([[0.2, 0.0]]), valid=jnp.ones((1, 1)),
        return_=jnp.array([-1.0]), discount=jnp.array([0.9]), next_observation=jnp.array([[10.0, 0.0, 0.0]]),
        next_action=jnp.zeros((1, A)), next_valid=jnp.ones((1, 1)),
    )  # fmt: skip
    state = AgentState(actor=-0.7, critic=-2.0, target_critic=2.0, anchor=0.05, optimiser=())

    # a' = 0.5 and min Q' = 2 * 10.5 = 21, so y = -1 + 0.9 (21 - 0.4 * 0.5^2) = 17.81; Q is 3 * 1.2 = 3.6 and 4.6.
    loss, metrics = agent.critic_loss(3.0, state, data, jax.random.key(0))
    np.testing.assert_allclose(metrics["target_mean"], 17.81, rtol=1e-5)
    np.testing.assert_allclose(loss, (14.21**2 + 13.21**2) / 2, rtol=1e-5)

    # pi(s) = 0.3 and min Q = -2 * 1.3 = -2.6, so -Q / |Q| = 1; the penalty is 0.1^2.
    (loss, metrics), slope = jax.value_and_grad(
        lambda p: agent.actor_loss(p, state, data, jax.random.key(0)), has_aux=True
    )(0.3)
    np.testing.assert_allclose(metrics["actor_q_mean"], -2.6, rtol=1e-5)
    np.testing.assert_allclose(loss, 1.0 + 3.0 * 0.01, rtol=1e-5)
    np.testing.assert_allclose(slope, 2.0 / 2.6 + 3.0 * 2.0 * 0.1, rtol=1e-5)


def test_rebrac_actor_loss_by_hand():
    agent = hand_agent(alpha_actor=3.0, alpha_critic=0.0)
    data = Batch(
        observation=jnp.zeros((2, S)), action=jnp.array([[0.5, 0.5], [0.0, 0.1]]), valid=jnp.ones((2, 1)),
        return_=jnp.zeros(2), discount=jnp.zeros(2), next_observation=jnp.zeros((2, S)),
    )  # fmt: skip
    state = start(make(rebrac, chunk=1, alpha_actor=0.0, alpha_critic=0.0))._replace(critic=jnp.asarray(-2.0))
    actor = jnp.array([0.5, 0.1])
    loss, slope = jax.value_and_grad(lambda actor: agent.actor_loss(actor, state, data, jax.random.key(0))[0])(actor)
    # Q = -1 in both rows, so -Q / mean |Q| = 1; penalties 0.16 and 0.25.
    np.testing.assert_allclose(loss, 1.0 + 3.0 * (0.16 + 0.25) / 2, rtol=1e-5)
    # The size of Q is a constant: d(-Q)/da_1 = 2 / 1; the penalty's slope is 3 * mean(2 (pi - a)).
    np.testing.assert_allclose(slope, [2.0 + 3.0 * (0.0 + 1.0) / 2, 3.0 * (-0.8 + 0.0) / 2], atol=1e-5)


def test_rebrac_acts_without_noise_inside_the_range_and_starts_near_its_middle():
    agent = small(rebrac)
    state, observation = start(agent), batch().observation
    first = agent.sample_actions(state, observation, jax.random.split(jax.random.key(1), B))
    second = agent.sample_actions(state, observation, jax.random.split(jax.random.key(2), B))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first).max() < 0.3
    far = agent.generate(jax.tree.map(lambda leaf: 50.0 * leaf, state.actor), observation, jnp.zeros((B, D)))
    assert 0.9 < np.abs(far).max() <= 1.0


def test_rebrac_penalty_counts_no_step_after_an_episodes_end():
    agent = hand_agent(alpha_actor=3.0, alpha_critic=0.0)
    data = Batch(
        observation=jnp.zeros((2, S)), action=jnp.array([[0.5, 0.5], [-0.5, 0.1]]), valid=jnp.array([[1.0], [0.0]]),
        return_=jnp.zeros(2), discount=jnp.zeros(2), next_observation=jnp.zeros((2, S)),
    )  # fmt: skip
    state = start(make(rebrac, chunk=1, alpha_actor=0.0, alpha_critic=0.0))._replace(critic=jnp.asarray(-2.0))
    loss, metrics = agent.actor_loss(jnp.array([0.5, 0.1]), state, data, jax.random.key(0))
    # The second row would have 1. Q is -1 in both rows: its term is 1.
    np.testing.assert_allclose(metrics["bc_loss"], 0.16 / 2, rtol=1e-5)
    np.testing.assert_allclose(loss, 1.0 + 3.0 * 0.16 / 2, rtol=1e-5)


def test_the_last_layer_of_rebracs_actor_begins_a_tenth_as_large_as_glorots():
    """16 x 4 numbers within ``0.1 sqrt(6 / (16 + 4))``; the layer before it keeps ``sqrt(6 / (16 + 16))``."""
    params = start(small(rebrac)).actor["params"]
    assert params["Dense_2"]["kernel"].shape == (16, D)
    bounds = {"Dense_1": np.sqrt(6 / 32), "Dense_2": 0.1 * np.sqrt(6 / 20)}
    for name, bound in bounds.items():
        assert 0.9 * bound < np.max(np.abs(params[name]["kernel"])) <= bound


def adam(state, part: str):
    return state.optimiser.inner_states[part]


def test_rebrac_actor_and_targets_move_at_every_second_update():
    agent = small(rebrac)
    update, state = jax.jit(agent.update), start(agent)
    jax.tree.map(np.testing.assert_array_equal, state.anchor, state.actor)
    for number in range(1, 6):
        after, _ = update(state, chunks(), jax.random.key(number))
        moves = number % 2 == 0
        assert changed(state.critic, after.critic)
        assert changed(adam(state, "critic"), adam(after, "critic"))
        assert changed(state.actor, after.actor) == moves
        assert changed(adam(state, "actor"), adam(after, "actor")) == moves
        assert changed(state.anchor, after.anchor) == moves
        assert changed(state.target_critic, after.target_critic) == moves
        assert optax.tree.get(adam(after, "actor"), "count") == number // 2
        state = after


def test_rebrac_is_two_optimisers_of_which_one_is_called_at_every_second_step():
    """The same as the loop that one would write with the delay outside."""
    agent = small(rebrac)
    update, state = jax.jit(agent.update), start(agent)
    plain = optax.adam(TRAINING.learning_rate)
    actor, critic, anchor, target = state.actor, state.critic, state.anchor, state.target_critic
    actor_adam, critic_adam = plain.init(actor), plain.init(critic)

    @jax.jit
    def gradients(state, key):
        keys, data = jax.random.split(key), chunks()
        of_critic = jax.grad(lambda critic: agent.critic_loss(critic, state, data, keys[0])[0])(state.critic)
        return of_critic, jax.grad(lambda actor: agent.actor_loss(actor, state, data, keys[1])[0])(state.actor)

    for number in range(1, 5):
        key = jax.random.key(number)
        now = state._replace(actor=actor, critic=critic, anchor=anchor, target_critic=target)
        of_critic, of_actor = gradients(now, key)
        changes, critic_adam = plain.update(of_critic, critic_adam)
        critic = optax.apply_updates(critic, changes)
        if number % 2 == 0:
            changes, actor_adam = plain.update(of_actor, actor_adam)
            actor = optax.apply_updates(actor, changes)
            anchor = optax.incremental_update(actor, anchor, 0.01)
            target = optax.incremental_update(critic, target, 0.01)
        state, _ = update(state, chunks(), key)
    found = (state.actor, state.critic, state.anchor, state.target_critic)
    jax.tree.map(close, found, (actor, critic, anchor, target))
