"""The release beside ours. A small stand-in has the interface of the authors' code; the code itself is not here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dfp.ops import bench, beside, release_clock
from dfp.plan.catalogue import CATALOGUE, load_catalogue, load_config, run_spec
from dfp.plan.experiments import stage_of
from dfp.spec import ConfigError

FILES = {
    "agents/__init__.py": "from agents.drift import Agent\nagents = {'drift': Agent}\n",
    "agents/drift.py": """
import types
def get_config():
    return {"lr": 0.0, "alpha": 0.01, "gen_per_label": 1, "actor_hidden_dims": (1,)}
class Agent:
    @classmethod
    def create(cls, seed, observation, action, config):
        agent = cls()
        agent.config, agent.updates, agent.phase = config, 0, "offline"
        agent.network = types.SimpleNamespace(params=())
        assert observation.shape == (28,) and action.shape == (5,)
        return agent
    def switch_config_to_online(self):
        self.phase = "online"
        return self
    def update(self, batch):
        self.updates += 1
        assert batch["size"] == self.config["batch_size"] and batch["length"] == self.config["horizon_length"]
        text = f"{self.phase} {self.updates} {self.config['gen_per_label']} {self.config['alpha']} "
        open(__file__ + ".seen", "w").write(text + str(self.config["actor_hidden_dims"]))
        return self, {}
""",
    "utils/__init__.py": "",
    "utils/datasets.py": """
class Dataset(dict):
    @classmethod
    def create(cls, **columns):
        return cls(columns)
    def sample(self, size):
        return {name: column[0] for name, column in self.items()}
    def sample_sequence(self, size, length, discount):
        return {"size": size, "length": length}
""",
    "config/agent/drift.yaml": "agent_name: drift\nalpha: 1.0\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def spec_of(method: str):
    catalogue = load_catalogue()
    stage = stage_of(method, catalogue)
    spec = run_spec(load_config(CATALOGUE / "config.yaml"), catalogue, "cube-single-task2", method, 0, stage)
    return bench.resized(spec, width=8, depth=2, batch=4)


def test_its_configuration_is_the_same_work(folder):
    """Its defaults, then its file, then ours; a line in is so many updates, and as many seconds come out."""
    with beside.Release(
        folder, Path(sys.executable), spec_of("dfp"), bench.random_rows(spec_of("dfp")), "online"
    ) as it:
        it.advance(2)
        it.advance(3)
    assert (folder / "agents/drift.py.seen").read_text() == "online 5 8 1.0 (8, 8)"


def test_the_settings_of_each_method():
    drift = beside.release_settings(spec_of("dfp"))
    assert drift["agent"] == "drift"
    assert drift["config"] == {
        "actor_hidden_dims": [8, 8], "value_hidden_dims": [8, 8], "num_qs": 2, "batch_size": 4, "lr": 3e-4,
        "discount": 0.99, "tau": 5e-3, "horizon_length": 5, "action_chunking": True, "actor_type": "best-of-n",
        "actor_num_samples": 16, "q_bon": 16, "online_n_samples": 16, "alpha_pos": 0.5, "actor_ema_tau": 1e-4,
        "gen_per_label": 8, "drift_temps": [0.05], "online_drift_mode": "hard", "online_neg_samples": 0,
        "online_pos_samples": 4,
    }  # fmt: skip
    assert beside.release_settings(spec_of("dfp-no-topk"))["config"]["online_drift_mode"] == "none"
    assert beside.release_settings(spec_of("mvp"))["config"]["online_top_k"] == 0
    assert beside.release_settings(spec_of("mvp-topk"))["config"]["online_top_k"] == 4
    one_action, chunk = (beside.release_settings(spec_of(method)) for method in ("fql", "qc-fql"))
    assert (one_action["agent"], one_action["config"]["actor_type"]) == ("acfql", "distill-ddpg")
    assert (one_action["config"]["horizon_length"], one_action["config"]["action_chunking"]) == (1, False)
    assert (chunk["config"]["horizon_length"], chunk["config"]["flow_steps"]) == (5, 10)
    flow = beside.release_settings(spec_of("qc-bfn"))["config"]
    assert (flow["actor_type"], flow["q_bon"]) == ("best-of-n", 32)


def test_its_rows_are_ours_with_each_next_observation():
    rows = bench.random_rows(spec_of("dfp"), 2000)
    columns = beside.release_rows(rows)
    assert np.array_equal(columns["next_observations"][998], rows.observations[999])
    assert np.array_equal(columns["next_observations"][999], rows.final_observations[0])
    assert np.array_equal(columns["next_observations"][1999], rows.final_observations[1])
    assert np.flatnonzero(columns["terminals"]).tolist() == [999, 1999]


def test_a_folder_that_is_no_release_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no agents/drift\.py"):
        beside.Release(tmp_path, Path(sys.executable), spec_of("dfp"), bench.random_rows(spec_of("dfp")), "offline")
    with pytest.raises(ConfigError, match="the release has no 'iql'"):
        beside.release_settings(spec_of("iql"))


def test_a_release_that_fails_says_why_in_one_line(folder):
    (folder / "agents/__init__.py").write_text("raise ImportError('No module named distrax')")
    spec = spec_of("dfp")
    with (
        beside.Release(folder, Path(sys.executable), spec, bench.random_rows(spec), "offline") as release,
        pytest.raises(beside.ReleaseError, match=r"ended: ImportError: No module named distrax$"),
    ):
        release.advance(1)


def test_its_program_needs_nothing_of_ours(folder):
    """It runs under a Python that has no dfp."""
    rows = folder / "rows.npz"
    spec = spec_of("dfp")
    np.savez(rows, **beside.release_rows(bench.random_rows(spec, 2000)))  # pyright: ignore[reportArgumentType]
    program = (
        "import runpy, sys; sys.modules['dfp'] = None; sys.argv = sys.argv[1:]; "
        f"runpy.run_path({release_clock.__file__!r}, run_name='__main__')"
    )
    arguments = ["clock", folder, rows, json.dumps(beside.release_settings(spec)), "offline"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        input="1\n1\n", capture_output=True, text=True, timeout=60, check=True, env=os.environ,
    )  # fmt: skip
    assert len([float(line) for line in done.stdout.splitlines()]) == 2
