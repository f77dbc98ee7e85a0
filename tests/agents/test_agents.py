"""The methods: equations by hand, who is trained by what, and what the paper's variants share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_agents import NETWORK, TRAINING, A, B, H, S, bandit, batch, changed, make, start, two_modes

from dfp.agents import dfp, mvp
from dfp.agents.base import actor_critic
from dfp.agents.base.actor_critic import AgentState, TopKConfig
from dfp.agents.models.networks import parameter_count

# --------------------------------------------------------------------------- shared equations


def test_td_target_by_hand():
    # return -1, bootstrap 0.81 * (-4); and a chunk that ended in success: no bootstrap
    target = actor_critic.td_target(jnp.array([-1.0, -0.5]), jnp.array([0.81, 0.0]), jnp.array([-4.0, 7.0]))
    np.testing.assert_allclose(target, [-4.24, -0.5], rtol=1e-6)


def test_td_loss_by_hand():
    # members [[0, 2], [1, 5]], targets [1, 1], the second chunk is not valid: (1 + 0 + 0 + 0) / 4
    loss = actor_critic.td_loss(jnp.array([[0.0, 2.0], [1.0, 5.0]]), jnp.array([1.0, 1.0]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(loss, 0.25)


def test_per_step_is_row_major():
    np.testing.assert_array_equal(actor_critic.per_step(jnp.array([[1.0, 0.0]]), 3), [[1, 1, 1, 0, 0, 0]])


class Linear(dfp.Agent):
    """Known functions in place of networks: the policy returns its noise / 4, critics value the action's sum."""

    def generate(self, actor, observation, noise):
        return noise / 4.0 + 0.0 * observation[..., :1]

    def values(self, critic, observation, action):
        q = jnp.sum(action, axis=-1) * critic
        return jnp.stack([q, q + 2.0])


def linear(**settings) -> Linear:
    base = make(dfp, **settings)
    return Linear(base.network, base.training, S, A, base.config)


def state(critic: float, target: float) -> AgentState:
    return AgentState(jnp.zeros(()), jnp.asarray(critic), jnp.asarray(target), jnp.zeros(()), ())


@pytest.mark.parametrize(("critic", "pick"), [(1.0, np.argmax), (-1.0, np.argmin)])
def test_best_of_n_takes_the_critics_favourite(critic, pick):
    agent, key = linear(best_of=6), jax.random.key(3)
    chosen = agent.sample_actions(state(critic, 0.0), jnp.zeros((1, S)), key[None])
    candidates = jnp.clip(jax.random.normal(key, (6, H * A)) / 4.0, -1.0, 1.0)
    np.testing.assert_allclose(chosen[0], candidates[pick(candidates.sum(axis=1))], rtol=1e-6)


def test_the_online_critic_picks_and_the_target_critic_values():
    agent, key, data = linear(best_of=4), jax.random.key(0), batch()
    keys = jax.random.split(key, B)
    current = state(critic=1.0, target=-3.0)
    best = agent.sample_actions(current, data.next_observation, keys)
    expected = data.return_ + data.discount * (-3.0 * best.sum(axis=1) + 1.0)  # mean of q and q + 2
    _, metrics = agent.critic_loss(jnp.asarray(1.0), current, data, key)
    np.testing.assert_allclose(metrics["target_mean"], expected.mean(), rtol=1e-5)


def test_top_k_candidates_are_the_best_first():
    top_k = TopKConfig(candidates=6, positives=3)
    agent, key = linear(top_k=top_k), jax.random.key(1)
    observation = jnp.zeros((2, S))
    favourites = agent.top_candidates(state(1.0, 0.0), observation, key, top_k)
    for row, row_key in enumerate(jax.random.split(key, 2)):
        candidates = np.clip(jax.random.normal(row_key, (6, H * A)) / 4.0, -1.0, 1.0)
        order = np.argsort(-candidates.sum(axis=1))[:3]
        np.testing.assert_allclose(favourites[row], candidates[order], rtol=1e-6)


def test_no_more_positives_than_candidates():
    assert TopKConfig(candidates=4, positives=4).positives == 4
    with pytest.raises(ValueError, match=r"'positives' \(5\) .* 'candidates' \(4\)"):
        TopKConfig(candidates=4, positives=5)


def test_an_action_depends_on_its_own_state_and_key_alone():
    agent = make(dfp)
    current = start(agent)
    observations, keys = batch().observation, jax.random.split(jax.random.key(1), B)
    whole = agent.sample_actions(current, observations, keys)
    shuffled = agent.sample_actions(current, observations[::-1], keys[::-1])
    np.testing.assert_allclose(whole, shuffled[::-1], rtol=1e-5, atol=1e-6)
    assert np.all(np.abs(whole) <= 1.0)


class Keyed(dfp.Agent):
    """In place of parameters the numbers of the key that they would be drawn by."""

    def init_actor(self, key):
        return jax.random.key_data(key)

    def init_critic(self, key):
        return jax.random.key_data(key)


def test_actor_and_critic_begin_from_keys_of_their_own():
    base, key = make(dfp), jax.random.key(3)
    begun = Keyed(base.network, base.training, S, A, base.config).init(key)
    keys = {tuple(np.asarray(numbers)) for numbers in (begun.actor, begun.critic, jax.random.key_data(key))}
    assert len(keys) == 3


# --------------------------------------------------------------------------- one update


@pytest.mark.parametrize("module", [dfp, mvp])
def test_an_update_moves_what_it_should(module):
    agent = make(module)
    before = start(agent)
    after, metrics = jax.jit(agent.update)(before, batch(), jax.random.key(1))
    assert changed(before.actor, after.actor)
    assert changed(before.critic, after.critic)
    assert all(np.isfinite(value) for value in metrics.values())
    polyak = jax.tree.map(lambda new, old: 0.01 * new + 0.99 * old, after.critic, before.target_critic)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.target_critic, polyak)
    ema = jax.tree.map(lambda new, old: 1e-4 * new + (1 - 1e-4) * old, after.actor, before.anchor)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.anchor, ema)


@pytest.mark.parametrize("module", [dfp, mvp])
def test_the_actor_loss_has_no_gradient_into_the_critic(module):
    agent = make(module)
    current = start(agent)

    def loss(critic):
        return agent.actor_loss(current.actor, current._replace(critic=critic), batch(), jax.random.key(1))[0]

    # The ranking is a choice, not a differentiable weight: the critic gets nothing from it.
    for leaf in jax.tree.leaves(jax.grad(loss)(current.critic)):
        np.testing.assert_array_equal(leaf, 0.0)


@pytest.mark.parametrize("module", [dfp, mvp])
def test_without_top_k_nothing_of_it_remains(module):
    agent = make(module, top_k=None)
    current = start(agent)
    assert current.anchor is None
    after, metrics = jax.jit(agent.update)(current, batch(), jax.random.key(1))
    assert after.anchor is None
    assert not any(name.startswith("top_k") for name in metrics)


@pytest.mark.parametrize("module", [dfp, mvp])
def test_offline_phases_are_equal_whatever_the_top_k_settings(module):
    variants = [module.Config(), module.Config(top_k=None), module.Config(top_k=TopKConfig(positives=1, weight=5.0))]
    assert len({variant.offline_phase().model_dump_json() for variant in variants}) == 1
    assert module.Config(best_of=2).offline_phase() != variants[0].offline_phase()


def test_pi_old_starts_as_a_copy_of_the_policy():
    offline = start(make(dfp, top_k=None))
    online = make(dfp).start_improving(offline)
    assert not changed(online.actor, online.anchor)
    assert jax.tree.leaves(online.anchor)[0] is not jax.tree.leaves(online.actor)[0]


# --------------------------------------------------------------------------- DFP


def test_dfp_both_terms_share_their_samples():
    """L = L_BC + lambda L_topK with one set of samples: the loss is affine in lambda at fixed keys."""
    agents = [make(dfp, top_k=TopKConfig(weight=weight)) for weight in (1.0, 3.0)]
    current, data, key = start(agents[0]), batch(), jax.random.key(1)
    gradients = [jax.grad(lambda a, agent=agent: agent.actor_loss(a, current, data, key)[0])(current.actor)
                 for agent in agents]  # fmt: skip
    plain = make(dfp, top_k=TopKConfig(weight=0.0))
    base = jax.grad(lambda a: plain.actor_loss(a, current, data, key)[0])(current.actor)
    for none, one, three in zip(*map(jax.tree.leaves, (base, *gradients)), strict=True):
        np.testing.assert_allclose(three - none, 3 * (one - none), rtol=1e-3, atol=1e-5)


def test_dfp_samples_are_clipped_to_the_action_range():
    agent = make(dfp)
    actor = jax.tree.map(lambda leaf: 50.0 * leaf, start(agent).actor)
    samples = agent.generated_samples(actor, batch().observation, jax.random.key(1))
    assert samples.shape == (B, 8, H * A)
    assert np.abs(samples).max() == 1.0


def test_dfp_mask_invalid_leaves_the_tail_out():
    agent = make(dfp, top_k=None, mask_invalid=True)
    plain = make(dfp, top_k=None)
    current, data, key = start(agent), batch(), jax.random.key(1)
    masked = agent.actor_loss(current.actor, current, data, key)[0]
    assert masked < plain.actor_loss(current.actor, current, data, key)[0]
    whole = data._replace(valid=jnp.ones((B, H)))
    np.testing.assert_allclose(
        agent.actor_loss(current.actor, current, whole, key)[0],
        plain.actor_loss(current.actor, current, whole, key)[0],
        rtol=1e-6,
    )


@pytest.mark.parametrize(("module", "settings"), [(dfp, {"bandwidths": (0.2,)}), (mvp, {})])
def test_bandit_cloning_keeps_both_modes_and_top_k_moves_to_the_better_one(module, settings):
    training = TRAINING.model_copy(update={"batch_size": 64})
    network = NETWORK.model_copy(update={"width": 64})
    shares = {}
    for name, top_k in {"cloning": None, "top_k": TopKConfig(weight=5.0, positives=2, ema_rate=0.01)}.items():
        agent = dataclasses.replace(make(module, top_k=top_k, **settings), training=training, network=network)
        final = bandit(agent, two_modes(), 600)
        noise = jax.random.normal(jax.random.key(5), (400, H * A))
        actions = np.asarray(agent.generate(final.actor, jnp.zeros((400, S)), noise)).mean(axis=1)
        shares[name] = (actions > 0).mean()
        if name == "cloning":
            lower, upper = np.percentile(actions, [25, 75])
            assert (lower, upper) == (pytest.approx(-0.6, abs=0.25), pytest.approx(0.6, abs=0.25))
    assert 0.3 < shares["cloning"] < 0.7, shares
    assert shares["top_k"] > 0.75, shares


# --------------------------------------------------------------------------- MVP


def test_mean_flow_identity_on_a_linear_flow():
    """v(z, t) = c z has the mean velocity u(z, r, t) = z (1 - e^{-c (t - r)}) / (t - r): its target is itself."""
    c = 0.7

    def u(z, r, t):
        return z * (1.0 - jnp.exp(-c * (t - r))) / (t - r)

    z, r, t = jnp.array([[0.5, -2.0], [1.0, 3.0]]), jnp.array([[0.1], [0.2]]), jnp.array([[0.9], [0.5]])
    found, target = mvp.mean_flow_target(u, z, c * z, r, t)
    np.testing.assert_allclose(found, target, rtol=1e-5)
    # one step over the whole interval lands where the ODE does
    np.testing.assert_allclose(z - (t - r) * found, z * jnp.exp(-c * (t - r)), rtol=1e-5)


def test_mean_flow_target_of_a_constant_velocity_by_hand():
    # u = 3 z + r + 2 t: du/dt along dz/dt = v is 3 v + 2; target v - (t - r)(3 v + 2)
    found, target = mvp.mean_flow_target(
        lambda z, r, t: 3.0 * z + r + 2.0 * t, jnp.array([[1.0]]), jnp.array([[4.0]]), jnp.array([[0.2]]),
        jnp.array([[0.7]]),
    )  # fmt: skip
    np.testing.assert_allclose(found, [[3.0 + 0.2 + 1.4]], rtol=1e-6)
    np.testing.assert_allclose(target, [[4.0 - 0.5 * 14.0]], rtol=1e-6)


def test_interpolation_runs_from_data_to_noise():
    action, noise = jnp.array([[1.0]]), jnp.array([[5.0]])
    assert mvp.interpolate(action, noise, jnp.array([[0.0]]))[0, 0] == 1.0
    assert mvp.interpolate(action, noise, jnp.array([[1.0]]))[0, 0] == 5.0


def test_times_are_ordered_and_logit_normal():
    r, t = make(mvp).sample_times(jax.random.key(0), 4000)
    assert np.all(r <= t)
    draws = np.concatenate([r, t])
    logits = np.log(draws / (1 - draws))
    assert logits.mean() == pytest.approx(-0.4, abs=0.05)
    assert logits.std() == pytest.approx(1.0, abs=0.05)


def test_times_have_the_mean_and_the_deviation_of_the_settings():
    """Sigmoids of ``1 + 0.5 n`` with standard normal ``n``."""
    key = jax.random.key(0)
    r, t = make(mvp, time_mean=1.0, time_std=0.5).sample_times(key, 5)
    draws = 1.0 + 0.5 * np.asarray(jax.random.normal(key, (2, 5, 1)))
    np.testing.assert_allclose(r, 1.0 / (1.0 + np.exp(-draws.min(axis=0))), rtol=1e-5)
    np.testing.assert_allclose(t, 1.0 / (1.0 + np.exp(-draws.max(axis=0))), rtol=1e-5)


def test_mvp_invalid_steps_do_not_count():
    agent = make(mvp, top_k=None)
    current, data, key = start(agent), batch(), jax.random.key(1)
    moved = data._replace(action=data.action.at[0, A:].set(0.9))  # the invalid second step of the first chunk
    # The action enters the network's input too, so compare the gradient where every step is invalid.
    nothing = moved._replace(valid=jnp.zeros((B, H)))
    assert agent.actor_loss(current.actor, current, nothing, key)[0] == 0.0
    assert agent.actor_loss(current.actor, current, moved, key)[0] > 0.0


def test_mvp_the_constraint_has_its_weight():
    agents = {weight: make(mvp, top_k=None, ivc_weight=weight) for weight in (0.0, 1.0, 3.0)}
    current, key = start(agents[1.0]), jax.random.key(1)
    losses = {weight: agent.actor_loss(current.actor, current, batch(), key) for weight, agent in agents.items()}
    constraint = float(losses[3.0][1]["bc_ivc_loss"])
    assert constraint > 0.01
    without = float(losses[0.0][0])
    for weight in (1.0, 3.0):
        assert float(losses[weight][0]) == pytest.approx(without + weight * constraint, rel=1e-5)


def test_mvp_the_top_k_term_has_its_weight():
    agents = {weight: make(mvp, top_k=TopKConfig(weight=weight)) for weight in (0.0, 1.0, 3.0)}
    current, key = start(agents[1.0]), jax.random.key(1)
    losses = {
        weight: float(agent.actor_loss(current.actor, current, batch(), key)[0]) for weight, agent in agents.items()
    }
    term = losses[1.0] - losses[0.0]
    assert abs(term) > 0.01
    assert losses[3.0] - losses[0.0] == pytest.approx(3 * term, rel=1e-4)


def test_mvp_acts_in_one_step_from_noise():
    agent = make(mvp)
    actor = start(agent).actor
    noise, observation = jax.random.normal(jax.random.key(1), (1, H * A)), jnp.ones((1, S))
    u = agent.mean_velocity(actor, observation, noise, jnp.zeros((1, 1)), jnp.ones((1, 1)))
    np.testing.assert_allclose(agent.generate(actor, observation, noise), noise - u, rtol=1e-6)


# --------------------------------------------------------------------------- networks


def test_parameter_counts():
    current = start(make(dfp, top_k=None))
    inputs, width = S + H * A, 16
    hidden = (inputs * width + width) + (width * width + width)
    assert parameter_count(current.actor) == hidden + width * H * A + H * A
    assert parameter_count(current.critic) == 2 * (hidden + 2 * 2 * width + width + 1)


def test_an_agent_has_as_many_critics_as_its_network_says():
    agent = dataclasses.replace(make(dfp), network=NETWORK.model_copy(update={"ensemble_size": 3}))
    shapes = jax.eval_shape(agent.init_critic, jax.random.key(0))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(shapes)} == {3}


def test_critics_are_independent():
    agent = make(dfp)
    values = agent.values(start(agent).critic, jnp.ones((1, S)), jnp.ones((1, H * A)))
    assert values.shape == (2, 1)
    assert values[0, 0] != values[1, 0]
