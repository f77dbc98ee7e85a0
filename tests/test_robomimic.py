"""Robomimic's tasks: robosuite's own episodes bit for bit, robomimic's own files, and nothing else accepted."""

import copy
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from dfp.catalogue import load_catalogue
from dfp.spec import ConfigError, DataSpec, TaskSpec
from dfp.tasks import (
    Step,
    check,
    download,
    load_dataset,
    make_environment,
    manifest_path,
    prepare_dataset,
    shard_count,
)
from dfp.tasks import robomimic as adapter
from dfp.tasks.dataset import DataError

if adapter.installed_versions()["robosuite"] == "none":  # not by importing it: it chooses a renderer for everybody
    pytest.skip("robosuite is not installed: uv sync --extra robomimic", allow_module_level=True)
h5py = pytest.importorskip("h5py", reason="h5py is not installed: uv sync --extra robomimic")

from dfp.tasks import robomimic_experts, robomimic_files  # noqa: E402  (need h5py)

TASKS = {key: load_catalogue().tasks[key].spec for key in ("lift", "can", "square")}
LIFT, CAN, SQUARE = TASKS.values()
OBJECT_WIDTHS = {"lift": 10, "can": 14, "square": 14}
DOWNLOAD = DataSpec(source="download")


def ignore(line: str) -> None:
    pass


# --------------------------------------------------------------------------- environments


@pytest.fixture(scope="module", params=["lift", "can", "square"])
def environment(request):
    made = make_environment(TASKS[request.param])
    yield made
    made.close()


@pytest.fixture(scope="module")
def lift():
    made = make_environment(LIFT)
    yield made
    made.close()


def random_actions(seed: int, steps: int) -> np.ndarray:
    """They lead down, where something can be touched."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, 7)).astype(np.float32)
    actions[:, 2] -= 0.3
    return actions


def play(environment, seed: int, steps: int) -> list[Step]:
    """An episode of random actions, as what one sees of it; the reset comes first."""
    first = Step(environment.reset(seed), 0.0, False, False, False)
    return [first, *(environment.step(action) for action in random_actions(seed, steps))]


def assert_bit_equal(episode: list[Step], other: list[Step]) -> None:
    for step, twin in zip(episode, other, strict=True):
        assert step.observation.tobytes() == twin.observation.tobytes()
        assert step[1:] == twin[1:]


def test_episodes_are_robosuites_own(environment):
    """robosuite with the published env_args: a model compiled for each episode, full physics, all observations."""
    task = environment._task
    theirs = adapter._robosuite().make(task.environment, **adapter.env_args(task)["env_kwargs"], renderer="mujoco")

    def same(step: Step, observations: dict) -> bool:
        parts = [observations[key] for key in list(adapter.STATE_KEYS)[:3]] + [observations["object-state"]]
        return step.observation.tobytes() == np.concatenate(parts).astype(np.float32).tobytes()

    for seed in (3, 4):
        ours = play(environment, seed, 30)
        with adapter._seeded(seed):
            theirs.reset()
        for step, action in zip(ours[1:], random_actions(seed, 30), strict=True):
            observations, reward, _, _ = theirs.step(action)
            assert same(step, observations)
            assert step.reward == reward - 1
        assert np.array_equal(theirs.sim.get_state().flatten(), environment.flat_state())
        with adapter._seeded(seed):
            theirs.reset()
        assert same(ours[0], theirs._get_observations(force_update=True))
    theirs.close()


def test_an_episode_is_a_function_of_its_seed_and_actions(environment):
    first = play(environment, seed=7, steps=25)
    sibling = environment.sibling()
    begun = sibling.reset(8)  # and left there, while its sibling plays
    for history in (1, 2):
        play(environment, seed=history, steps=4 * history)
    assert_bit_equal(first, play(environment, seed=7, steps=25))
    assert np.array_equal(sibling.observe(), begun)
    assert_bit_equal(first, play(sibling, seed=7, steps=25))
    assert not np.array_equal(first[0].observation, begun)
    sibling.close()


def test_numpys_global_stream_is_left_alone(lift):
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    lift.reset(1)
    make_environment(LIFT).close()
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_a_restored_episode_goes_where_it_went_and_leaves_nothing_behind(environment):
    fresh = play(environment, seed=5, steps=10)
    actions = np.random.default_rng(1).uniform(-1, 1, (10, 7))
    model = environment.record(9)
    state = environment.flat_state()
    assert str(Path(adapter.__file__).parents[2]) not in model
    first = [environment.step(action) for action in actions]
    environment.restore(model, state)
    assert np.array_equal(environment.flat_state(), state)
    assert_bit_equal(first, [environment.step(action) for action in actions])
    assert_bit_equal(fresh, play(environment, seed=5, steps=10))
    assert_bit_equal(fresh, play(environment, seed=5, steps=10))


def test_widths_and_types(environment):
    task = environment._task
    observation = environment.reset(2**40)
    step = environment.step(np.zeros(7, np.float32))
    assert observation.shape == step.observation.shape == (9 + OBJECT_WIDTHS[task.key],) == (task.observation_size,)
    assert observation.dtype == step.observation.dtype == np.float32
    assert [type(value) for value in step[1:]] == [float, bool, bool, bool]
    assert environment.simulator.action_dim == task.action_size == 7
    assert (LIFT.max_episode_steps, CAN.max_episode_steps, SQUARE.max_episode_steps) == (300, 300, 400)


def test_the_first_action_moves_the_hand_where_it_points(lift):
    start = lift.reset(0)
    for _ in range(10):
        step = lift.step(np.array([0, 1, 0, 0, 0, 0, -1], np.float32))
    x, y, z = step.observation[:3] - start[:3]
    assert 0.05 < y < 0.2  # metres, along the world's y axis
    assert abs(x) < 0.02
    assert abs(z) < 0.02


def test_the_cap_truncates_at_its_last_step():
    environment = make_environment(LIFT.model_copy(update={"max_episode_steps": 3}))
    for _ in range(2):
        episode = play(environment, seed=0, steps=3)
        assert [step.truncated for step in episode] == [False, False, False, True]
        assert [step[1:3] for step in episode[1:]] == [(-1.0, False)] * 3
    environment.close()


def place(environment) -> None:
    """Put the task's object where it succeeds, and the hand away from it."""
    joint, pose = {
        "lift": ("cube_joint0", (0.0, 0.0, 0.90)),
        "can": ("Can_joint0", (0.20, 0.41, 0.87)),  # over its quarter of the second bin
        "square": ("SquareNut_joint0", (0.23, 0.10, 0.85)),  # round the square peg
    }[environment._task.key]
    environment.simulator.sim.data.set_joint_qpos(joint, np.array([*pose, 1, 0, 0, 0]))


def test_the_step_that_succeeds_is_rewarded_and_ends_the_episode(environment):
    environment.reset(0)
    before = environment.step(np.zeros(7, np.float32))
    assert before[1:] == (-1.0, False, False, False)
    place(environment)
    assert environment.step(np.zeros(7, np.float32))[1:] == (0.0, True, False, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation_size": 23}, "has observation_size 19, but the task says 23"),
        ({"action_size": 5}, "has action_size 7, but the task says 5"),
        ({"environment": "Door"}, "is none of Robomimic's; allowed: Lift, PickPlaceCan, NutAssemblySquare"),
        ({"success_timing": "pre"}, "judges success after the action; allowed for success_timing: post"),
    ],
)
def test_a_task_that_is_not_the_environments_is_refused(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_environment(LIFT.model_copy(update=change))
    assert "task 'lift'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_or_no_simulator_is_refused(monkeypatch):
    monkeypatch.setitem(adapter.SIMULATOR, "robosuite", "1.4.1")
    with pytest.raises(ConfigError, match=r"^package 'robosuite': found version 1\.5\.1, wanted 1\.4\.1$"):
        make_environment(LIFT)
    monkeypatch.setattr(adapter, "installed_versions", lambda: {"robosuite": "none", "mujoco": "3.7.0"})
    with pytest.raises(ConfigError, match=r"^package 'robosuite': not installed; .*`uv sync --extra robomimic`$"):
        make_environment(LIFT)


def test_workers_make_no_opengl_context_and_print_nothing():
    script = (
        "import os, sys, numpy; from dfp.catalogue import load_catalogue; from dfp.tasks import make_environment; "
        "environment = make_environment(load_catalogue().tasks['lift'].spec); "
        "environment.reset(0); environment.step(numpy.zeros(7)); environment.sibling().close(); "
        "print([name for name in ('jax', 'flax', 'OpenGL', 'mujoco.egl') if name in sys.modules], "
        "os.environ.get('MUJOCO_GL'), environment.simulator.viewer, "
        "environment.simulator.sim._render_context_offscreen)"
    )
    surroundings = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MUJOCO_GL")}
    run = subprocess.run(
        [sys.executable, "-c", script], env=surroundings, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[] None None None\n"
    assert run.stderr == ""


# --------------------------------------------------------------------------- files


def small(task: TaskSpec = LIFT) -> dict[str, dict]:
    """Two demonstrations, of three and of two transitions. Row t of demo d shows the state 10 d + t in every entry."""
    demos = {}
    for number, rows in enumerate((3, 2)):
        times = 10.0 * number + np.arange(rows + 1)
        widths = {**adapter.STATE_KEYS, "object": OBJECT_WIDTHS[task.key], "robot0_joint_pos": 7}
        observed = {key: np.repeat(times[:, None], width, axis=1) for key, width in widths.items()}
        demos[f"demo_{number}"] = {
            "actions": np.repeat(np.array([0.25, -0.5, 1.0])[:rows, None], 7, axis=1),
            "states": np.repeat(times[:rows, None], 32, axis=1),
            "rewards": np.array([0.0, 1.0, 1.0])[:rows],
            "dones": np.array([0, 1, 1])[:rows],
            **{f"obs/{key}": column[:-1] for key, column in observed.items()},
            **{f"next_obs/{key}": column[1:] for key, column in observed.items()},
        }
    demos["demo_1"]["rewards"] = np.zeros(2)
    return demos


def store(file: Path, demos: dict[str, dict], task: TaskSpec = LIFT, env_args: dict | None = None, total=5) -> bytes:
    with h5py.File(file, "w") as archive:
        data = archive.create_group("data")
        for name, columns in demos.items():
            for key, column in columns.items():
                data.create_dataset(f"{name}/{key}", data=column)
            data[name].attrs["num_samples"] = len(columns["actions"])
        data.attrs["env_args"] = json.dumps(env_args or adapter.env_args(task))
        data.attrs["total"] = total
    return file.read_bytes()


def record(data_dir: Path, content: bytes, task: TaskSpec = LIFT) -> Path:
    """A downloaded dataset with one file, and a manifest that is true of its bytes."""
    path = manifest_path(task, DOWNLOAD, data_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f"{task.dataset}.hdf5")
    file.write_bytes(content)
    entry = {"name": file.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "rows": 5}
    manifest = {"dataset": task.dataset, "source": "download", "rows": 5, "files": [entry], "versions": {}}
    path.write_text(json.dumps(manifest))
    return file


def test_marked_steps_end_episodes_and_successes_end_the_task(tmp_path):
    record(tmp_path, store(tmp_path / "small.hdf5", small()))
    rows = load_dataset(LIFT, DOWNLOAD, tmp_path)
    assert rows.observations[:, 0].tolist() == [0, 1, 2, 10, 11]
    assert rows.observations.shape == (5, 19)
    # demo_0: a success and a mark at its second step, again at its last; demo_1: a mark, and no success.
    assert rows.terminals.tolist() == [False, True, True, False, True]
    assert rows.final_observations[:, -1].tolist() == [2, 3, 12]
    assert rows.rewards.tolist() == [-1, 0, 0, -1, -1]
    assert rows.masks.tolist() == [1, 0, 0, 1, 1]
    limit = np.float32(1 - 1e-5)
    assert rows.actions[:, 0].tolist() == [0.25, -0.5, limit, 0.25, -0.5]
    assert rows.terminals.dtype == bool
    for column in (rows.observations, rows.actions, rows.rewards, rows.masks, rows.final_observations):
        assert column.dtype == np.float32
    assert shard_count(LIFT, DOWNLOAD, tmp_path) == 1


def test_a_state_is_the_keys_in_their_order(tmp_path):
    demos = small(CAN)
    for columns in demos.values():
        for group in ("obs", "next_obs"):
            for offset, key in enumerate(adapter.STATE_KEYS):
                columns[f"{group}/{key}"] += 100 * offset
    record(tmp_path, store(tmp_path / "small.hdf5", demos, CAN), CAN)
    first = load_dataset(CAN, DOWNLOAD, tmp_path).observations[0]
    assert first.tolist() == [0] * 3 + [100] * 4 + [200] * 2 + [300] * 14


def test_demonstrations_are_in_the_order_of_their_numbers(tmp_path):
    demos = small()
    record(tmp_path, store(tmp_path / "small.hdf5", {"demo_10": demos["demo_0"], "demo_9": demos["demo_1"]}))
    assert load_dataset(LIFT, DOWNLOAD, tmp_path).observations[:, 0].tolist() == [10, 11, 0, 1, 2]


def test_marks_are_the_readers_own_where_the_file_has_none_at_an_end(tmp_path):
    demos = small()
    demos["demo_1"]["dones"][:] = 0
    record(tmp_path, store(tmp_path / "small.hdf5", demos))
    assert load_dataset(LIFT, DOWNLOAD, tmp_path).terminals.tolist() == [False, True, True, False, True]


def changed(key: str, value):
    def change(demos: dict[str, dict]) -> None:
        demos["demo_1"][key] = value(demos["demo_1"][key].copy())

    return change


def without(key: str):
    return lambda demos: demos["demo_1"].pop(key)


def poked(value: float):
    def poke(column: np.ndarray) -> np.ndarray:
        column = column.astype(float)
        column[1, ..., 0] = value
        return column

    return poke


BAD_COLUMNS = [
    (without("obs/object"), "demo_1/obs/object is missing; found: robot0_eef_pos, robot0_eef_quat, robot0_"),
    (without("next_obs/object"), "demo_1/next_obs/object is missing; found: "),
    (without("dones"), "demo_1/dones is missing; found: actions, next_obs, obs, rewards, states"),
    (changed("obs/object", lambda o: o[:, :9]), "demo_1/obs/object has shape (2, 9), wanted (2, 10)"),
    (changed("obs/robot0_eef_pos", lambda o: o[:1]), "demo_1/obs/robot0_eef_pos has shape (1, 3), wanted (2, 3)"),
    (changed("rewards", lambda r: r[:1]), "demo_1/rewards has shape (1,), wanted (2,)"),
    (changed("rewards", lambda r: r[:, None]), "demo_1/rewards has shape (2, 1), wanted (2,)"),
    (changed("actions", lambda a: a[:, :6]), "demo_1/actions has shape (2, 6), wanted (2, 7)"),
    (changed("actions", poked(np.nan)), "demo_1/actions holds NaN or infinity, first in row 1"),
    (changed("next_obs/object", poked(np.inf)), "demo_1/next_obs/object holds NaN or infinity, first in row 1"),
    (changed("obs/object", poked(7.0)), "demo_1/next_obs, row 0, is not the next row of obs"),
    (changed("rewards", lambda r: r + 0.3), "demo_1/rewards holds other values than 0 and 1"),
    (changed("dones", lambda d: d * 2), "demo_1/dones holds other values than 0 and 1"),
    (changed("actions", lambda a: a.astype("S4")), "demo_1/actions has type |S4, wanted numbers"),
    (lambda demos: demos.update(copy=demos.pop("demo_1")), "'data' holds ['copy']; wanted demo_0, demo_1, ..."),
    (lambda demos: demos.pop("demo_1"), "'total' says 5 transitions, its demonstrations hold 3"),
    (lambda demos: demos.clear(), "'data' holds nothing; wanted demo_0"),
]


@pytest.mark.parametrize(("change", "message"), BAD_COLUMNS, ids=[message for _, message in BAD_COLUMNS])
def test_bad_columns_are_refused_by_name(tmp_path, change, message):
    demos = small()
    change(demos)
    refused(tmp_path, store(tmp_path / "small.hdf5", demos), message)


def refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = record(tmp_path, content)
    with pytest.raises(DataError, match=re.escape(f"{file}: {message}")) as caught:
        load_dataset(LIFT, DOWNLOAD, tmp_path)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == content


def altered(*path: str, value) -> dict:
    """The environment of lift with one setting changed."""
    arguments = copy.deepcopy(adapter.env_args(LIFT))
    place = arguments
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return arguments


ARM = ("env_kwargs", "controller_configs", "body_parts", "right")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (altered("env_version", value="1.4.1"), "recorded with env_version = '1.4.1', but task 'lift' has '1.5.1'"),
        (altered("env_name", value="Door"), "recorded with env_name = 'Door', but task 'lift' has 'Lift'"),
        (
            altered("env_kwargs", "robots", value=["Sawyer"]),
            "recorded with env_kwargs.robots = ['Sawyer'], but task 'lift' has ['Panda']",
        ),
        (altered("env_kwargs", "reward_shaping", value=True), "recorded with env_kwargs.reward_shaping = True"),
        (altered("env_kwargs", "control_freq", value=10), "recorded with env_kwargs.control_freq = 10"),
        (altered("env_kwargs", "table_friction", value=0), "recorded with env_kwargs.table_friction = 0, but task"),
        (altered(*ARM, "kp", value=300), "recorded with controller_configs.body_parts.right.kp = 300"),
        (altered(*ARM, "type", value="JOINT_VELOCITY"), "recorded with controller_configs.body_parts.right.type ="),
        (altered(*ARM, "input_type", value="absolute"), "recorded with controller_configs.body_parts.right.input_type"),
        (altered(*ARM, value=3), "'env_args' cannot be read (TypeError: "),
        ({"env_name": "Lift"}, "'env_args' cannot be read (KeyError: "),
    ],
)
def test_another_environment_is_refused(tmp_path, arguments, message):
    refused(tmp_path, store(tmp_path / "small.hdf5", small(), env_args=arguments), message)


def test_what_is_only_drawn_does_not_matter(tmp_path):
    arguments = altered("env_kwargs", "has_offscreen_renderer", value=True)
    arguments["env_kwargs"] |= {"robots": "Panda", "camera_names": ["agentview"]}
    del arguments["env_kwargs"]["lite_physics"]
    record(tmp_path, store(tmp_path / "small.hdf5", small(), env_args=arguments))
    assert len(load_dataset(LIFT, DOWNLOAD, tmp_path).rewards) == 5


def test_files_that_are_no_whole_hdf5_are_refused(tmp_path):
    whole = store(tmp_path / "small.hdf5", small())
    for content in (b"", b"<html>login</html>", whole[:-100], whole[:2000]):
        refused(tmp_path, content, "not a whole HDF5 file (")
    with h5py.File(tmp_path / "small.hdf5", "a") as archive:
        del archive["data"].attrs["env_args"]
    refused(tmp_path, (tmp_path / "small.hdf5").read_bytes(), "'data' has no attribute 'env_args'")
    with h5py.File(tmp_path / "other.hdf5", "w") as archive:
        archive.create_group("demos")
    refused(tmp_path, (tmp_path / "other.hdf5").read_bytes(), "'data' is missing; found: demos")


# --------------------------------------------------------------------------- downloading


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``content`` at ``path``, and closes the first connection after 1,000 bytes."""

    path_served = "/mirror/v1.5/lift/mh/low_dim_v15.hdf5"
    content = b""
    requests: list[str | None]

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.requests.append(asked)
        if self.path != self.path_served:
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start:] if start else self.content[:1000])
        return None

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a mirror of the published files, and what was asked of it."""
    asked: list[str | None] = []
    content = store(tmp_path / "published.hdf5", small())
    handler = type("Published", (Handler,), {"content": content, "requests": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/mirror"
        monkeypatch.setenv("DFP_ROBOMIMIC_URL", f"{url}/")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(download, "FIRST_PAUSE", 0.0)
        monkeypatch.setattr(download, "CHUNK", 100)
        yield url, asked, content
        server.shutdown()
        thread.join()


def test_download_is_resumed_and_described(tmp_path, server):
    url, asked, content = server
    path = prepare_dataset(LIFT.model_copy(update={"rows": 5}), DOWNLOAD, tmp_path / "data", 1, ignore)
    assert asked == [None, "bytes=1000-"]
    assert json.loads(path.read_text()) == {
        "dataset": "lift-mh-low_dim_v15",
        "source": "download",
        "url": f"{url}/v1.5/lift/mh/low_dim_v15.hdf5",
        "env_args": adapter.env_args(LIFT),
        "rows": 5,
        "files": [
            {
                "name": "lift-mh-low_dim_v15.hdf5",
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "rows": 5,
            }
        ],
        "versions": {"numpy": np.__version__, "mujoco": "3.7.0", "robosuite": "1.5.1"},
    }
    assert len(load_dataset(LIFT, DOWNLOAD, tmp_path / "data").rewards) == 5


def test_without_a_server_a_copy_by_hand_will_do(tmp_path, server):
    _, asked, _ = server
    task = CAN.model_copy(update={"rows": 5})
    target = tmp_path / "data/download/can-mh-low_dim_v15/can-mh-low_dim_v15.hdf5"
    with pytest.raises(
        DataError, match=re.escape(f"(404); name a mirror by DFP_ROBOMIMIC_URL, or copy the file to {target}")
    ):
        prepare_dataset(task, DOWNLOAD, tmp_path / "data", 1, ignore)
    store(target, small(CAN), CAN)
    assert len(asked) == 1
    prepare_dataset(task, DOWNLOAD, tmp_path / "data", 1, ignore)
    assert len(asked) == 1
    assert len(load_dataset(task, DOWNLOAD, tmp_path / "data").rewards) == 5


def test_the_published_files_address(monkeypatch):
    monkeypatch.delenv("DFP_ROBOMIMIC_URL", raising=False)
    assert download._origin(SQUARE).urls == {
        "square-mh-low_dim_v15.hdf5": "https://huggingface.co/datasets/robomimic/robomimic_datasets/resolve/main/"
        "v1.5/square/mh/low_dim_v15.hdf5"
    }


# --------------------------------------------------------------------------- generating and replaying

RECORDED = DataSpec(source="generate", episodes=6, seed=5)
KEYS = ("eef_pos", "eef_quat", "eef_quat_site", "gripper_qpos", "gripper_qvel", "joint_pos", "joint_pos_cos")
KEYS = sorted(["object", *(f"robot0_{key}" for key in (*KEYS, "joint_pos_sin", "joint_vel"))])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A demonstration of lift by each operator, recorded by two processes: the data's folder, and the file."""
    data_dir = tmp_path_factory.mktemp("recorded")
    path = prepare_dataset(LIFT, RECORDED, data_dir, 2, ignore)
    return data_dir, path.with_name("lift-mh-low_dim_v15.hdf5")


def test_a_generated_dataset_is_described(recorded):
    data_dir, file = recorded
    assert file.parent == data_dir / "generate" / "lift-mh-low_dim_v15-6-seed5-v1"
    assert sorted(path.name for path in file.parent.iterdir()) == [".lock", file.name, "manifest.json"]
    manifest = json.loads(file.with_name("manifest.json").read_text())
    assert (manifest["source"], manifest["episodes"], manifest["seed"]) == ("generate", 6, 5)
    assert manifest["env_args"] == adapter.env_args(LIFT)
    assert manifest["versions"]["robosuite"] == "1.5.1"
    assert list(manifest["levels"]) == list(robomimic_experts.OPERATORS)
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
        demo = robomimic_experts.record_demonstration(LIFT, RECORDED.seed, number)
        with h5py.File(file) as archive:
            stored = archive[f"data/demo_{number}"]
            assert np.array_equal(stored["actions"], demo.actions)
            assert np.array_equal(stored["states"], demo.states)
            assert stored.attrs["model_file"] == demo.model
    other = robomimic_experts.record_demonstration(LIFT, RECORDED.seed + 1, 0)
    assert not np.array_equal(other.states[0], demo.states[0])


@pytest.mark.parametrize("task", [CAN, SQUARE], ids=["can", "square"])
def test_better_operators_solve_the_harder_tasks(task):
    demo = robomimic_experts.record_demonstration(task, 0, 0)
    assert demo.attempts == 1
    assert demo.rewards.tolist() == [0] * (len(demo.rewards) - 5) + [1] * 5
    assert len(demo.rewards) < task.max_episode_steps


def test_a_replay_succeeds_again(recorded):
    data_dir, _ = recorded
    lines = []
    found = check(LIFT, RECORDED, data_dir, 4, lines.append)
    assert found == ("lift", 4, 4, 4, 4)
    assert found.verdict() == "lift: passed: 4 of 4 successes again, 4 of 4 exactly: as recorded"
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
    found = check(LIFT, DOWNLOAD, tmp_path, None, ignore)
    assert (found.recorded, found.reproduced, found.passed) == (1, 0, False)
    assert found.verdict().startswith("lift: FAILED: 0 of 1 successes again, 0 of 1 exactly: another simulator")


def test_a_replay_needs_models_and_robomimic(tmp_path):
    record(tmp_path, store(tmp_path / "small.hdf5", small()))
    with pytest.raises(DataError, match="demo_0 has no attribute 'model_file'; a replay needs the model"):
        check(LIFT, DOWNLOAD, tmp_path, None, ignore)
    cube = load_catalogue().tasks["cube-single-task2"].spec
    with pytest.raises(ConfigError, match="task 'cube-single-task2': only Robomimic's recordings can be replayed"):
        check(cube, DOWNLOAD, tmp_path, None, ignore)


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
    attempts = robomimic_files.read_attempts(file, LIFT)
    assert attempts["better"] == attempts["better_operator_1"] + attempts["better_operator_2"]
