"""BC, IQL, IFQL, IDQL, SRPO: losses by definition, who is trained by what, two modes, work, and the real simulator."""

import csv
import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_agents import NETWORK, TRAINING, A, B, H, S, bandit, batch, changed, make, start, two_modes
from support.small_offline_agents import known

import dfp
from dfp.agents.base.actor_critic import AgentState, per_step
from dfp.agents.models import flow
from dfp.agents.models.diffusion import ancestral, noise_prediction_loss, score_regularisation
from dfp.agents.offline import bc, idql, ifql, iql, srpo
from dfp.plan.catalogue import CATALOGUE, agent_for, load_catalogue, load_config, run_spec
from dfp.spec import DataSpec
from dfp.tasks import prepare_dataset
from dfp.training import stages

D = H * A
AGENTS = {bc: {}, iql: {"alpha": 2.0}, ifql: {}, idql: {}, srpo: {}}
TABLE_7 = ["cube-single-task2", "cube-double-task2", "scene-task2", "puzzle-3x3-task4", "puzzle-4x4-task4"]
CASES = pytest.mark.parametrize("module", AGENTS, ids=lambda module: module.__name__.rpartition(".")[2])


def small(module, **settings):
    return make(module, **{**AGENTS[module], "chunk": H, **settings})


def close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


# --------------------------------------------------------------------------- all of them


@CASES
def test_an_update_moves_what_it_should_and_its_gradients_stay_apart(module):
    agent = small(module)
    before, data, key = start(agent), batch(), jax.random.key(1)
    after, metrics = jax.jit(agent.update)(before, data, key)
    for part in ("behaviour", "policy") if module is srpo else ("params",):
        assert changed(before.actor[part], after.actor[part])
    assert all(np.isfinite(value) for value in metrics.values())
    if module is bc:
        assert (after.critic, after.target_critic) == ({}, {})
        assert set(metrics) == {"bc_loss"}
    else:
        assert changed(before.critic, after.critic)
    if module is idql:
        average = jax.tree.map(lambda new, old: 1e-3 * new + (1 - 1e-3) * old, after.actor, before.anchor)
        jax.tree.map(close, after.anchor, average)
    else:
        assert after.anchor is None


@CASES
def test_steps_after_an_episodes_end_do_not_count_in_the_cloning(module):
    agent = small(module)
    state, data, key = start(agent), batch(), jax.random.key(1)
    name = "actor_loss" if module is iql else "bc_loss"

    @jax.jit
    def cloning(valid):
        return agent.actor_loss(state.actor, state, data._replace(valid=valid), key)[1][name]

    assert cloning(jnp.zeros((B, H))) == 0.0
    first = jnp.tile(jnp.array([1.0, 0.0]), (B, 1))
    np.testing.assert_allclose(cloning(first) + cloning(1.0 - first), cloning(jnp.ones((B, H))), rtol=1e-5)


@CASES
def test_both_phases_have_one_loss_and_one_action_is_a_chunk(module):
    config = module.Config(**AGENTS[module])
    assert config.chunk == 1
    assert config.offline_phase() == config
    assert config.name == module.__name__.rpartition(".")[2]


def test_iql_has_no_alpha_of_its_own_accord():
    with pytest.raises(ValueError, match="alpha"):
        iql.Config()


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("iql", [{"alpha": alpha, "expectile": 0.9} for alpha in (1.0, 0.3, 10.0, 10.0, 3.0)]),
        ("ifql", 5 * [{"best_of": 32, "expectile": 0.9, "flow_steps": 10}]),
        ("idql", 5 * [{"best_of": 32, "expectile": 0.9, "diffusion_steps": 5, "blocks": 3, "ema_rate": 0.001}]),
        (
            "srpo",
            [
                {"beta": beta, "expectile": 0.9, "blocks": 3, "weighting": "variance"}
                for beta in (0.03, 0.1, 0.1, 0.1, 0.1)
            ],
        ),
        ("bc", 5 * [{}]),
    ],
)
def test_coefficients_of_table_7(method, expected):
    for task, settings in zip(TABLE_7, expected, strict=True):
        found = agent_for(method, task, load_catalogue()).model_dump()
        assert found == {"name": method, "version": 1, "chunk": 1, **settings}


# --------------------------------------------------------------------------- BC and IQL


class Half(bc.Agent):
    """The policy repeats half of the state's first number."""

    def action(self, actor, observation):
        return jnp.repeat(0.5 * observation[..., :1], D, axis=-1)


def test_bc_is_the_squared_error_of_the_mean():
    base = small(bc)
    agent = Half(base.network, base.training, S, A, base.config)
    data, state = batch(), AgentState(None, {}, {}, None, ())
    error = (0.5 * data.observation[:, :1] - data.action) ** 2 * per_step(data.valid, A)
    close(agent.actor_loss(None, state, data, jax.random.key(0))[0], error.mean())
    # It acts at the mean, clipped, whatever the key.
    actions = agent.sample_actions(state, 4.0 * data.observation, jax.random.split(jax.random.key(3), B))
    close(actions, jnp.tile(jnp.clip(2.0 * data.observation[:, :1], -1.0, 1.0), (1, D)))


def test_iql_weighs_the_squared_error_by_the_clipped_advantage():
    """``A(s, a) = 5 s_0 + a_0`` and ``alpha = 2``."""

    class Known(iql.Agent):
        def action(self, actor, observation):
            return jnp.broadcast_to(actor, (*observation.shape[:-1], D))

        def advantage(self, state, observation, action):
            return 5.0 * observation[:, 0] + action[:, 0]

    base = small(iql)
    agent = Known(base.network, base.training, S, A, base.config)
    data = batch()
    advantage = 5.0 * np.asarray(data.observation)[:, 0] + np.asarray(data.action)[:, 0]
    weights = np.minimum(np.exp(2.0 * advantage), 100.0)
    assert weights.min() < 1.0 < weights.max() == 100.0
    expected = np.mean(weights[:, None] * per_step(data.valid, A) * (0.3 - data.action) ** 2)
    loss, metrics = agent.actor_loss(jnp.full(D, 0.3), AgentState(None, {}, {}, None, ()), data, jax.random.key(0))
    close(loss, expected)
    close(metrics["weight_mean"], weights.mean())
    close(metrics["advantage_mean"], advantage.mean())


# --------------------------------------------------------------------------- IFQL and IDQL


def test_ifql_clones_by_flow_matching_and_acts_by_the_best_of_n():
    agent = small(ifql, best_of=6)
    state, data, key = start(agent), batch(), jax.random.key(1)
    noise, t = flow.draw_start(key, data.action)
    velocity = agent.velocity(state.actor, data.observation)
    expected = flow.flow_matching_loss(velocity, data.action, noise, t, per_step(data.valid, A))
    close(agent.actor_loss(state.actor, state, data, key)[0], expected)
    acts_by_the_best(agent, state, state.actor, state.critic["q"])


def test_idql_clones_by_noise_prediction_at_its_five_steps():
    agent = small(idql)
    state, data, key = start(agent), batch(), jax.random.key(1)
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (B, D))
    t = jax.random.randint(time_key, (B, 1), 1, 6) / 5
    prediction = functools.partial(agent.diffusion, state.actor, data.observation)
    expected = noise_prediction_loss(prediction, idql.SCHEDULE, data.action, noise, t, per_step(data.valid, A))
    close(agent.actor_loss(state.actor, state, data, key)[0], expected)


def test_idql_has_as_many_steps_as_the_setting_says():
    """Two: times are 1/2 and 1, and two draws of noise make an action. ``eps_hat = t``."""
    agent = known(
        small(idql, diffusion_steps=2),
        diffusion=property(lambda self: lambda actor, observation, x, t: t + 0.0 * x),
    )
    state, data, key = AgentState(None, {}, {}, None, ()), batch(), jax.random.key(1)
    noise_key, time_key = jax.random.split(key)
    noise, t = jax.random.normal(noise_key, (B, D)), jax.random.randint(time_key, (B, 1), 1, 3) / 2
    loss, _ = agent.actor_loss(None, state, data, key)
    close(loss, np.mean(per_step(data.valid, A) * (t - noise) ** 2))
    assert agent.noise_size == 2 * D
    steps = jax.random.normal(key, (B, 2, D))
    expected = ancestral(lambda x, t: t + 0.0 * x, idql.SCHEDULE, steps)
    close(agent.generate(None, data.observation, steps.reshape(B, 2 * D)), expected)


@pytest.mark.parametrize(("module", "network"), [(idql, "diffusion"), (srpo, "behaviour")])
def test_the_noise_prediction_has_as_many_blocks_as_the_setting_says(module, network):
    assert getattr(small(module, blocks=1), network).body.blocks == 1


def test_the_schedules_of_idql_and_srpo():
    """All of beta from 0.1 to 10 in IDQL, to 20 in SRPO: alpha_1^2 = exp(-(beta_min + beta_max) / 2)."""
    assert float(idql.SCHEDULE.signal(1.0)) ** 2 == pytest.approx(np.exp(-5.05), rel=1e-5)
    assert float(srpo.SCHEDULE.signal(1.0)) ** 2 == pytest.approx(np.exp(-10.05), rel=1e-5)


def test_the_average_of_idqls_diffusion_has_a_rate_of_its_own():
    assert make(idql, ema_rate=0.25).anchor_rate == 0.25


def test_idql_acts_by_the_averages():
    agent = small(idql, best_of=6)
    state = start(agent)
    # All four copies differ.
    state = state._replace(
        anchor=jax.tree.map(lambda leaf: 0.5 * leaf, state.actor),
        target_critic=jax.tree.map(lambda leaf: leaf[::-1] * jnp.float32(-1.0), state.target_critic),
    )
    acts_by_the_best(agent, state, state.anchor, state.target_critic)


def acts_by_the_best(agent, state, actor, critic):
    """Six candidates of each state, of which the smaller critic's favourite is executed."""
    observation, keys = batch().observation, jax.random.split(jax.random.key(2), B)
    chosen = agent.sample_actions(state, observation, keys)
    for row in range(3):
        noise = jax.random.normal(keys[row], (6, agent.noise_size))
        states = jnp.tile(observation[row], (6, 1))
        candidates = jnp.clip(agent.generate(actor, states, noise), -1.0, 1.0)
        scores = agent.values(critic, states, candidates).min(axis=0)
        np.testing.assert_allclose(chosen[row], candidates[scores.argmax()], rtol=1e-4, atol=1e-5)


def test_idql_generates_by_ancestral_steps_that_each_have_noise_of_their_own():
    agent = small(idql)
    actor, observation = start(agent).actor, batch().observation
    assert agent.noise_size == 5 * D
    noise = jax.random.normal(jax.random.key(1), (B, 5, D))
    expected = ancestral(functools.partial(agent.diffusion, actor, observation), idql.SCHEDULE, noise)
    close(agent.generate(actor, observation, noise.reshape(B, 5 * D)), expected)


# --------------------------------------------------------------------------- SRPO


@pytest.mark.parametrize(("beta", "weighting"), [(0.0, "variance"), (3.0, "variance"), (3.0, "score")])
def test_srpos_policy_has_the_gradient_of_its_bracket_and_the_behaviour_that_of_cloning(beta, weighting):
    agent = small(srpo, beta=beta, weighting=weighting)
    state, data, key = start(agent), batch(), jax.random.key(1)
    cloning_key, policy_key = jax.random.split(key)
    gradient = jax.jit(jax.grad(lambda actor: agent.actor_loss(actor, state, data, key)[0]))(state.actor)

    cloning = jax.jit(jax.grad(agent.cloning_loss))(state.actor["behaviour"], data, cloning_key)
    jax.tree.map(close, gradient["behaviour"], cloning)

    # The bracket at mu(s), a constant, carried back through the policy alone.
    def mean_action(policy):
        return jnp.tanh(agent.policy_network(policy, data.observation))

    action, back = jax.vjp(mean_action, state.actor["policy"])
    noise, t = srpo.draw_noise(policy_key, action, (0.02, 0.98))
    prediction = functools.partial(agent.behaviour, state.actor["behaviour"], data.observation)
    bracket = score_regularisation(prediction, srpo.SCHEDULE, action, noise, t, weighting)
    climb = jax.grad(lambda a: jnp.sum(agent.values(state.target_critic, data.observation, a).mean(axis=0)))(action)
    (expected,) = back((bracket - beta * climb) / B)
    jax.tree.map(close, gradient["policy"], expected)


def test_srpo_clones_by_noise_prediction_at_times_from_a_thousandth_to_one():
    agent = small(srpo)
    state, data, key = start(agent), batch(), jax.random.key(1)
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (B, D))
    t = 0.001 + 0.999 * jax.random.uniform(time_key, (B, 1))
    prediction = functools.partial(agent.behaviour, state.actor["behaviour"], data.observation)
    expected = noise_prediction_loss(prediction, srpo.SCHEDULE, data.action, noise, t, per_step(data.valid, A))
    close(agent.cloning_loss(state.actor["behaviour"], data, key), expected)


def test_srpos_gradient_of_the_critics_is_that_of_their_mean_by_finite_differences():
    agent = small(srpo, beta=1.0)
    state, data, key = start(agent), batch(), jax.random.key(1)
    metrics = jax.jit(agent.actor_loss)(state.actor, state, data, key)[1]

    @jax.jit
    def q(action):
        return agent.values(state.target_critic, data.observation, action).mean(axis=0)

    action, step = agent.action(state.actor, data.observation), 1e-2
    slopes = [(q(action + step * unit) - q(action - step * unit)) / (2 * step) for unit in jnp.eye(D)[:, None]]
    np.testing.assert_allclose(metrics["guidance_size"], np.linalg.norm(slopes, axis=0).mean(), rtol=0.02)
    close(metrics["policy_q_mean"], q(action).mean())


def test_srpos_times_are_uniform_in_their_range_and_its_actions_within_theirs():
    noise, t = srpo.draw_noise(jax.random.key(0), jnp.zeros((4000, 2)), srpo.POLICY_TIMES)
    assert (noise.shape, t.shape) == ((4000, 2), (4000, 1))
    assert (t.min(), t.max()) == (pytest.approx(0.02, abs=2e-3), pytest.approx(0.98, abs=2e-3))
    assert t.mean() == pytest.approx(0.5, abs=0.02)
    assert noise.std() == pytest.approx(1.0, abs=0.03)
    agent = small(srpo)
    actor = jax.tree.map(lambda leaf: 50.0 * leaf, start(agent).actor)
    assert np.abs(agent.action(actor, batch().observation)).max() == 1.0


# --------------------------------------------------------------------------- two modes


def trained(module, action_size: int, **settings):
    """The agent after 400 updates on one state with two actions, -0.6 and 0.6, and 400 of its samples."""
    agent = dataclasses.replace(
        make(module, chunk=1, **settings),
        action_size=action_size,
        training=TRAINING.model_copy(update={"batch_size": 32, "learning_rate": 3e-3}),
        network=NETWORK.model_copy(update={"width": 32}),
    )
    data = two_modes(32, chunk=1, action_size=action_size)
    # A state of ones: of zeros, layer norm would see nothing but the action, and not its size.
    data = data._replace(observation=jnp.ones((32, S)), next_observation=jnp.ones((32, S)))
    final = bandit(agent, data, 400)
    noise = jax.random.normal(jax.random.key(5), (400, agent.noise_size))
    actor = agent.acting(final)[0]
    return agent, final, np.asarray(agent.generate(actor, jnp.ones((400, S)), noise)).mean(axis=1)


BOTH = pytest.mark.parametrize("action_size", [pytest.param(1, marks=pytest.mark.slow), 2])


@BOTH
def test_bandit_bc_ends_between_the_modes(action_size):
    actions = trained(bc, action_size)[2]
    np.testing.assert_allclose(actions, 0.0, atol=0.05)


@BOTH
def test_bandit_iql_moves_to_the_better_mode_and_its_values_are_known(action_size):
    agent, final, actions = trained(iql, action_size, alpha=10.0)
    np.testing.assert_allclose(actions, 0.6, atol=0.05)
    modes = jnp.repeat(jnp.array([[-0.6], [0.6]]), action_size, axis=1)
    q = agent.values(final.critic["q"], jnp.ones((2, S)), modes)
    np.testing.assert_allclose(q, [[0.0, 1.0], [0.0, 1.0]], atol=0.05)
    # The expectile 0.9 of 0 and 1.
    assert agent.state_value(final.critic["v"], jnp.ones((1, S)))[0] == pytest.approx(0.9, abs=0.05)


@BOTH
@pytest.mark.parametrize(("module", "settings"), [(ifql, {}), (idql, {"ema_rate": 0.02})], ids=["ifql", "idql"])
def test_bandit_the_sampler_keeps_both_modes_and_its_choice_is_the_better_one(module, settings, action_size):
    agent, final, actions = trained(module, action_size, best_of=16, **settings)
    assert 0.3 < (actions > 0).mean() < 0.7
    lower, upper = np.percentile(actions, [25, 75])
    assert (lower, upper) == (pytest.approx(-0.6, abs=0.3), pytest.approx(0.6, abs=0.3))
    chosen = agent.sample_actions(final, jnp.ones((100, S)), jax.random.split(jax.random.key(6), 100))
    assert (np.asarray(chosen).mean(axis=1) > 0).mean() > 0.95


@BOTH
def test_bandit_srpo_moves_to_the_better_mode(action_size):
    actions = trained(srpo, action_size, beta=0.3)[2]
    assert 0.3 < actions[0] < 0.95
    assert np.ptp(actions) < 1e-5  # the noise has no part in it


@pytest.mark.slow
def test_bandit_srpo_without_values_is_held_by_the_data():
    """By `variance` between the modes, by `score` at one of them: see its page."""
    assert trained(srpo, 1, beta=0.0)[2][0] == pytest.approx(0.0, abs=0.15)
    assert abs(trained(srpo, 1, beta=0.0, weighting="score")[2][0]) == pytest.approx(0.6, abs=0.15)


# --------------------------------------------------------------------------- the real simulator


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataSpec, Path]:
    """One episode of OGBench's own expert, for all methods."""
    data, folder = DataSpec(source="generate", episodes=1, seed=0), tmp_path_factory.mktemp("data")
    prepare_dataset(load_catalogue().tasks["cube-single-task2"].spec, data, folder, 1)
    return data, folder


@pytest.mark.slow
@CASES
def test_a_run_of_the_offline_table_in_the_real_simulator(module, recorded, tmp_path):
    """Thirty updates on recorded rows, one episode, and the policy out of the folder again."""
    data, folder = recorded
    name = module.__name__.rpartition(".")[2]
    config = load_config(CATALOGUE / "smoke.yaml")
    config = config.model_copy(
        update={
            "data": data,
            "training": config.training.model_copy(update={"offline_steps": 30}),
            "evaluation": config.evaluation.model_copy(update={"interval": 30, "episodes": 1}),
        }
    )
    spec = run_spec(config, load_catalogue(), "cube-single-task2", name, 0, "offline")
    stages.pretrain(spec, tmp_path / "run", stages.Options(folder, workers=1))
    with (tmp_path / "run" / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["phase"], row["step"], row["episodes"]) == ("offline", "30", "1")
    assert 0.0 < float(row["length_mean"]) <= 200.0
    policy = dfp.load_policy(tmp_path / "run")
    assert policy.step == 30
    chunk = policy(np.zeros(28), seed=0)
    assert chunk.shape == (1, 5)
    assert np.all(np.abs(chunk) <= 1.0)
