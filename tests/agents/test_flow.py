"""Flow matching, BFN and FQL: equations by hand, who is trained by what, and what an update costs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_agents import NETWORK, TRAINING, A, B, H, S, bandit, batch, changed, make, start, two_modes
from support.small_offline_agents import known

from dfp.agents import bfn, fql
from dfp.agents.base.actor_critic import td_target
from dfp.agents.models import flow

D = H * A
AGENTS = [(bfn, {}), (fql, {"alpha": 3.0})]


def close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


# --------------------------------------------------------------------------- flow matching


def test_a_line_runs_from_noise_to_data():
    noise, action = jnp.array([[4.0, -2.0]]), jnp.array([[1.0, 0.0]])
    np.testing.assert_array_equal(flow.interpolate(noise, action, jnp.zeros((1, 1))), noise)
    np.testing.assert_array_equal(flow.interpolate(noise, action, jnp.ones((1, 1))), action)
    np.testing.assert_allclose(flow.interpolate(noise, action, jnp.full((1, 1), 0.25)), [[3.25, -1.5]])


def test_flow_matching_loss_by_hand():
    # x_t = 0.75 * 4 + 0.25 * 1 = 3.25 and 0.5 * (-2) + 0.5 * 0 = -1; targets 1 - 4 = -3 and 0 + 2 = 2.
    # v = x + t gives 3.5 and -0.5: errors 6.5 and -2.5, the second with weight 0.5: (42.25 + 0.5 * 6.25) / 2
    noise, action, t = jnp.array([[4.0], [-2.0]]), jnp.array([[1.0], [0.0]]), jnp.array([[0.25], [0.5]])
    loss = flow.flow_matching_loss(lambda x, t: x + t, action, noise, t, jnp.array([[1.0], [0.5]]))
    np.testing.assert_allclose(loss, 22.6875)


def test_flow_matching_loss_is_zero_for_the_true_field():
    action = jnp.array([[0.5, -0.25], [0.5, -0.25]])  # one action: every line ends in it
    noise, t = flow.draw_start(jax.random.key(0), action)
    ones = jnp.ones((2, 2))
    constant = flow.flow_matching_loss(lambda x, t: action - noise, action, noise, t, ones)
    assert constant == 0.0
    towards_it = flow.flow_matching_loss(lambda x, t: (action - x) / (1.0 - t), action, noise, t, ones)
    np.testing.assert_allclose(towards_it, 0.0, atol=1e-10)


def test_starts_are_normal_and_times_uniform():
    noise, t = flow.draw_start(jax.random.key(0), jnp.zeros((4000, 2)))
    assert (noise.shape, t.shape) == ((4000, 2), (4000, 1))
    assert (noise.mean(), noise.std()) == (pytest.approx(0.0, abs=0.05), pytest.approx(1.0, abs=0.05))
    assert np.all((t >= 0.0) & (t < 1.0))
    np.testing.assert_allclose(np.quantile(t, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.03)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_euler_on_a_linear_field(steps):
    """``x' = c x`` grows by ``(1 + c / n)^n`` in n Euler steps."""
    noise = jnp.array([[1.0, -3.0], [0.5, 2.0]])
    np.testing.assert_allclose(
        flow.integrate(lambda x, t: 0.7 * x, noise, steps), noise * (1.0 + 0.7 / steps) ** steps, rtol=1e-5
    )


def test_euler_feeds_the_time_at_the_start_of_each_step():
    # x' = t in four steps: (0 + 0.25 + 0.5 + 0.75) / 4
    end = flow.integrate(lambda x, t: jnp.broadcast_to(t, x.shape), jnp.zeros((3, 2)), 4)
    np.testing.assert_allclose(end, np.full((3, 2), 0.375), rtol=1e-6)


def test_euler_is_not_clipped_and_can_be_differentiated():
    noise = jnp.array([[2.0]])
    end, slope = jax.value_and_grad(lambda c: flow.integrate(lambda x, t: c * x, noise, 2)[0, 0])(1.0)
    np.testing.assert_allclose(end, 2.0 * 1.5**2)
    np.testing.assert_allclose(slope, 2.0 * 2 * 1.5 / 2)


def test_the_field_sees_state_point_and_time():
    agent = make(bfn)
    params = agent.init_actor(jax.random.key(0))
    observation, x, t = jnp.ones((1, S)), 2.0 * jnp.ones((1, D)), jnp.full((1, 1), 0.5)
    expected = agent.velocity_network.body.apply(params, jnp.concatenate([observation, x, t], axis=1))
    np.testing.assert_array_equal(agent.velocity(params, observation)(x, t), expected)


# --------------------------------------------------------------------------- both methods


@pytest.mark.parametrize(("module", "settings"), AGENTS)
def test_an_update_moves_what_it_should(module, settings):
    agent = make(module, **settings)
    before = start(agent)
    assert before.anchor is None
    after, metrics = jax.jit(agent.update)(before, batch(), jax.random.key(1))
    parts = before.actor.keys() if module is fql else ["params"]
    assert all(changed(before.actor[part], after.actor[part]) for part in parts)
    assert changed(before.critic, after.critic)
    assert after.anchor is None
    assert all(np.isfinite(value) for value in metrics.values())
    polyak = jax.tree.map(lambda new, old: 0.01 * new + 0.99 * old, after.critic, before.target_critic)
    jax.tree.map(close, after.target_critic, polyak)


@pytest.mark.parametrize(("module", "settings"), AGENTS)
def test_an_update_gives_the_critic_the_gradient_of_its_own_loss_alone(module, settings):
    agent = make(module, **settings)
    state, data, key = start(agent), batch(), jax.random.key(1)
    after, _ = jax.jit(agent.update)(state, data, key)
    critic_key, _ = jax.random.split(key)
    alone = jax.jit(jax.grad(lambda critic: agent.critic_loss(critic, state, data, critic_key)[0]))(state.critic)
    # Adam's first moment after one update is a tenth of the gradient.
    jax.tree.map(close, after.optimiser[0].mu["critic"], jax.tree.map(lambda leaf: 0.1 * leaf, alone))


@pytest.mark.parametrize(("module", "settings"), AGENTS)
def test_both_phases_have_one_loss_and_no_top_k(module, settings):
    config = make(module, **settings).config
    assert config.offline_phase() == config
    assert "top_k" not in module.Config.model_fields
    with pytest.raises(ValueError, match="top_k"):
        make(module, **settings, top_k=None)


@pytest.mark.parametrize(("module", "settings"), AGENTS)
def test_steps_after_an_episodes_end_do_not_count_in_the_cloning(module, settings):
    agent = make(module, **settings)
    state, data, key = start(agent), batch(), jax.random.key(1)

    @jax.jit
    def cloning(valid):
        return agent.actor_loss(state.actor, state, data._replace(valid=valid), key)[1]["bc_loss"]

    assert cloning(jnp.zeros((B, H))) == 0.0
    # Every step counts for itself: the parts add up to the whole.
    first = jnp.tile(jnp.array([1.0, 0.0]), (B, 1))
    np.testing.assert_allclose(cloning(first) + cloning(1.0 - first), cloning(jnp.ones((B, H))), rtol=1e-5)


# --------------------------------------------------------------------------- BFN


def test_bfn_generates_by_ten_euler_steps():
    agent = make(bfn)
    actor, observation = start(agent).actor, batch().observation
    x = noise = jax.random.normal(jax.random.key(1), (B, D))
    for k in range(10):
        x = x + agent.velocity(actor, observation)(x, jnp.full((B, 1), k / 10)) / 10
    np.testing.assert_allclose(agent.generate(actor, observation, noise), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("steps", "end"), [(1, 3.0), (2, 4.0)])
def test_the_flow_takes_as_many_steps_as_the_setting_says(steps, end):
    """``v = 2 x`` from 1: one Euler step ends at 1 + 2, two end at (1 + 1) (1 + 1)."""
    agent = known(make(bfn, flow_steps=steps), velocity=lambda self, flow, observation: lambda x, t: 2.0 * x)
    np.testing.assert_allclose(agent.generate(None, jnp.zeros((1, S)), jnp.ones((1, D))), np.full((1, D), end))


@pytest.mark.parametrize("module", [bfn, fql])
def test_generate_takes_any_leading_dimensions(module):
    agent = make(module, **dict(AGENTS)[module])
    actor, noise = start(agent).actor, jax.random.normal(jax.random.key(1), (3, 5, D))
    many = agent.generate(actor, jnp.ones((3, 5, S)), noise)
    np.testing.assert_allclose(many[1], agent.generate(actor, jnp.ones((5, S)), noise[1]), rtol=1e-5, atol=1e-6)


class Odds(bfn.Agent):
    """Known functions in place of networks: the policy returns its noise / 4, the critics value the action's sum."""

    def generate(self, actor, observation, noise):
        return noise / 4.0 + 0.0 * observation[..., :1]

    def values(self, critic, observation, action):
        return jnp.sum(action, axis=-1)[None] * critic


def test_bfn_acts_by_the_best_of_n_of_the_online_critic_and_the_target_critic_values_it():
    base = make(bfn, best_of=6)
    agent = Odds(base.network, base.training, S, A, base.config)
    state, data, key = start(base)._replace(critic=-1.0, target_critic=3.0), batch(), jax.random.key(2)
    keys = jax.random.split(key, B)
    chosen = agent.sample_actions(state, data.next_observation, keys)
    for row in range(B):
        candidates = np.clip(jax.random.normal(keys[row], (6, D)) / 4.0, -1.0, 1.0)
        np.testing.assert_allclose(chosen[row], candidates[candidates.sum(axis=1).argmin()], rtol=1e-6)
    target = td_target(data.return_, data.discount, 3.0 * chosen.sum(axis=1))
    metrics = agent.critic_loss(jnp.asarray(-1.0), state, data, key)[1]
    np.testing.assert_allclose(metrics["target_mean"], target.mean(), rtol=1e-5)


@pytest.mark.parametrize("count", [1, 4])
def test_candidates_in_blocks_are_those_drawn_at_once(count, monkeypatch):
    agent = make(bfn, best_of=count)
    state, keys = start(agent), jax.random.split(jax.random.key(1), B)
    whole = agent.sample_actions(state, batch().observation, keys)
    monkeypatch.setattr("dfp.agents.base.actor_critic.CPU_BLOCK", 2 * count)
    np.testing.assert_allclose(agent.sample_actions(state, batch().observation, keys), whole, rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------- FQL


def terms(agent, state, data, key):
    """The actor loss's gradient and metrics, and the student's noise, drawn as the loss draws it."""
    gradient, metrics = jax.jit(jax.grad(agent.actor_loss, has_aux=True))(state.actor, state, data, key)
    return gradient, metrics, jax.random.normal(jax.random.split(key)[1], data.action.shape)


def test_the_student_begins_with_weights_of_its_own():
    """Its hidden layers have the sizes of the flow's. From one key they would begin equal."""
    actor = start(make(fql, alpha=3.0)).actor
    assert changed(actor["flow"]["params"]["Dense_1"], actor["student"]["params"]["Dense_1"])


class Copy(fql.Agent):
    """The student is the flow itself, of ten steps and clipped."""

    def generate(self, actor, observation, noise):
        return self.flow_actions(actor["flow"], observation, noise)


def test_distillation_is_zero_where_the_student_is_the_flow():
    base = make(fql, alpha=3.0)
    agent = Copy(base.network, base.training, S, A, base.config)
    state = start(base)
    assert terms(agent, state, batch(), jax.random.key(1))[1]["distillation_loss"] < 1e-12
    assert terms(base, state, batch(), jax.random.key(1))[1]["distillation_loss"] > 0.1


def test_distillation_is_towards_the_clipped_end_of_the_flow_from_the_same_noise():
    agent = make(fql, alpha=3.0)
    state, data = start(agent), batch()
    state = state._replace(actor=jax.tree.map(lambda leaf: 3.0 * leaf, state.actor))
    _, metrics, z = terms(agent, state, data, jax.random.key(1))
    end = flow.integrate(agent.velocity(state.actor["flow"], data.observation), z, 10)
    student = agent.generate(state.actor, data.observation, z)
    assert min(np.abs(end).max(), np.abs(student).max()) > 1.5  # both leave the range; the student is not clipped
    close(metrics["distillation_loss"], jnp.mean((student - jnp.clip(end, -1.0, 1.0)) ** 2))


def test_the_flow_learns_from_the_data_alone():
    agent = make(fql, alpha=3.0)
    state, data, key = start(agent), batch(), jax.random.key(1)
    gradient, _, _ = terms(agent, state, data, key)
    cloning = jax.jit(jax.grad(lambda actor: agent.actor_loss(actor, state, data, key)[1]["bc_loss"]))(state.actor)
    jax.tree.map(close, gradient["flow"], cloning["flow"])
    for leaf in jax.tree.leaves(cloning["student"]):
        np.testing.assert_array_equal(leaf, 0.0)


def test_the_students_gradient_is_that_of_alpha_times_distillation_minus_mean_q():
    state, data, key = start(make(fql, alpha=0.0)), batch(), jax.random.key(1)
    for alpha in (0.0, 3.0):
        agent = make(fql, alpha=alpha)
        gradient, metrics, z = terms(agent, state, data, key)
        target = agent.flow_actions(state.actor["flow"], data.observation, z)

        def by_definition(student, agent=agent, alpha=alpha, target=target, z=z):
            actions = agent.generator(student, data.observation, z)
            values = agent.values(state.critic, data.observation, jnp.clip(actions, -1.0, 1.0))
            return alpha * jnp.mean((actions - target) ** 2) - jnp.mean(values), jnp.mean(values)

        expected, value = jax.jit(jax.grad(by_definition, has_aux=True))(state.actor["student"])
        jax.tree.map(close, gradient["student"], expected)
        close(metrics["student_q_mean"], value)


class Slope(fql.Agent):
    """Critics with a known gradient: ``Q_1 = 2 a_1``, ``Q_2 = 0``; the student returns its only parameter."""

    def generate(self, actor, observation, noise):
        return actor["student"] + 0.0 * noise

    def values(self, critic, observation, action):
        return jnp.stack([2.0 * action[..., 0], 0.0 * action[..., 0]])


@pytest.mark.parametrize(("action", "slope"), [(0.25, 1.0), (1.5, 0.0)])
def test_the_q_term_is_the_mean_over_critics_of_the_clipped_action(action, slope):
    base = make(fql, alpha=0.0)
    agent = Slope(base.network, base.training, S, A, base.config)
    state = start(base)
    state = state._replace(actor=state.actor | {"student": jnp.full((1, D), action)})
    gradient, _, _ = terms(agent, state, batch(), jax.random.key(1))
    np.testing.assert_allclose(gradient["student"], [[-slope, 0.0, 0.0, 0.0]], atol=1e-6)  # ascent: -Q


def test_fql_acts_and_bootstraps_by_one_pass_of_the_student():
    agent = make(fql, alpha=3.0)
    state, data, key = start(agent), batch(), jax.random.key(1)
    keys = jax.random.split(key, B)
    noise = jnp.concatenate([jax.random.normal(row, (1, D)) for row in keys])
    actions = jnp.clip(agent.generate(state.actor, data.next_observation, noise), -1.0, 1.0)
    chosen = agent.sample_actions(state, data.next_observation, keys)
    np.testing.assert_allclose(chosen, actions, rtol=1e-5, atol=1e-6)
    value = agent.values(state.target_critic, data.next_observation, actions).mean(axis=0)
    metrics = agent.critic_loss(state.critic, state, data, key)[1]
    np.testing.assert_allclose(
        metrics["target_mean"], td_target(data.return_, data.discount, value).mean(), rtol=1e-5, atol=1e-6
    )


def test_fql_has_no_alpha_of_its_own_accord():
    with pytest.raises(ValueError, match="alpha"):
        fql.Config()


# --------------------------------------------------------------------------- two modes


def trained(module, action_size: int, **settings):
    """The agent after 600 updates on one state with two actions, and 400 of its samples."""
    agent = dataclasses.replace(
        make(module, chunk=1, **settings),
        action_size=action_size,
        training=TRAINING.model_copy(update={"batch_size": 64}),
        network=NETWORK.model_copy(update={"width": 64}),
    )
    final = bandit(agent, two_modes(chunk=1, action_size=action_size), 600)
    noise = jax.random.normal(jax.random.key(5), (400, action_size))
    return agent, final, np.asarray(agent.generate(final.actor, jnp.zeros((400, S)), noise)).mean(axis=1)


@pytest.mark.parametrize("action_size", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_bandit_bfn_keeps_both_modes_and_its_choice_is_the_better_one(action_size):
    agent, final, actions = trained(bfn, action_size, best_of=1)
    assert 0.3 < (actions > 0).mean() < 0.7
    lower, upper = np.percentile(actions, [25, 75])
    assert (lower, upper) == (pytest.approx(-0.6, abs=0.25), pytest.approx(0.6, abs=0.25))
    choosing = dataclasses.replace(agent, config=agent.config.model_copy(update={"best_of": 8}))
    chosen = choosing.sample_actions(final, jnp.zeros((100, S)), jax.random.split(jax.random.key(6), 100))
    assert (np.asarray(chosen).mean(axis=1) > 0).mean() > 0.95


@pytest.mark.parametrize("action_size", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_bandit_fql_keeps_to_the_data_or_moves_to_the_better_mode_by_alpha(action_size):
    _, _, near = trained(fql, action_size, alpha=100.0)
    assert 0.3 < (near > 0).mean() < 0.7
    lower, upper = np.percentile(near, [25, 75])
    assert (lower, upper) == (pytest.approx(-0.6, abs=0.25), pytest.approx(0.6, abs=0.25))
    _, _, far = trained(fql, action_size, alpha=0.03)
    assert (far > 0).mean() > 0.9
