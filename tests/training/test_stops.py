"""What stops a run before it could end in wrong numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_runs import RandomShards, make_spec, options

from dfp.runs.attempts import read_attempts
from dfp.spec import ConfigError
from dfp.tasks import Dataset
from dfp.training import offline, session, stages
from dfp.training.session import Session
from dfp.training.updates import Diagnostics


@pytest.fixture(autouse=True)
def _random_data(monkeypatch):
    monkeypatch.setattr(offline, "ShardReader", RandomShards)


def test_a_loss_that_is_not_finite_stops_with_step_term_and_spec(tmp_path, monkeypatch):
    class Poisoned(RandomShards):
        def read(self, shard) -> Dataset:
            data = super().read(shard)
            data.rewards[:] = np.inf
            return data

    monkeypatch.setattr(offline, "ShardReader", Poisoned)
    with pytest.raises(stages.TrainingError, match=r"(critic_loss|target_mean) .*step 0; .*spec \{"):
        stages.pretrain(make_spec().pretraining(), tmp_path / "pre", options())
    assert not (tmp_path / "pre" / "metrics.csv").exists()


def test_a_parameter_that_is_not_finite_stops_though_every_term_is(tmp_path):
    with Session(make_spec().pretraining(), tmp_path / "pre", options(), 40) as session:
        state = jax.jit(session.agent.init)(jax.random.key(0))
        diagnostics = session.diagnostics(state)
        session.check(state, diagnostics, 7)
        for part, number in (("actor", np.nan), ("critic", np.inf)):
            *others, last = jax.tree.leaves(getattr(state, part))
            leaves = [*others, last.at[(0,) * last.ndim].set(number)]
            broken = jax.tree.unflatten(jax.tree.structure(getattr(state, part)), leaves)
            with pytest.raises(stages.TrainingError, match="parameters is not finite at step 7; "):
                session.check(state._replace(**{part: broken}), diagnostics, 7)


def test_a_term_that_the_log_could_not_name_stops_before_the_first_update(tmp_path, monkeypatch):
    empty = Diagnostics(jnp.int32(0), {"q mean": jnp.zeros(())}, {"q mean": jnp.int32(-1)})
    monkeypatch.setattr(session, "no_diagnostics", lambda agent, state: empty)
    with pytest.raises(ConfigError, match=r"^agent 'dfp': a term cannot be called 'q mean' in train\.csv; allowed"):
        stages.pretrain(make_spec().pretraining(), tmp_path / "pre", options())
    assert read_attempts(tmp_path / "pre")[-1].step == 0


def test_the_papers_scale_without_a_gpu_stops_before_the_first_update(tmp_path):
    network = {"width": 512, "depth": 4, "ensemble_size": 2}
    training = make_spec().training.model_copy(update={"offline_steps": 1_000_000, "batch_size": 256})
    spec = make_spec(network=network, training=training).pretraining()
    with pytest.raises(stages.TrainingError, match=r"about \d+ hours .* --allow-cpu"):
        stages.pretrain(spec, tmp_path / "pre", options())
