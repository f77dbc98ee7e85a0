"""Datasets on disk: what is read, what is refused, and how files come to be."""

import fcntl
import hashlib
import http.server
import json
import re
import resource
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers import CUBE, DOUBLE, DOWNLOAD, WHOLE, columns, ignore, npz, record, small, wait_until

from dfp.spec import DataSpec, TaskSpec
from dfp.tasks import dataset, download, load_dataset, manifest_path, prepare_dataset, shard_count
from dfp.tasks.dataset import DataError

# --------------------------------------------------------------------------- reading


def test_rows_are_transitions(tmp_path):
    record(tmp_path, CUBE, npz(small()))
    rows = load_dataset(CUBE, DOWNLOAD, tmp_path)
    assert rows.observations[:, 0].tolist() == [0, 1, 2, 4, 5]
    assert rows.final_observations[:, 0].tolist() == [3, 6]
    assert rows.observations.shape == (5, 28)
    assert rows.final_observations.shape == (2, 28)
    assert rows.terminals.tolist() == [False, False, True, False, True]
    # In place within 0.04 m of 0.50, judged before the action: rows 2 (0.461) and 4 (0.539).
    assert rows.rewards.tolist() == [-1, -1, 0, 0, -1]
    assert rows.masks.tolist() == [1, 1, 0, 0, 1]
    limit = np.float32(1 - 1e-5)
    assert rows.actions[:, 0].tolist() == [0, 0.25, 0.5, limit, limit]
    assert rows.terminals.dtype == bool
    for column in (rows.observations, rows.actions, rows.rewards, rows.masks, rows.final_observations):
        assert column.dtype == np.float32


def test_two_cubes_are_rewarded_one_by_one_and_end_the_task_together(tmp_path):
    """Task 2 of cube-double wants (0.35, 0.1, 0.02) and (0.50, 0.1, 0.02), in this order."""
    here, there, away = [0.35, 0.1, 0.02], [0.50, 0.1, 0.02], [0.42, -0.1, 0.02]
    cubes = [away + away, here + away, away + there, here + there, there + here, away + away]
    record(tmp_path, DOUBLE, npz(columns(cubes, [0, 0, 0, 0, 0, 1], observation_size=37)))
    rows = load_dataset(DOUBLE, DOWNLOAD, tmp_path)
    assert rows.rewards.tolist() == [-2, -1, -1, 0, -2]
    assert rows.masks.tolist() == [1, 1, 1, 0, 1]


def test_memory_stays_near_the_result(tmp_path):
    """264 bytes a row, where the result alone takes 177: 1M rows of cube-double never need 400 MB."""
    count = 60_000
    terminals = np.zeros(count, bool)
    terminals[999::1000] = True
    content = {
        "observations": np.zeros((count, 37), np.float32),
        "actions": np.zeros((count, 5), np.float32),
        "terminals": terminals,
        "qpos": np.zeros((count, 28), np.float32),
    }
    record(tmp_path, DOUBLE, npz(content))
    load_dataset(DOUBLE, DOWNLOAD, tmp_path)  # the simulator that judges is made once
    tracemalloc.start()
    rows = load_dataset(DOUBLE, DOWNLOAD, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows.rewards) == count - 60
    assert peak / count < 280


def changed(name: str, value) -> bytes:
    content = small()
    content[name] = value(content[name])
    return npz(content)


def with_entry(value: float):
    def poke(column: np.ndarray) -> np.ndarray:
        column[5, 1] = value
        return column

    return poke


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed("observations", lambda o: o[:, :27]), "'observations' has shape (7, 27), wanted (7, 28)"),
        (changed("actions", lambda a: a[:, :4]), "'actions' has shape (7, 4), wanted (7, 5)"),
        (changed("qpos", lambda q: q[:, :20]), "'qpos' has shape (7, 20), wanted (7, 21)"),
        (changed("actions", lambda a: a[:6]), "'actions' has shape (6, 5), wanted (7, 5)"),
        (changed("terminals", lambda t: t[:4]), "'qpos' has shape (7, 21), wanted (4, 21)"),
        (changed("observations", with_entry(np.nan)), "'observations' holds NaN or infinity, first in row 5"),
        (changed("actions", with_entry(np.inf)), "'actions' holds NaN or infinity, first in row 5"),
        (changed("qpos", with_entry(-np.inf)), "'qpos' holds NaN or infinity, first in row 5"),
        (changed("terminals", lambda t: t & False), "'terminals' does not end with the end of an episode"),
        (changed("terminals", lambda t: t[:6]), "'terminals' does not end with the end of an episode"),
        (changed("terminals", lambda t: t[:0]), "'terminals' does not end with the end of an episode"),
        (changed("terminals", lambda t: t * 2), "'terminals' holds other values than 0 and 1"),
        (changed("terminals", lambda t: t | [0, 0, 0, 0, 1, 0, 0]), "the episode that ends at row 4 has no transition"),
        (changed("actions", lambda a: a.astype(str)), "'actions' has type <U32, wanted numbers"),
        (npz({k: v for k, v in small().items() if k != "qpos"}), "'qpos' is missing; found: observations, actions"),
        (npz(small())[:-200], "not a whole npz file (File is not a zip file)"),
        (npz(small())[:400] + b"?" + npz(small())[401:], "not a whole npz file"),
        (b"<html>login</html>", "not a whole npz file"),
        (b"", "not a whole npz file"),
        (changed("actions", lambda a: a.astype(object)), "not a whole npz file (Object arrays cannot be loaded"),
    ],
)
def test_bad_content_is_refused_by_name(tmp_path, content, message):
    file = record(tmp_path, CUBE, content)
    with pytest.raises(DataError, match=re.escape(f"{file}: {message}")) as caught:
        load_dataset(CUBE, DOWNLOAD, tmp_path)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == content


def test_bad_content_is_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    record(tmp_path, CUBE, changed("observations", lambda o: np.array([Trap()] * len(o), object)))
    with pytest.raises(DataError, match="Object arrays cannot be loaded"):
        load_dataset(CUBE, DOWNLOAD, tmp_path)


def test_a_file_other_than_the_recorded_one_is_refused(tmp_path):
    file = record(tmp_path, CUBE, npz(small()))
    other = changed("actions", lambda a: a + 1e-3)
    other = other[: file.stat().st_size].ljust(file.stat().st_size, b"\0")
    file.write_bytes(other)
    with pytest.raises(DataError, match=r"0\.npz: not the file its manifest records \(sha256 \w{12}\.\.\., recorded"):
        load_dataset(CUBE, DOWNLOAD, tmp_path)
    file.write_bytes(other[:-1])
    for use in (load_dataset, lambda *where: prepare_dataset(*where, 1, ignore)):
        with pytest.raises(DataError, match=r"0\.npz: not the file its manifest records \(\d+ bytes, recorded \d+\)"):
            use(CUBE, DOWNLOAD, tmp_path)
    assert file.read_bytes() == other[:-1]
    file.unlink()
    with pytest.raises(DataError, match=r"0\.npz: no such file.*run `python -m dfp data cube-single-task2 --config"):
        load_dataset(CUBE, DOWNLOAD, tmp_path)


def test_shards_are_the_manifests_files_in_order(tmp_path):
    second = small()
    second["observations"] += 100
    record(tmp_path, CUBE, npz(small()), npz(second))
    assert shard_count(CUBE, DOWNLOAD, tmp_path) == 2
    assert load_dataset(CUBE, DOWNLOAD, tmp_path, shard=1).observations[0, 0] == 100
    for shard in (2, -1):
        with pytest.raises(DataError, match=f"no shard {shard}; allowed: 0 to 1"):
            load_dataset(CUBE, DOWNLOAD, tmp_path, shard)


def test_a_folder_without_manifest_is_no_dataset(tmp_path):
    file = record(tmp_path, CUBE, npz(small()))
    file.with_name("manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json: no such dataset; run `python -m dfp data cube-single-task2"):
        load_dataset(CUBE, DOWNLOAD, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], "Invalid JSON"),
        (
            lambda text: text.replace('"source"', '"seeds": 1, "source"'),
            "unknown key 'seeds'; allowed: dataset, env_args",
        ),
        (lambda text: text.replace("cube-single-play-v0", "scene-play-v0"), "describes 'scene-play-v0', wanted 'cube-"),
    ],
)
def test_a_bad_manifest_is_refused(tmp_path, change, message):
    record(tmp_path, CUBE, npz(small()))
    path = manifest_path(CUBE, DOWNLOAD, tmp_path)
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=re.escape(f"{path}: ") + ".*" + message) as caught:
        load_dataset(CUBE, DOWNLOAD, tmp_path)
    assert "\n" not in str(caught.value)


def test_places(tmp_path):
    recorded = DataSpec(source="generate", episodes=12, seed=3)
    assert manifest_path(CUBE, DOWNLOAD, tmp_path) == tmp_path / "download/cube-single-play-v0/manifest.json"
    folder = "generate/cube-single-play-v0-12x1000-seed3-v1"
    assert manifest_path(CUBE, recorded, tmp_path) == tmp_path / folder / "manifest.json"
    assert dataset.file_names("cube-quadruple-play-100m-v0", 100)[::99] == [
        "cube-quadruple-play-v0-000.npz",
        "cube-quadruple-play-v0-099.npz",
    ]


def test_a_failed_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")

    def fail() -> None:
        with dataset.replacing(target) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match=r"data/download/cube-single-play-v0: cannot be written: Not a directory"):
        prepare_dataset(CUBE, DOWNLOAD, tmp_path / "data", 1, ignore)


# --------------------------------------------------------------------------- downloading


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files`` by path. ``faults`` are used up one per request: an int closes the connection after as many
    bytes, ``"busy"`` answers 503, ``"whole"`` ignores a range."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.faults: list[int | str] = []
        self.requests: list[tuple[str, str | None]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        asked = self.headers.get("Range")
        server.requests.append((self.path, asked))
        fault = server.faults.pop(0) if server.faults else None
        content = server.files.get(self.path)
        if fault == "busy" or content is None:
            return self.send_error(503 if fault == "busy" else 404)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and fault != "whole" else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: fault if isinstance(fault, int) else None])
        return None

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("DFP_OGBENCH_URL", f"{server.url}/ogbench/")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(download, "FIRST_PAUSE", 0.0)
        monkeypatch.setattr(download, "CHUNK", 100)
        server.files["/ogbench/cube-single-play-v0.npz"] = npz(small())
        yield server
        server.shutdown()
        thread.join()


def fetch(data_dir: Path, task: TaskSpec = CUBE, report=ignore) -> dict:
    return json.loads(prepare_dataset(task, DOWNLOAD, data_dir, 1, report).read_text())


def names(data_dir: Path) -> list[str]:
    return sorted(path.name for path in (data_dir / "download" / "cube-single-play-v0").iterdir())


PARTIAL = [".lock", "cube-single-play-v0.npz.part"]


def test_download(tmp_path, server):
    folder = tmp_path / "download" / "cube-single-play-v0"
    folder.mkdir(parents=True)
    (folder / ".manifest.json.99.tmp").write_text("left over by a killed writer")
    lines = []
    manifest = fetch(tmp_path, report=lines.append)
    content = server.files["/ogbench/cube-single-play-v0.npz"]
    assert (folder / "cube-single-play-v0.npz").read_bytes() == content
    assert names(tmp_path) == WHOLE
    assert manifest == {
        "dataset": "cube-single-play-v0",
        "source": "download",
        "url": f"{server.url}/ogbench/cube-single-play-v0.npz",
        "rows": 5,
        "files": [
            {
                "name": "cube-single-play-v0.npz",
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "rows": 5,
            }
        ],
        "versions": {"numpy": np.__version__, "mujoco": "3.7.0", "ogbench": "1.2.2", "dm_control": "1.0.39"},
    }
    assert lines[-1].endswith("cube-single-play-v0.npz: 100 % of 0.0 MB")
    assert len(load_dataset(CUBE, DOWNLOAD, tmp_path).rewards) == 5
    fetch(tmp_path)
    assert len(server.requests) == 1  # the second call had nothing to do


def test_a_dropped_connection_is_resumed_where_it_stopped(tmp_path, server):
    server.faults = [200, 300]
    fetch(tmp_path)
    ranges = [asked for _, asked in server.requests]
    assert ranges == [None, "bytes=200-", "bytes=500-"]
    assert names(tmp_path) == WHOLE


def test_progress_renews_patience_and_standstill_ends_it(tmp_path, server):
    server.faults = [100] * 8 + [0] * 5
    with pytest.raises(DataError, match=r"cannot be fetched .*; 800 bytes are kept\. Compute nodes often have no") as e:
        fetch(tmp_path)
    assert "\n" not in str(e.value)
    assert names(tmp_path) == PARTIAL
    fetch(tmp_path)
    assert server.requests[-1][1] == "bytes=800-"
    assert names(tmp_path) == WHOLE


def test_a_busy_server_is_asked_again(tmp_path, server):
    server.faults = ["busy", "busy"]
    fetch(tmp_path)
    assert names(tmp_path) == WHOLE


def test_a_server_without_ranges_starts_over(tmp_path, server):
    server.faults = [200, "whole"]
    fetch(tmp_path)
    assert [asked for _, asked in server.requests] == [None, "bytes=200-"]
    assert names(tmp_path) == WHOLE


def test_a_part_that_is_whole_is_finished_and_one_that_is_too_long_kept(tmp_path, server):
    folder = tmp_path / "download" / "cube-single-play-v0"
    folder.mkdir(parents=True)
    part = folder / "cube-single-play-v0.npz.part"
    part.write_bytes(npz(small()) + b"!")
    with pytest.raises(DataError, match=rf"{part}: {part.stat().st_size} bytes, but http.* has \d+; delete it"):
        fetch(tmp_path)
    assert part.exists()
    part.write_bytes(npz(small()))
    fetch(tmp_path)
    assert names(tmp_path) == WHOLE


@pytest.mark.parametrize(
    "content", [b"<html>quota exceeded</html>", npz(small())[:-1], changed("qpos", lambda q: q[:6])]
)
def test_what_is_no_dataset_never_gets_the_final_name(tmp_path, server, content):
    server.files["/ogbench/cube-single-play-v0.npz"] = content
    with pytest.raises(DataError, match=r"cube-single-play-v0\.npz\.part: "):
        fetch(tmp_path)
    assert names(tmp_path) == PARTIAL


def test_a_full_disk_is_named_and_what_is_there_is_kept(tmp_path, server):
    """A limit on file sizes fails a write as a full disk does."""
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(DataError, match="download/cube-single-play-v0: cannot be written: File too large"):
            fetch(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == PARTIAL
    fetch(tmp_path)
    assert server.requests[-1][1] == "bytes=300-"


def test_another_number_of_transitions_than_published_is_refused(tmp_path, server):
    with pytest.raises(DataError, match="5 transitions, but task 'cube-single-task2' says that 6 were published"):
        fetch(tmp_path, CUBE.model_copy(update={"rows": 6}))
    assert "manifest.json" not in names(tmp_path)


def test_a_missing_file_is_named(tmp_path, server):
    del server.files["/ogbench/cube-single-play-v0.npz"]
    with pytest.raises(DataError, match=rf"^{server.url}/ogbench/cube-single-play-v0\.npz: no such file .* \(404\)"):
        fetch(tmp_path)
    assert len(server.requests) == 1


def test_no_network_is_explained_in_one_line(tmp_path, server, monkeypatch):
    monkeypatch.setenv("DFP_OGBENCH_URL", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(DataError) as caught:
        fetch(tmp_path)
    line = str(caught.value)
    place = "http://127.0.0.1:9/cube-single-play-v0.npz"
    assert line.startswith(f"{place}: cannot be fetched ([Errno 111] Connection refused); 0 bytes are kept. Compute")
    assert line.endswith("on a login node, run `python -m dfp data cube-single-task2 --config <file>`")
    assert "\n" not in line


def test_shards_are_fetched_in_order_without_their_validation_sets(tmp_path, server):
    task = CUBE.model_copy(update={"dataset": "cube-single-play-100m-v0", "shards": 3, "rows": 15})
    folder = "/ogbench/cube-single-play-100m-v0"
    for index in range(3):
        for suffix in ("", "-val"):
            server.files[f"{folder}/cube-single-play-v0-00{index}{suffix}.npz"] = npz(small())
    manifest = fetch(tmp_path, task)
    wanted = [f"cube-single-play-v0-00{index}.npz" for index in range(3)]
    assert [file["name"] for file in manifest["files"]] == wanted
    assert [path for path, _ in server.requests] == [f"{folder}/{name}" for name in wanted]
    assert manifest["url"] == f"{server.url}{folder}/"
    (tmp_path / "download" / task.dataset / wanted[1]).unlink()
    assert fetch(tmp_path, task) == manifest
    assert [path for path, _ in server.requests[3:]] == [f"{folder}/{wanted[1]}"]  # only what was missing


def test_two_processes_that_want_the_same_file_fetch_it_once(tmp_path, server):
    lines: list[str] = []
    manifests: list[dict] = []
    jobs = [threading.Thread(target=lambda: manifests.append(fetch(tmp_path, report=lines.append))) for _ in range(2)]
    folder = tmp_path / "download" / "cube-single-play-v0"
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for job in jobs:
            job.start()
        wait_until(lambda: sum("waiting for it" in line for line in lines) == 2)
    for job in jobs:
        job.join()
    assert manifests[0] == manifests[1]
    assert len(server.requests) == 1
