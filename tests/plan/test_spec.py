"""A run's settings: the paper's numbers, and the identity that its digest stands for."""

import json
from pathlib import Path

import pytest
from support.shipped import CATALOGUE, PAPER, content

from dfp.plan.catalogue import agent_for, parse_config, run_spec
from dfp.spec import ConfigError, parse_spec


def test_table_5_shared_block():
    assert PAPER.training.model_dump() == {
        "batch_size": 256,
        "discount": 0.99,
        "learning_rate": 3e-4,
        "target_update_rate": 5e-3,
        "offline_steps": 1_000_000,
    }
    assert PAPER.network.model_dump() == {"width": 512, "depth": 4, "ensemble_size": 2}
    assert PAPER.online.model_dump() == {"steps": 1_000_000, "warmup_steps": 5_000, "buffer_capacity": 2_000_000}
    assert PAPER.evaluation.model_dump() == {"interval": 100_000, "episodes": 100}
    assert (len(PAPER.tasks), len(PAPER.seeds)) == (12, 5)


@pytest.mark.parametrize(
    ("task", "best_of", "bandwidths", "positives"),
    [("cube-double-task2", 16, (0.05,), 4), ("lift", 4, (0.005, 0.05), 2), ("can", 4, (0.005, 0.05), 2)],
)
def test_table_5_dfp_block(task, best_of, bandwidths, positives):
    agent = agent_for("dfp", task, CATALOGUE).model_dump()
    assert (agent["chunk"], agent["samples"], agent["best_of"], agent["bandwidths"]) == (5, 8, best_of, bandwidths)
    assert agent["top_k"] == {"weight": 0.5, "candidates": 16, "positives": positives, "ema_rate": 1e-4}
    assert agent["normalisation"] == "joint"


@pytest.mark.parametrize(
    ("method", "task", "chunk", "best_of"),
    [
        ("bfn", "cube-double-task2", 1, 4),
        ("bfn", "lift", 1, 4),
        ("qc-bfn", "cube-double-task2", 5, 32),
        ("qc-bfn", "lift", 5, 16),
    ],
)
def test_samples_of_bfn_are_those_of_q_chunking(method, task, chunk, best_of):
    agent = agent_for(method, task, CATALOGUE).model_dump()
    assert (agent["chunk"], agent["best_of"], agent["flow_steps"]) == (chunk, best_of, 10)


def test_mvp_constraint_is_off_on_cube_triple_only():
    weights = {task: agent_for("mvp", task, CATALOGUE).model_dump()["ivc_weight"] for task in PAPER.tasks}
    assert {task for task, weight in weights.items() if weight == 0} == {f"cube-triple-task{k}" for k in (2, 3, 4)}


def test_a_spec_survives_its_json():
    spec = run_spec(PAPER, CATALOGUE, "square", "dfp", 3)
    assert parse_spec(spec.canonical()) == spec
    assert parse_spec(spec.pretraining().canonical()) == spec.pretraining()


def test_no_path_or_display_name_in_a_spec():
    text = run_spec(PAPER, CATALOGUE, "cube-double-task2", "dfp", 0).canonical()
    assert "results" not in text
    assert "label" not in text
    assert str(Path.home()) not in text


def test_a_number_for_a_list_is_a_list_of_one():
    spec = run_spec(PAPER, CATALOGUE, "lift", "dfp_h=0.1", 0)
    assert spec.agent.model_dump()["bandwidths"] == (0.1,)
    listed = spec.model_copy(update={"agent": spec.agent.model_copy(update={"bandwidths": (0.1,)})})
    assert spec.digest() == listed.digest()
    assert parse_config(content() | {"seeds": 3}, "c.yaml").seeds == [3]


def test_digests_of_known_runs():
    """Stamps on checkpoints that exist: a change here makes every finished run another run."""
    digests = {
        method: run_spec(PAPER, CATALOGUE, "lift", method, 0).digest()[:16] for method in ("dfp", "mvp-topk", "fql")
    }
    assert digests == {"dfp": "843dc0a2590b98e0", "mvp-topk": "f0a5618d3a5b2a0a", "fql": "d4be6e3acd30853b"}


def test_a_pretraining_has_no_online_part():
    spec = run_spec(PAPER, CATALOGUE, "can", "dfp", 0)
    broken = json.loads(spec.canonical()) | {"online": None}
    with pytest.raises(ConfigError, match="'online' is given for stage 'finetune'"):
        parse_spec(json.dumps(broken))
