"""Demonstrations of lift, can and square by scripted operators: what is recorded, and whether a replay ends alike."""

import json

import numpy as np
import pytest
from support.helpers import logged
from support.robomimic_small import CAN, DOWNLOAD, LIFT, SQUARE, h5py, record, small, store

from dfp.plan.catalogue import load_catalogue
from dfp.spec import ConfigError, DataSpec
from dfp.tasks import check, load_dataset, prepare_dataset
from dfp.tasks.interface import DataError
from dfp.tasks.robomimic import environment as adapter
from dfp.tasks.robomimic import experts, files

RECORDED = DataSpec(source="generate", episodes=6, seed=5)
KEYS = ("eef_pos", "eef_quat", "eef_quat_site", "gripper_qpos", "gripper_qvel", "joint_pos", "joint_pos_cos")
KEYS = sorted(["object", *(f"robot0_{key}" for key in (*KEYS, "joint_pos_sin", "joint_vel"))])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A demonstration of lift by each operator, recorded by two processes: the data's folder, and the file."""
    data_dir = tmp_path_factory.mktemp("recorded")
    path = prepare_dataset(LIFT, RECORDED, data_dir, 2)
    return data_dir, path.with_name("lift-mh-low_dim_v15.hdf5")


def test_a_generated_dataset_is_described(recorded):
    data_dir, file = recorded
    assert file.parent == data_dir / "generate" / "lift-mh-low_dim_v15-6-seed5-v1"
    assert sorted(path.name for path in file.parent.iterdir()) == [".lock", file.name, "manifest.json"]
    manifest = json.loads(file.with_name("manifest.json").read_text())
    assert (manifest["source"], manifest["episodes"], manifest["seed"]) == ("generate", 6, 5)
    assert manifest["env_args"] == adapter.env_args(LIFT)
    assert manifest["versions"]["robosuite"] == "1.5.1"
    assert list(manifest["levels"]) == list(experts.OPERATORS)
    assert all(level["demonstrations"] == 1 <= level["attempts"] for level in manifest["levels"].values())


def test_a_generated_file_has_robomimics_format(recorded):
    _, file = recorded
    with h5py.File(file) as archive:
        assert list(archive["data"]) == [f"demo_{number}" for number in range(6)]
        assert json.loads(archive["data"].attrs["env_args"]) == adapter.env_args(LIFT)
        total = 0
        for demo in archive["data"].values():
            rows = demo.attrs["num_samples"]
            total += rows
            assert demo["actions"].shape == (rows, 7)
            assert demo["states"].shape == (rows, 32)
            assert np.abs(demo["actions"]).max() <= 1
            assert set(np.sign(demo["actions"][:, 6])) == {-1.0, 1.0}
            assert demo["rewards"][()].tolist() == demo["dones"][()].tolist() == [0] * (rows - 5) + [1] * 5
            assert list(demo["obs"]) == list(demo["next_obs"]) == KEYS
            assert demo.attrs["model_file"].startswith("<mujoco")
        assert archive["data"].attrs["total"] == total
        masks = {name: names[()].tolist() for name, names in archive["mask"].items()}
    assert masks["better"] == [b"demo_0", b"demo_1"]
    assert masks["worse_operator_2"] == [b"demo_5"]
    assert len(masks) == 9


def test_a_generated_file_is_read_back(recorded):
    data_dir, file = recorded
    rows = load_dataset(LIFT, RECORDED, data_dir)
    with h5py.File(file) as archive:
        first = archive["data/demo_0"]
        count = first.attrs["num_samples"]
        parts = [first[f"obs/{key}"][()] for key in adapter.STATE_KEYS]
        assert np.array_equal(rows.observations[:count], np.concatenate(parts, axis=1).astype(np.float32))
        last = np.concatenate([first[f"next_obs/{key}"][-1] for key in adapter.STATE_KEYS])
    assert np.array_equal(rows.final_observations[4], last.astype(np.float32))
    assert rows.rewards[:count].tolist() == [-1] * (count - 5) + [0] * 5
    assert rows.terminals.sum() == 6 * 5  # each successful step ends an episode
    assert np.array_equal(rows.masks == 0, rows.terminals)


def test_a_demonstration_is_a_function_of_seed_and_number(recorded):
    """Here recorded by another process, after other demonstrations."""
    _, file = recorded
    for number in (4, 0):
        demo = experts.record_demonstration(LIFT, RECORDED.seed, number)
        with h5py.File(file) as archive:
            stored = archive[f"data/demo_{number}"]
            assert np.array_equal(stored["actions"], demo.actions)
            assert np.array_equal(stored["states"], demo.states)
            assert stored.attrs["model_file"] == demo.model
    other = experts.record_demonstration(LIFT, RECORDED.seed + 1, 0)
    assert not np.array_equal(other.states[0], demo.states[0])


@pytest.mark.parametrize("task", [CAN, SQUARE], ids=["can", "square"])
def test_better_operators_solve_the_harder_tasks(task):
    demo = experts.record_demonstration(task, 0, 0)
    assert demo.attempts == 1
    assert demo.rewards.tolist() == [0] * (len(demo.rewards) - 5) + [1] * 5
    assert len(demo.rewards) < task.max_episode_steps


def test_a_replay_succeeds_again(recorded):
    data_dir, _ = recorded
    with logged() as lines:
        found = check(LIFT, RECORDED, data_dir, 4)
    assert found == ("lift", 4, 4, 4, 4)
    assert found.summary() == "lift: passed: 4 of 4 successes again, 4 of 4 exactly: as recorded"
    assert lines[0] == "lift-mh-low_dim_v15.hdf5, demo_0: success, exactly"


def test_a_replay_of_other_actions_fails(recorded, tmp_path):
    _, file = recorded
    with h5py.File(file) as theirs, h5py.File(tmp_path / "small.hdf5", "w") as ours:
        ours.create_group("data")
        ours["data"].attrs.update(theirs["data"].attrs)
        theirs.copy("data/demo_0", ours["data"])
        rows = ours["data/demo_0"].attrs["num_samples"]
        ours["data"].attrs["total"] = rows
        ours["data/demo_0/actions"][:, 6] = -1  # a hand that never closes
    record(tmp_path, (tmp_path / "small.hdf5").read_bytes())
    found = check(LIFT, DOWNLOAD, tmp_path, None)
    assert (found.recorded, found.reproduced, found.passed) == (1, 0, False)
    assert found.summary().startswith("lift: FAILED: 0 of 1 successes again, 0 of 1 exactly: another simulator")


def test_a_replay_needs_models_and_robomimic(tmp_path):
    record(tmp_path, store(tmp_path / "small.hdf5", small()))
    with pytest.raises(DataError, match=r"demo_0 .*'model_file'"):
        check(LIFT, DOWNLOAD, tmp_path, None)
    cube = load_catalogue().tasks["cube-single-task2"].spec
    with pytest.raises(
        ConfigError,
        match=r"'cube-single-task2': .*'ogbench'.*; allowed: .*'robomimic'$",
    ):
        check(cube, DOWNLOAD, tmp_path, None)


def test_robomimics_own_loader_reads_the_same(recorded):
    dataset = pytest.importorskip("robomimic.utils.dataset", reason="the robomimic package is not installed")
    data_dir, file = recorded
    theirs = dataset.SequenceDataset(
        hdf5_path=str(file), obs_keys=list(adapter.STATE_KEYS), dataset_keys=("actions", "rewards", "dones")
    )
    ours = load_dataset(LIFT, RECORDED, data_dir)
    for row in range(0, len(theirs), 37):
        item = theirs[row]
        state = np.concatenate([item["obs"][key][0] for key in adapter.STATE_KEYS])
        assert np.array_equal(ours.observations[row], state.astype(np.float32))
        assert ours.rewards[row] == item["rewards"][0] - 1
        assert ours.terminals[row] == bool(item["dones"][0])


def test_what_a_file_says_of_attempts_is_by_mask(recorded):
    _, file = recorded
    attempts = files.read_attempts(file, LIFT)
    assert attempts["better"] == attempts["better_operator_1"] + attempts["better_operator_2"]
