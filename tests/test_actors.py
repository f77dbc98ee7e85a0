"""ReBRAC, CAC, FAWAC, FBRAC: equations by hand, who is trained when and by what, and what an update costs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from small_agents import NETWORK, TRAINING, A, B, H, S, bandit, batch, changed, make, start, two_modes
from test_flow import matrix_flop
from test_replay import GAMMA, dataset
from typer.testing import CliRunner

import dfp
from dfp import consistency
from dfp.__main__ import app
from dfp.agents.actor_critic import per_step
from dfp.agents.implicit_q import advantage_weights
from dfp.agents.offline import cac, fawac, fbrac, rebrac
from dfp.catalogue import CATALOGUE
from dfp.flow import draw_start, integrate
from dfp.replay import Batch, chunks_at, live_rows, sample_chunks, with_next_action
from dfp.ring import make_buffer

D = H * A
AGENTS = [
    (rebrac, {"alpha_actor": 0.1, "alpha_critic": 0.01}),
    (cac, {"eta": 0.3, "levels": 10}),
    (fawac, {"inverse_temperature": 1.0}),
    (fbrac, {"alpha": 3.0}),
]
SETTINGS = dict(AGENTS)


def chunks() -> Batch:
    """A batch with the next chunk of the data; the episode of the last row ends with its chunk."""
    following = jax.random.uniform(jax.random.key(9), (B, D), minval=-1.0)
    return batch()._replace(next_action=following, next_valid=jnp.ones((B, H)).at[-1].set(0.0))


def small(module, **settings):
    return make(module, chunk=H, **{**SETTINGS[module], **settings})


def known(base, **methods):
    """The agent with known functions in place of some of its own."""
    kind = type("Known", (type(base),), methods)
    return kind(base.network, base.training, base.observation_size, base.action_size, base.config)


def close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


# --------------------------------------------------------------------------- the data's next action


@pytest.mark.parametrize(
    ("chunk", "first", "actions", "valid"),
    [
        (1, 0, [0.1], [1]),
        (1, 2, [1.0], [0]),  # the first episode ends with row 2
        (1, 4, [0.0], [0]),  # so does the second, with the newest row
        (2, 0, [0.2, 1.0], [1, 0]),  # rows 2, 3: the episode ends in between
        (2, 1, [1.0, 0.9], [0, 0]),  # it ends with the chunk before
    ],
)
def test_next_actions_by_hand(chunk, first, actions, valid):
    buffer, at = make_buffer(dataset(), 5), jnp.array([first])
    batch = with_next_action(chunks_at(buffer, at, chunk, GAMMA), buffer, live_rows(5, 5), at + chunk, chunk)
    np.testing.assert_allclose(batch.next_action[0], actions)
    np.testing.assert_array_equal(batch.next_valid[0], valid)


def test_nothing_is_known_to_follow_the_newest_row():
    buffer = make_buffer(dataset(), 5)._replace(final=jnp.full(5, -1, jnp.int32))
    at = jnp.array([2, 3])
    batch = with_next_action(chunks_at(buffer, at, 1, GAMMA), buffer, live_rows(4, 4), at + 1, 1)
    np.testing.assert_array_equal(batch.next_valid, [[1], [0]])


def test_the_next_action_comes_with_the_same_rows_and_only_where_asked_for():
    buffer, live, key = make_buffer(dataset(), 5), live_rows(5, 5), jax.random.key(0)
    without = sample_chunks(buffer, live, key, 64, 1, GAMMA)
    asked = sample_chunks(buffer, live, key, 64, 1, GAMMA, next_action=True)
    assert without.next_action is None
    assert without.next_valid is None
    jax.tree.map(np.testing.assert_array_equal, without, asked._replace(next_action=None, next_valid=None))
    assert [module for module in SETTINGS if small(module).reads_next_action] == [rebrac]


# --------------------------------------------------------------------------- all four


@pytest.mark.parametrize("module", [cac, fawac, fbrac])
def test_an_update_moves_what_it_should(module):
    agent = small(module)
    before = start(agent)
    after, metrics = jax.jit(agent.update)(before, chunks(), jax.random.key(1))
    assert changed(before.actor, after.actor)
    assert changed(before.critic, after.critic)
    assert all(np.isfinite(value) for value in metrics.values())
    polyak = jax.tree.map(lambda new, old: 0.01 * new + 0.99 * old, after.critic, before.target_critic)
    jax.tree.map(close, after.target_critic, polyak)
    if module is cac:  # the teacher started as the actor
        jax.tree.map(close, after.anchor, jax.tree.map(lambda a, b: 1e-3 * a + 0.999 * b, after.actor, before.actor))
    else:
        assert after.anchor is None


@pytest.mark.parametrize(
    ("module", "missing"), [(rebrac, "alpha_actor"), (cac, "eta"), (fawac, "inverse_temperature"), (fbrac, "alpha")]
)
def test_what_is_tuned_for_every_task_has_no_default(module, missing):
    with pytest.raises(ValueError, match=missing):
        module.Config()
    config = small(module).config
    assert config.offline_phase() == config


# --------------------------------------------------------------------------- ReBRAC


def test_rebrac_penalty_by_hand():
    # (0.5 - -0.5)^2 + (0 - 0.2)^2, then the same with the second coordinate left out
    action, other = jnp.array([[0.5, 0.0]] * 2), jnp.array([[-0.5, 0.2]] * 2)
    found = rebrac.distance(action, other, jnp.array([[1.0, 1.0], [1.0, 0.0]]))
    np.testing.assert_allclose(found, [1.04, 1.0], rtol=1e-6)


def test_rebrac_target_action_by_hand():
    # noise 0.2 * [1, 4, -4] is bounded to [0.2, 0.5, -0.5]; 0.9 + 0.2 leaves the range
    found = rebrac.smoothed(jnp.array([[0.9, 0.0, 0.0]]), jnp.array([[1.0, 4.0, -4.0]]), 0.2, 0.5)
    np.testing.assert_allclose(found, [[1.0, 0.5, -0.5]], rtol=1e-6)


def hand_agent(**settings):
    """``pi = params``; ``Q_1 = c a_1``, ``Q_2 = c a_1 + 1``: the minimum is the first."""
    base = make(rebrac, chunk=1, target_noise=0.0, **settings)
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


# --------------------------------------------------------------------------- CAC


def test_cac_generates_in_two_passes_from_noise_of_its_own():
    agent = small(cac)
    actor, observation = start(agent).actor, batch().observation
    assert agent.noise_size == 2 * D
    noise = jax.random.normal(jax.random.key(1), (B, 2 * D))
    f = agent.function.at(actor, observation)
    first = f(80.0 * noise[:, :D], jnp.full((B, 1), 80.0))
    second = f(first + np.sqrt(4.0 - 0.002**2) * noise[:, D:], jnp.full((B, 1), 2.0))
    np.testing.assert_allclose(agent.generate(actor, observation, noise), second, rtol=1e-4, atol=1e-5)


def test_cac_draws_its_samples_by_softmax_q_of_the_target_critics():
    """Two possible actions whose values differ by log 3: the better one is drawn three times as often."""
    base = make(cac, chunk=1, eta=0.0, samples=2)
    agent = known(
        base,
        generate=lambda self, actor, observation, noise: jnp.where(noise[..., :A] > 0, 0.5, -0.5) + 0.0 * actor,
        values=lambda self, critic, observation, action: critic * action[None, :, 0] + jnp.array([[0.0], [7.0]]),
    )
    rows = 4000
    state = start(base)._replace(actor=jnp.zeros(()), critic=jnp.asarray(-9.0), target_critic=jnp.log(3.0))
    drawn = agent.sample_actions(state, jnp.zeros((rows, S)), jax.random.split(jax.random.key(0), rows))
    # Of two samples: both better 1/4, both worse 1/4, one of each 1/2, of which the better is drawn at 3/4.
    assert (np.asarray(drawn)[:, 0] > 0).mean() == pytest.approx(0.25 + 0.5 * 0.75, abs=0.025)


def test_cac_td_target_is_the_smaller_critic_s_best_of_the_teachers_samples():
    base = make(cac, chunk=1, eta=0.0, backup_samples=3)
    agent = known(
        base,
        generate=lambda self, actor, observation, noise: actor * noise[..., :A],
        values=lambda self, critic, observation, action: jnp.stack([critic * action[..., 0], -critic * action[..., 0]]),
    )
    data = two_modes(chunk=1)._replace(discount=jnp.full(64, 0.9), return_=jnp.zeros(64))
    state = start(base)._replace(anchor=jnp.asarray(0.1), target_critic=jnp.asarray(2.0))
    key = jax.random.key(3)
    noise = np.asarray(jax.random.normal(key, (64 * 3, 2 * A)))[:, 0].reshape(64, 3)
    q = 2.0 * np.clip(0.1 * noise, -1.0, 1.0)
    expected = 0.9 * np.minimum(q.max(axis=1), (-q).max(axis=1)).mean()
    np.testing.assert_allclose(
        agent.critic_loss(jnp.asarray(0.0), state, data, key)[1]["target_mean"], expected, rtol=1e-4
    )


def test_cac_student_learns_from_the_teacher_and_from_q():
    state, data, key = start(small(cac)), chunks(), jax.random.key(1)
    state = state._replace(anchor=jax.tree.map(lambda leaf: 0.9 * leaf, state.anchor))
    levels_key, noise_key, action_key = jax.random.split(key, 3)
    for eta in (0.0, 2.0):
        agent = small(cac, eta=eta)

        def by_definition(actor, agent=agent, eta=eta):
            sigma, above = consistency.draw_levels(levels_key, consistency.karras_levels(10), B)
            noise = jax.random.normal(noise_key, (B, D))
            target = agent.function.at(state.anchor, data.observation)(data.action + sigma * noise, sigma)
            found = agent.function.at(actor, data.observation)(data.action + above * noise, above)
            cloning = jnp.mean(100.0 / (above - sigma) * per_step(data.valid, A) * (found - target) ** 2)
            own = agent.generate(actor, data.observation, jax.random.normal(action_key, (B, 2 * D)))
            q = agent.values(state.critic, data.observation, jnp.clip(own, -1.0, 1.0))
            return cloning - eta * jnp.mean(q) / jax.lax.stop_gradient(jnp.mean(jnp.abs(q)))

        expected = jax.jit(jax.grad(by_definition))(state.actor)
        found = jax.jit(jax.grad(lambda actor, agent=agent: agent.actor_loss(actor, state, data, key)[0]))(state.actor)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, expected)


# --------------------------------------------------------------------------- FAWAC


def test_fawac_weights_by_hand_and_at_the_clip():
    """``Q = c (a_1 + 1)`` and the policy's own action is -1: ``V = 0``."""
    base = make(fawac, chunk=1, inverse_temperature=2.0)
    agent = known(
        base,
        generate=lambda self, actor, observation, noise: -1.0 + 0.0 * noise,
        values=lambda self, critic, observation, action: (
            critic * (action[None, :, 0] + 1.0) + jnp.array([[0.1], [-0.1]])
        ),
    )
    data = two_modes(size=4, chunk=1, action_size=A)._replace(
        action=jnp.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.5, 0.0]])
    )
    state = start(base)._replace(critic=jnp.asarray(1.5))
    advantage = agent.advantage(state, data, jax.random.key(0))
    np.testing.assert_allclose(advantage, [0.0, 1.5, 3.0, 2.25], atol=1e-6)
    weights = [1.0, np.exp(3.0), 100.0, np.exp(4.5)]  # exp(6) is 403
    np.testing.assert_allclose(advantage_weights(advantage, 2.0), weights, rtol=1e-5)
    _, metrics = agent.actor_loss(state.actor, state, data, jax.random.key(1))
    np.testing.assert_allclose(metrics["weight_mean"], np.mean(weights), rtol=1e-5)
    assert metrics["clipped_share"] == 0.25


def test_fawac_loss_is_flow_matching_with_those_weights():
    agent = small(fawac, inverse_temperature=3.0)
    state, data, key = start(agent), chunks(), jax.random.key(1)
    flow_key, value_key = jax.random.split(key)
    noise, t = draw_start(flow_key, data.action)
    velocity = agent.flow.at(state.actor, data.observation)
    error = velocity((1 - t) * noise + t * data.action, t) - (data.action - noise)
    weights = jnp.minimum(jnp.exp(3.0 * agent.advantage(state, data, value_key)), 100.0)
    expected = jnp.mean(weights[:, None] * per_step(data.valid, A) * error**2)
    np.testing.assert_allclose(agent.actor_loss(state.actor, state, data, key)[0], expected, rtol=1e-4)
    assert weights.std() > 0.1


# --------------------------------------------------------------------------- FBRAC


class LinearField:
    """``v = c x``, with ``c`` in place of parameters."""

    def at(self, params, observation):
        return lambda x, t: params * x


def test_fbrac_gradient_goes_through_all_euler_steps():
    """``v = c x`` and ``Q = a_1 + a_2``: Q sums ``z (1 + c / 10)^10``; its slope by hand and by differences."""
    base = make(fbrac, chunk=1, alpha=0.0)
    agent = known(
        base,
        flow=property(lambda self: LinearField()),
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
        loss, metrics = agent.actor_loss(state.actor, state, data, key)
        close(loss, alpha * metrics["bc_loss"] - metrics["actor_q_mean"])
        losses.append(loss)
    assert losses[1] > losses[0] + 1.0
    # The Q is that of where ten Euler steps end, clipped.
    z = jax.random.normal(jax.random.split(key)[1], data.action.shape)
    actions = jnp.clip(integrate(agent.flow.at(state.actor, data.observation), z, 10), -1.0, 1.0)
    close(metrics["actor_q_mean"], jnp.mean(agent.values(state.critic, data.observation, actions)))


# --------------------------------------------------------------------------- two modes


def trained(module, action_size: int, steps: int = 600, **settings) -> np.ndarray:
    """400 samples of the policy, their mean coordinate, after ``steps`` updates on one state with two actions."""
    agent = dataclasses.replace(
        make(module, chunk=1, **settings),
        action_size=action_size,
        training=TRAINING.model_copy(update={"batch_size": 64, "learning_rate": 3e-3}),
        network=NETWORK.model_copy(update={"width": 32}),
    )
    data = two_modes(chunk=1, action_size=action_size)
    # At a state of zeros a layer-normalised critic cannot tell a small action from a large one.
    ones = jnp.ones((64, S))
    data = data._replace(
        observation=ones, next_observation=ones, next_action=data.action, next_valid=jnp.zeros((64, 1))
    )
    final = bandit(agent, data, steps)
    noise = jax.random.normal(jax.random.key(5), (400, agent.noise_size))
    return np.asarray(agent.generate(final.actor, jnp.ones((400, S)), noise)).mean(axis=1)


def keeps_both(actions: np.ndarray) -> bool:
    lower, upper = np.percentile(actions, [25, 75])
    return bool(0.3 < (actions > 0).mean() < 0.7 and abs(lower + 0.6) < 0.3 and abs(upper - 0.6) < 0.3)


CAC = {"levels": 20, "teacher_rate": 0.02}


@pytest.mark.slow
@pytest.mark.parametrize("action_size", [1, 2])
@pytest.mark.parametrize(
    ("module", "settings"),
    [(fawac, {"inverse_temperature": 0.0}), (fbrac, {"alpha": 100.0}), (cac, {"eta": 0.0, "steps": 2000, **CAC})],
)
def test_bandit_cloning_keeps_both_modes(module, settings, action_size):
    actions = trained(module, action_size, **settings)
    assert keeps_both(actions), np.percentile(actions, [5, 25, 50, 75, 95])


@pytest.mark.slow
@pytest.mark.parametrize("action_size", [1, 2])
@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (rebrac, {"alpha_actor": 1.0, "alpha_critic": 0.0}),
        (fawac, {"inverse_temperature": 10.0}),
        (fbrac, {"alpha": 0.3}),
        (cac, {"eta": 30.0, **CAC}),
    ],
)
def test_bandit_the_critic_moves_the_policy_to_the_better_mode(module, settings, action_size):
    actions = trained(module, action_size, **settings)
    assert (actions > 0.1).mean() > 0.9, np.percentile(actions, [5, 25, 50, 75, 95])


# --------------------------------------------------------------------------- work


@pytest.mark.parametrize("module", SETTINGS)
def test_update_work_is_what_an_update_multiplies(module):
    agent = small(module)
    state, data = start(agent), chunks()

    def loss(params, key):
        critic_loss = agent.critic_loss(params["critic"], state, data, key)[0]
        return critic_loss + agent.actor_loss(params["actor"], state, data, key)[0]

    params = {"actor": state.actor, "critic": state.critic}
    counted = matrix_flop(jax.make_jaxpr(jax.grad(loss))(params, jax.random.key(1)))
    # Autodiff also makes gradients that nothing reads: of the state, which the critics and the passes of an actor
    # take beside the action, of time or noise level, and, in a loop, of the noise that the first pass starts from.
    row = 2.0 * NETWORK.width
    unread = {rebrac: 2 * S, cac: 2 * S + S + 1, fawac: 0, fbrac: 2 * S + 10 * (S + 1) + D}[module] * row
    assert agent.update_work() == pytest.approx(counted - B * unread)


# --------------------------------------------------------------------------- in the real simulator

SMOKE = ["--config", str(CATALOGUE / "smoke.yaml")]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two recorded episodes of cube-single."""
    folder = str(tmp_path_factory.mktemp("data"))
    result = CliRunner().invoke(app, ["data", "cube-single-task2", *SMOKE, "--data-dir", folder])
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rebrac", "cac", "fawac", "fbrac"])
def test_a_run_from_data_to_policy(method, recorded, tmp_path):
    cell = ["--task", "cube-single-task2", "--method", method, "--seed", "0", *SMOKE]
    folders = ["--run-dir", str(tmp_path), "--data-dir", recorded]
    result = CliRunner().invoke(app, ["offline", *cell, *folders])
    assert result.exit_code == 0, result.output
    last = pd.read_csv(tmp_path / "metrics.csv").iloc[-1]
    assert (last["phase"], last["step"], last["episodes"]) == ("offline", 100, 1)
    chunk = dfp.load_policy(tmp_path)(np.zeros(28, np.float32), seed=0)
    assert chunk.shape == (1, 5)
    assert np.all(np.abs(chunk) <= 1.0)
