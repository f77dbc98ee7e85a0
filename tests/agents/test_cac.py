"""CAC: samples of a consistency policy, drawn and learnt by Q, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_agents import A, B, S, batch, make, start, two_modes
from support.small_offline_agents import D, chunks, known, small

from dfp.agents.base.actor_critic import AgentState, per_step
from dfp.agents.models import consistency
from dfp.agents.offline import cac


def test_cac_generates_in_two_passes_from_noise_of_its_own():
    agent = small(cac)
    actor, observation = start(agent).actor, batch().observation
    assert agent.noise_size == 2 * D
    noise = jax.random.normal(jax.random.key(1), (B, 2 * D))
    f = agent.function(actor, observation)
    first = f(80.0 * noise[:, :D], jnp.full((B, 1), 80.0))
    second = f(first + np.sqrt(4.0 - 0.002**2) * noise[:, D:], jnp.full((B, 1), 2.0))
    np.testing.assert_allclose(agent.generate(actor, observation, noise), second, rtol=1e-4, atol=1e-5)


def test_cac_has_as_many_passes_as_the_setting_says():
    """Three, at levels 80, 41 and 2. With ``f = x + sigma`` and no noise a sample is their sum."""
    agent = known(small(cac, sampling_steps=3), function=lambda self, actor, observation: lambda x, sigma: x + sigma)
    assert agent.noise_size == 3 * D
    np.testing.assert_allclose(agent.generate(None, jnp.zeros((1, S)), jnp.zeros((1, 3 * D))), np.full((1, D), 123.0))


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
    """``pi(s, z) = p z_1 + s_0``, ``Q_1 = c (s_0 + a_0)``, ``Q_2 = -c a_0``; the next state of row b is b / 10."""
    base = make(cac, chunk=1, eta=0.0, backup_samples=3)
    agent = known(
        base,
        generate=lambda self, actor, observation, noise: actor * noise[..., :A] + observation[..., :1],
        values=lambda self, critic, observation, action: jnp.stack(
            [critic * (observation[..., 0] + action[..., 0]), -critic * action[..., 0]]
        ),
    )
    data = two_modes(B, chunk=1)._replace(  # actions 0.6 and -0.6, which pay 1 and 0, in turn
        observation=jnp.full((B, S), -1.0),
        next_observation=jnp.tile(jnp.arange(B)[:, None] / 10.0, (1, S)),
        discount=jnp.full(B, 0.9),
    )
    state = AgentState(actor=0.1, critic=-9.0, target_critic=2.0, anchor=2.0, optimiser=())
    key = jax.random.key(3)
    noise = np.asarray(jax.random.normal(key, (B * 3, 2 * A)))[:, 0]
    targets, errors = [], []
    for b in range(B):
        drawn = [min(max(2.0 * noise[3 * b + i] + b / 10, -1.0), 1.0) for i in range(3)]
        best = max(2.0 * (b / 10 + a) for a in drawn), max(-2.0 * a for a in drawn)
        reward, action = (1.0, 0.6) if b % 2 == 0 else (0.0, -0.6)
        targets.append(reward + 0.9 * min(best))
        errors += [3.0 * (-1.0 + action) - targets[b], -3.0 * action - targets[b]]  # of critics with c = 3, at s
    loss, metrics = agent.critic_loss(3.0, state, data, key)
    np.testing.assert_allclose(metrics["target_mean"], np.mean(targets), rtol=1e-4)
    np.testing.assert_allclose(loss, np.mean(np.square(errors)), rtol=1e-4)


def test_cac_student_learns_from_the_teacher_and_from_q():
    state, data, key = start(small(cac)), chunks(), jax.random.key(1)
    state = state._replace(
        anchor=jax.tree.map(lambda leaf: 0.9 * leaf, state.anchor),
        target_critic=jax.tree.map(jnp.negative, state.target_critic),
    )
    levels_key, noise_key, action_key = jax.random.split(key, 3)
    for eta in (0.0, 2.0):
        agent = small(cac, eta=eta)

        def by_definition(actor, agent=agent, eta=eta):
            sigma, above = consistency.draw_levels(levels_key, consistency.karras_levels(10), B)
            noise = jax.random.normal(noise_key, (B, D))
            target = agent.function(state.anchor, data.observation)(data.action + sigma * noise, sigma)
            found = agent.function(actor, data.observation)(data.action + above * noise, above)
            cloning = jnp.mean(100.0 / (above - sigma) * per_step(data.valid, A) * (found - target) ** 2)
            own = agent.generate(actor, data.observation, jax.random.normal(action_key, (B, 2 * D)))
            q = agent.values(state.critic, data.observation, jnp.clip(own, -1.0, 1.0))
            return cloning - eta * jnp.mean(q) / jax.lax.stop_gradient(jnp.mean(jnp.abs(q)))

        expected = jax.jit(jax.grad(by_definition))(state.actor)
        found = jax.jit(jax.grad(lambda actor, agent=agent: agent.actor_loss(actor, state, data, key)[0]))(state.actor)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, expected)


def test_cac_climbs_the_value_of_the_action_that_is_executed():
    """``pi = p`` and ``Q = 3 a_1``. At p = 2 the action is 1 and Q is 3, with no slope."""
    agent = known(
        make(cac, chunk=1, eta=1.0),
        function=lambda self, actor, observation: lambda x, sigma: 0.0 * x,
        generate=lambda self, actor, observation, noise: actor + jnp.zeros((len(observation), A)),
        values=lambda self, critic, observation, action: critic * action[None, :, 0],
    )
    state = AgentState(actor=2.0, critic=3.0, target_critic=-5.0, anchor=2.0, optimiser=())
    (loss, metrics), slope = jax.value_and_grad(
        lambda p: agent.actor_loss(p, state, two_modes(4, chunk=1), jax.random.key(0)), has_aux=True
    )(2.0)
    np.testing.assert_allclose((metrics["actor_q_mean"], loss, slope), (3.0, -1.0, 0.0))


def test_cac_has_the_releases_samples_and_a_teacher_at_its_own_rate():
    agent = make(cac, eta=1.0, teacher_rate=0.25)
    assert agent.config.samples == 50
    assert agent.anchor_rate == 0.25
