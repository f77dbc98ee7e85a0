"""Any registered environment: its episodes as they are, its actions rescaled, and what is refused."""

import hashlib
import json
import re

import gymnasium
import numpy as np
import point_mass
import pytest
from support.helpers import DOWNLOAD, POINT, npz

from dfp.spec import ConfigError, DataSpec
from dfp.tasks import Step, load_dataset, make_environment, prepare_dataset, suite_of
from dfp.tasks.gym.environment import Bounds
from dfp.tasks.interface import DataError
from dfp.tasks.shards import ShardReader


@pytest.fixture
def point():
    environment = make_environment(POINT)
    yield environment
    environment.close()


# --------------------------------------------------------------------------- environments


def test_actions_are_mapped_onto_the_bounds(point):
    """The bounds are [-0.3, 0.1] and [-0.2, 0.2]: the middle of the first is no standstill."""
    start = point.reset(0).astype(np.float64)
    for action, shift in (
        ([0, 0], [-0.1, 0]),
        ([1, 1], [0.1, 0.2]),
        ([-1, -1], [-0.3, -0.2]),
        ([0.5, -0.5], [0, -0.1]),
    ):
        point.reset(0)
        assert point.step(np.array(action, np.float32)).observation == pytest.approx(start + shift, abs=1e-6)
    point.reset(0)
    assert point.step(np.array([7.0, 7.0])).observation == pytest.approx(
        (start[0] + 0.1, start[1] + 0.2), abs=1e-6
    )  # clipped


def test_bounds_expand_and_shrink_are_each_others_inverse():
    bounds = Bounds(np.array([-0.3, 2.0]), np.array([0.1, 6.0]))
    assert bounds.expand(np.array([0.0, 0.5])).tolist() == pytest.approx([-0.1, 5.0])
    assert bounds.shrink(np.array([0.1, 3.0])).tolist() == pytest.approx([1.0, -0.5])


def test_an_episode_is_a_function_of_its_seed_and_actions(point):
    def play(environment, seed: int) -> list[Step]:
        environment.reset(seed)
        return [environment.step(action) for action in np.random.default_rng(1).uniform(-1, 1, (5, 2))]

    sibling = point.sibling()
    first = play(point, 3)
    play(sibling, 4)
    for other in (play(point, 3), play(sibling, 3)):
        for step, twin in zip(first, other, strict=True):
            assert step.observation.tobytes() == twin.observation.tobytes()
            assert step[1:] == twin[1:]
    assert not np.array_equal(point.reset(3), point.reset(4))
    sibling.close()


def test_success_reward_cap_and_types(point):
    still = np.array([0.5, 0.0])
    point.reset(0)
    steps = [point.step(still) for _ in range(20)]
    assert [step.truncated for step in steps] == [False] * 19 + [True]
    assert steps[0][1:] == (-1.0, False, False, False)
    assert [type(value) for value in steps[0][1:]] == [float, bool, bool, bool]
    assert steps[0].observation.dtype == np.float32
    point.reset(0)
    point.simulator.unwrapped.place = np.array([0.05, 0.0])
    assert point.step(still)[1:] == (0.0, True, False, True)


def test_a_cap_that_is_not_registered_is_the_tasks():
    environment = make_environment(POINT.model_copy(update={"environment": "point_mass:Uncapped-v0"}))
    environment.reset(0)
    assert [environment.step(np.array([0.5, 0.0])).truncated for _ in range(20)] == [False] * 19 + [True]
    environment.close()


def test_robotics_name_of_the_flag_counts_too(point, monkeypatch):
    step = point_mass.PointMass.step

    def renamed(self, action):
        *result, info = step(self, action)
        return *result, {"is_success": info["success"]}

    monkeypatch.setattr(point_mass.PointMass, "step", renamed)
    point.reset(0)
    point.simulator.unwrapped.place = np.zeros(2)
    assert point.step(np.array([0.5, 0.0])).success


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"environment": "point_mass:Silent-v0"},
            "the info of a step has no 'success' or 'is_success', so nothing can be",
        ),
        ({"environment": "point_mass:Restless-v0"}, "two episodes with one seed and the same actions differ"),
        ({"environment": "point_mass:Reusing-v0"}, "two episodes with one seed and the same actions differ"),
        ({"environment": "point_mass:Unbounded-v0"}, "actions lie between -inf and inf; wanted finite bounds"),
        (
            {"environment": "point_mass:Pictures-v0"},
            "observations are a Box of shape (8, 8, 3); wanted a Box of one dim",
        ),
        ({"environment": "point_mass:Buttons-v0"}, "actions are a Discrete of shape (); wanted a Box of one dimension"),
        ({"environment": "point_mass:Nowhere-v0"}, "Nowhere"),
        ({"environment": "no_such_package:PointMass-v0"}, "No module named 'no_such_package'"),
        ({"environment": "CartPole-v1", "max_episode_steps": 500}, "actions are a Discrete of shape ()"),
        ({"observation_size": 3}, "has observation_size 2, but the task says 3"),
        ({"action_size": 1}, "has action_size 2, but the task says 1"),
        ({"max_episode_steps": 21}, "has max_episode_steps 20, but the task says 21"),
        ({"success_timing": "pre"}, "a step reports its own success; allowed for success_timing: post"),
    ],
)
def test_what_cannot_be_a_task_is_refused_by_name(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        make_environment(POINT.model_copy(update=change))
    place = f"task 'point-mass': environment '{change.get('environment', POINT.environment)}'"
    assert str(caught.value).startswith(place)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------- files


def small() -> dict[str, np.ndarray]:
    """Two episodes, of two transitions and of one; the first ends with success. Row i has observation i."""
    return {
        "observations": np.repeat(np.arange(5, dtype=np.float32)[:, None], 2, axis=1),
        "actions": np.array([[-0.3, -0.2], [0.1, 0.2], [9, 9], [-0.1, 0.1], [9, 9]], np.float32),
        "rewards": np.array([-1, 0, 9, -0.5, 9], np.float32),
        "masks": np.array([1, 0, 1, 1, 1], np.float32),
        "terminals": np.array([0, 0, 1, 0, 1], bool),
    }


def copied(data_dir, content: dict[str, np.ndarray] | None = None):
    """The file where a person would put it."""
    file = data_dir / "download/point-mass-walks/point-mass-walks.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(npz(content or small()))
    return file


def test_a_copied_file_is_recorded_and_read(tmp_path):
    file = copied(tmp_path)
    path = prepare_dataset(POINT, DOWNLOAD, tmp_path, 1)
    content = file.read_bytes()
    entry = {
        "name": "point-mass-walks.npz",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "rows": 3,
    }
    assert json.loads(path.read_text()) == {
        "dataset": "point-mass-walks",
        "source": "download",
        "rows": 3,
        "files": [entry],
        "versions": {"numpy": np.__version__, "gymnasium": gymnasium.__version__},
    }
    rows = load_dataset(POINT, DOWNLOAD, tmp_path)
    assert rows.observations[:, 0].tolist() == [0, 1, 3]
    assert rows.final_observations[:, 0].tolist() == [2, 4]
    limit = 1 - 1e-5
    assert rows.actions.ravel().tolist() == pytest.approx([-limit, -limit, limit, limit, 0.0, 0.5], abs=1e-6)
    assert np.abs(rows.actions).max() < 1
    assert rows.rewards.tolist() == [-1, 0, -0.5]
    assert rows.masks.tolist() == [1, 0, 1]
    assert rows.terminals.tolist() == [False, True, True]
    for column in rows:
        assert column.dtype == (bool if column is rows.terminals else np.float32)


def test_rewards_of_several_files_keep_their_fractions(tmp_path):
    task = POINT.model_copy(update={"shards": 2, "rows": 6})
    folder = copied(tmp_path).parent
    for shard in range(2):
        (folder / f"point-mass-walks-{shard:03d}.npz").write_bytes(npz(small()))
    prepare_dataset(task, DOWNLOAD, tmp_path, 1)
    with ShardReader(task, DOWNLOAD, tmp_path) as reader:
        for _ in range(2):  # the second time from what the reader remembers
            assert reader.read(1).rewards.tolist() == [-1, 0, -0.5]


def test_a_file_that_is_not_there_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("DFP_GYMNASIUM_URL", raising=False)
    file = tmp_path / "download/point-mass-walks/point-mass-walks.npz"
    message = (
        f"{file}: no such file, and no address to fetch it from; copy it there, or name a mirror by DFP_GYMNASIUM_URL"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        prepare_dataset(POINT, DOWNLOAD, tmp_path, 1)
    assert suite_of(POINT).origin(POINT, "http://mirror").urls == {file.name: f"http://mirror/{file.name}"}


def test_nothing_records_its_data(tmp_path):
    with pytest.raises(ConfigError, match=r"'point-mass': .*'gymnasium'; allowed: sour"):
        prepare_dataset(POINT, DataSpec(source="generate", episodes=1, seed=0), tmp_path, 1)


def test_other_rows_than_the_task_says_are_refused(tmp_path):
    copied(tmp_path)
    with pytest.raises(DataError, match=r" 3 transitions.*'point-mass'.* 4 "):
        prepare_dataset(POINT.model_copy(update={"rows": 4}), DOWNLOAD, tmp_path, 1)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (
            "actions",
            [[0, 0], [0.11, 0], [0, 0], [0, 0], [0, 0]],
            "'actions' leaves its range, the bounds of the environment's action space, [-0.3",
        ),
        ("actions", np.zeros((5, 3)), "'actions' has shape (5, 3), wanted (5, 2)"),
        ("observations", np.zeros((5, 3)), "'observations' has shape (5, 3), wanted (5, 2)"),
        ("rewards", np.zeros(4), "'rewards' has shape (4,), wanted (5,)"),
        ("rewards", [0, np.nan, 0, 0, 0], "'rewards' holds nan in row 1; wanted numbers finite in float32"),
        ("masks", [0, 0.5, 0, 0, 0], "'masks' holds 0.5 in row 1; allowed: 0 and 1"),
        ("masks", None, "'masks' is missing; found: observations, actions, rewards, terminals"),
        ("terminals", [0, 0, 1, 0, 0], "'terminals' does not end with the end of an episode"),
    ],
)
def test_bad_columns_are_refused_by_name(tmp_path, column, value, message):
    content = small()
    del content[column]
    if value is not None:
        content[column] = np.asarray(value, np.float32)
    file = copied(tmp_path, content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        suite_of(POINT).read_transitions(file, POINT)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
