"""Robomimic's own files: read as they are meant, fetched, and refused where they are of something else."""

import copy
import hashlib
import http.server
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from support.robomimic_small import CAN, DOWNLOAD, LIFT, SQUARE, h5py, record, small, store

from dfp.errors import one_line
from dfp.tasks import (
    download,
    load_dataset,
    prepare_dataset,
    suite_of,
)
from dfp.tasks.interface import DataError
from dfp.tasks.robomimic import environment as adapter


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
    (changed("actions", poked(np.nan)), "demo_1/actions holds nan in row 1; wanted numbers finite in float32"),
    (changed("next_obs/object", poked(np.inf)), "demo_1/next_obs/object holds inf in row 1; wanted numbers finite"),
    (changed("obs/object", poked(1e39)), "demo_1/obs/object holds 1e+39 in row 1; wanted numbers finite in float32"),
    (changed("actions", poked(1.01)), "demo_1/actions leaves its range, -1 to 1, first in row 1; rescale the file"),
    (changed("obs/object", poked(7.0)), "demo_1/next_obs, row 0, is not the next row of obs"),
    (changed("rewards", lambda r: r + 0.3), "demo_1/rewards holds 0.3 in row 0; allowed: 0 and 1"),
    (changed("dones", lambda d: d * 2), "demo_1/dones holds 2 in row 1; allowed: 0 and 1"),
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


def test_what_the_system_says_is_no_damage_of_a_file(tmp_path):
    """A folder cannot be read, which h5py says in two lines with the time of day."""
    with pytest.raises(IsADirectoryError) as caught:
        suite_of(LIFT).read_transitions(tmp_path, LIFT)
    assert one_line(caught.value) == f"{tmp_path}: a folder is in the place of a file; move it away"


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
        self.send_header("ETag", '"1"')
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
    path = prepare_dataset(LIFT.model_copy(update={"rows": 5}), DOWNLOAD, tmp_path / "data", 1)
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
        prepare_dataset(task, DOWNLOAD, tmp_path / "data", 1)
    store(target, small(CAN), CAN)
    assert len(asked) == 1
    prepare_dataset(task, DOWNLOAD, tmp_path / "data", 1)
    assert len(asked) == 1
    assert len(load_dataset(task, DOWNLOAD, tmp_path / "data").rewards) == 5


def test_the_published_files_address():
    assert suite_of(SQUARE).origin(SQUARE, "").urls == {
        "square-mh-low_dim_v15.hdf5": "https://huggingface.co/datasets/robomimic/robomimic_datasets/resolve/main/"
        "v1.5/square/mh/low_dim_v15.hdf5"
    }
