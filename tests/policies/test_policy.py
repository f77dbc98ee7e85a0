"""A saved run as a policy for other code."""

import json

import jax
import numpy as np
import pytest

import dfp
from dfp.plan.catalogue import CATALOGUE, load_catalogue, load_config, run_spec
from dfp.policies.evaluate import player
from dfp.runs.checkpoint import CheckpointError, Rotation, save
from dfp.runs.folder import RunFolder
from dfp.runs.layout import FINAL_STATE, MANIFEST, METRICS
from dfp.spec import ConfigError
from dfp.training.session import build_agent

ENTRIES = load_catalogue()
STATES = np.random.default_rng(0).normal(size=(3, 28)).astype(np.float32)


@pytest.fixture(params=["dfp", "qc-fql"])
def run(request, tmp_path):
    spec = run_spec(load_config(CATALOGUE / "smoke.yaml"), ENTRIES, "cube-single-task2", request.param, 0)
    RunFolder(tmp_path, spec).start(["python"], "cpu: cpu")
    return tmp_path, spec, jax.jit(build_agent(spec).init)(jax.random.key(1))


def test_chunks_are_a_function_of_state_and_seed(run):
    folder, spec, state = run
    save(folder / FINAL_STATE, state, spec.digest(), {"step": 7})
    policy = dfp.load_policy(folder)
    assert policy.step == 7
    name = spec.agent.name
    assert repr(policy) == f"Policy({name} on cube-single-task2, seed 0, step 7, chunk [5, 5])"
    assert repr(policy.state).startswith("AgentState(actor: ")
    assert len(repr(policy.state)) < 120
    chunks = policy(STATES, seed=3)
    assert chunks.shape == (3, 5, 5)
    assert np.all(np.abs(chunks) <= 1)
    np.testing.assert_array_equal(chunks, dfp.load_policy(str(folder))(STATES, seed=3))
    assert not np.array_equal(chunks, policy(STATES, seed=4))
    # A single state is the first row of a batch.
    np.testing.assert_allclose(policy(STATES[0], seed=3), chunks[0], rtol=1e-5, atol=1e-6)
    # Rows draw apart, even of equal states.
    same = policy(np.tile(STATES[:1], (2, 1)), seed=3)
    assert not np.array_equal(same[0], same[1])


def test_the_critic_chooses_and_the_target_critic_has_no_part(run):
    """QC-FQL's policy has nothing to choose from."""
    folder, spec, state = run
    other = jax.jit(build_agent(spec).init)(jax.random.key(2))
    chunks = []
    for saved in (state, state._replace(target_critic=other.critic), state._replace(critic=other.critic)):
        save(folder / FINAL_STATE, saved, spec.digest(), {"step": 7})
        policy = dfp.load_policy(folder)
        evaluated = player(policy, 3)(STATES, np.arange(3), np.zeros(3, int))
        chunks.append((evaluated, policy(STATES, seed=3)))
    for way in range(2):
        np.testing.assert_array_equal(chunks[0][way], chunks[1][way])
        assert np.array_equal(chunks[0][way], chunks[2][way]) == (spec.agent.name != "dfp")


def test_a_caller_who_computes_in_64_bits_gets_the_same_chunks(run):
    folder, spec, state = run
    save(folder / FINAL_STATE, state, spec.digest(), {"step": 7})
    chunks = dfp.load_policy(folder)(STATES, seed=3)
    with jax.enable_x64(True):
        policy = dfp.load_policy(folder)
        again = policy(STATES.astype(np.float64), seed=3)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(policy.state.critic)} == {"float32"}
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, chunks)


def test_a_running_one_gives_its_newest_checkpoint(run):
    folder, spec, state = run
    with pytest.raises(CheckpointError, match="nothing is saved yet"):
        dfp.load_policy(folder)
    rotation = Rotation(folder, spec.digest())
    for step in (10, 20):
        rotation.save(state, {"step": step})
    assert dfp.load_policy(folder).step == 20


def test_bad_input_is_named(run, tmp_path):
    folder, spec, state = run
    save(folder / FINAL_STATE, state, spec.digest(), {"step": 7})
    with pytest.raises(ValueError, match=r"observation: .*\(5,\).*\[28\]"):
        dfp.load_policy(folder)(np.zeros(5), seed=0)
    (folder / FINAL_STATE).unlink()
    (folder / METRICS).touch()
    (folder / MANIFEST).write_text(json.dumps({"spec": json.loads(spec.canonical())}))
    with pytest.raises(CheckpointError, match=r"agent\.npz: .*: python"):
        dfp.load_policy(folder)
    with pytest.raises(ConfigError, match="no run was started here"):
        dfp.load_policy(tmp_path / "nowhere")
