"""What ReBRAC, CAC, FAWAC and FBRAC share: who is trained when, what an update costs, and two modes to keep."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from support.chunks import GAMMA, dataset
from support.small_agents import NETWORK, TRAINING, B, H, S, bandit, changed, make, start, two_modes
from support.small_offline_agents import SETTINGS, D, chunks, close, known, small
from typer.testing import CliRunner

import dfp
from dfp.__main__ import app
from dfp.agents.base.actor_critic import AgentState
from dfp.agents.offline import cac, fawac, fbrac, rebrac
from dfp.plan.catalogue import CATALOGUE
from dfp.training.replay import chunks_at, live_rows, make_buffer, sample_chunks, with_next_action

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


@pytest.mark.parametrize("chunk", [1, 2])
def test_the_next_action_comes_with_the_same_rows_and_only_where_asked_for(chunk):
    buffer, live, key = make_buffer(dataset(), 5), live_rows(5, 5), jax.random.key(0)
    without = sample_chunks(buffer, live, key, 64, chunk, GAMMA)
    asked = sample_chunks(buffer, live, key, 64, chunk, GAMMA, next_action=True)
    assert without.next_action is None
    assert without.next_valid is None
    jax.tree.map(np.testing.assert_array_equal, without, asked._replace(next_action=None, next_valid=None))
    assert [module for module in SETTINGS if small(module).reads_next_action] == [rebrac]
    # Row 0 is in state 0. Row number `chunk` is the first one after its chunk: its action is chunk / 10.
    (first,) = np.unique(asked.next_action[asked.observation[:, 0] == 0, 0])  # pyright: ignore
    np.testing.assert_allclose(first, chunk / 10)


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


@pytest.mark.parametrize("module", SETTINGS)
def test_a_chunk_that_ran_past_its_episode_does_not_train_the_critic(module):
    """Only the first of eight chunks ends inside its episode. Both critics say 1 and the return is 3: 4 / 8."""
    agent = known(
        small(module),
        generate=lambda self, actor, observation, noise: 0.0 * noise[..., :D],
        values=lambda self, critic, observation, action: critic + jnp.zeros((2, len(action))),
    )
    valid = jnp.ones((B, H)).at[1:, -1].set(0.0)
    data = chunks()._replace(valid=valid, return_=jnp.full(B, 3.0), discount=jnp.zeros(B))
    state = AgentState(actor=None, critic=1.0, target_critic=1.0, anchor=None, optimiser=())
    np.testing.assert_allclose(agent.critic_loss(1.0, state, data, jax.random.key(0))[0], 0.5)


@pytest.mark.parametrize(
    ("module", "missing"), [(rebrac, "alpha_actor"), (cac, "eta"), (fawac, "inverse_temperature"), (fbrac, "alpha")]
)
def test_what_is_tuned_for_every_task_has_no_default(module, missing):
    with pytest.raises(ValueError, match=missing):
        module.Config()
    config = small(module).config
    assert config.offline_phase() == config


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
    result = CliRunner().invoke(app, ["train", "offline", *cell, *folders])
    assert result.exit_code == 0, result.output
    last = pd.read_csv(tmp_path / "metrics.csv").iloc[-1]
    assert (last["phase"], last["step"], last["episodes"]) == ("offline", 100, 1)
    chunk = dfp.load_policy(tmp_path)(np.zeros(28, np.float32), seed=0)
    assert chunk.shape == (1, 5)
    assert np.all(np.abs(chunk) <= 1.0)
