"""Datasets from a server that drops, stalls, refuses and lies: what is fetched is whole, or named and left."""

import errno
import fcntl
import hashlib
import http.server
import json
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
from support.helpers import CUBE, DOWNLOAD, WHOLE, changed, logged, npz, small, wait_until

from dfp.spec import TaskSpec
from dfp.tasks import download, load_dataset, prepare_dataset
from dfp.tasks.interface import DataError


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files`` by path. ``faults`` are used up one per request: an int closes the connection after as many
    bytes, ``"busy"`` answers 503, ``"whole"`` ignores a range, ``"page"`` redirects to a web
    page. The ETag is the content's digest, if ``versions``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.faults: list[int | str] = []
        self.versions = True
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
        if fault == "page":
            self.send_response(302)
            self.send_header("Location", "/login")
            return self.end_headers()
        version = f'"{hashlib.sha256(content).hexdigest()}"'
        same = self.headers.get("If-Range") == version and fault != "whole"
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and same else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.path == "/login":
            self.send_header("Content-Type", "text/html; charset=utf-8")
        if server.versions:
            self.send_header("ETag", version)
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


def fetch(data_dir: Path, task: TaskSpec = CUBE) -> dict:
    return json.loads(prepare_dataset(task, DOWNLOAD, data_dir, 1).read_text())


def names(data_dir: Path) -> list[str]:
    return sorted(path.name for path in (data_dir / "download" / "cube-single-play-v0").iterdir())


PARTIAL = [".lock", "cube-single-play-v0.npz.part", "cube-single-play-v0.npz.part.version"]


def test_download(tmp_path, server):
    folder = tmp_path / "download" / "cube-single-play-v0"
    folder.mkdir(parents=True)
    (folder / ".manifest.json.99.tmp").write_text("left over by a killed writer")
    with logged() as lines:
        manifest = fetch(tmp_path)
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
    with pytest.raises(DataError, match=r" 800 bytes ") as e:
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


def test_a_part_that_is_whole_is_finished(tmp_path, server):
    content = server.files["/ogbench/cube-single-play-v0.npz"]
    folder = tmp_path / "download" / "cube-single-play-v0"
    folder.mkdir(parents=True)
    (folder / "cube-single-play-v0.npz.part").write_bytes(content)
    (folder / "cube-single-play-v0.npz.part.version").write_text(f'"{hashlib.sha256(content).hexdigest()}"')
    fetch(tmp_path)
    assert [asked for _, asked in server.requests] == [f"bytes={len(content)}-"]
    assert names(tmp_path) == WHOLE


def test_a_part_of_another_version_is_not_continued(tmp_path, server):
    """The published file changes while half of it is here: a continued one would be half of each."""
    server.faults = [300] + [0] * 4
    with pytest.raises(DataError, match="300 bytes are kept"):
        fetch(tmp_path)
    server.files["/ogbench/cube-single-play-v0.npz"] = content = changed("actions", lambda a: a / 2)
    fetch(tmp_path)
    assert server.requests[-1][1] == "bytes=300-"
    assert (tmp_path / "download/cube-single-play-v0/cube-single-play-v0.npz").read_bytes() == content
    assert names(tmp_path) == WHOLE


def test_a_kill_when_the_version_changes_leaves_no_bytes_of_the_one_before(tmp_path, server, monkeypatch):
    server.faults = [300] + [0] * 4
    with pytest.raises(DataError, match="300 bytes are kept"):
        fetch(tmp_path)
    server.files["/ogbench/cube-single-play-v0.npz"] = content = changed("actions", lambda a: a / 2)
    note = download._note_version

    def killed(*arguments) -> None:
        note(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "_note_version", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path)
    fetch(tmp_path)
    assert server.requests[-1][1] is None  # from the first byte
    assert (tmp_path / "download/cube-single-play-v0/cube-single-play-v0.npz").read_bytes() == content


def test_without_a_version_nothing_is_continued(tmp_path, server):
    server.versions = False
    server.faults = [200]
    fetch(tmp_path)
    assert [asked for _, asked in server.requests] == [None, None]
    assert names(tmp_path) == WHOLE


def test_a_part_that_is_too_long_is_deleted(tmp_path, server):
    content = server.files["/ogbench/cube-single-play-v0.npz"]
    folder = tmp_path / "download" / "cube-single-play-v0"
    folder.mkdir(parents=True)
    (folder / "cube-single-play-v0.npz.part").write_bytes(content + b"!")
    (folder / "cube-single-play-v0.npz.part.version").write_text(f'"{hashlib.sha256(content).hexdigest()}"')
    message = rf"^{server.url}/ogbench/.*npz: {len(content) + 1} bytes came, but the server says {len(content)}; they "
    with pytest.raises(DataError, match=message):
        fetch(tmp_path)
    fetch(tmp_path)
    assert names(tmp_path) == WHOLE


@pytest.mark.parametrize("content", [b"<html>quota exceeded</html>", npz(small())[:-1]])
def test_what_is_no_dataset_is_deleted_and_its_address_named(tmp_path, server, content):
    """A page that does not say that it is one, and a file that is cut on the server."""
    server.files["/ogbench/cube-single-play-v0.npz"] = content
    with pytest.raises(
        DataError, match=rf"^{server.url}/ogbench/cube-single-play-v0\.npz: what came is not a dataset.* copy the"
    ):
        fetch(tmp_path)
    server.files["/ogbench/cube-single-play-v0.npz"] = npz(small())
    fetch(tmp_path)
    assert names(tmp_path) == WHOLE


def test_a_dataset_that_is_not_the_tasks_is_kept_as_a_part(tmp_path, server):
    server.files["/ogbench/cube-single-play-v0.npz"] = changed("qpos", lambda q: q[:6])
    with pytest.raises(DataError, match=r"cube-single-play-v0\.npz\.part: 'qpos' "):
        fetch(tmp_path)
    assert names(tmp_path) == PARTIAL


def test_what_came_stays_when_it_cannot_be_read_for_another_reason(tmp_path, server, monkeypatch):
    """As an unreliable file system, or too little memory: the next call continues with what is there."""

    def fail(archive, name):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.npyio.NpzFile, "__getitem__", fail)
        with pytest.raises(OSError, match=r"Input/output error: .*cube-single-play-v0\.npz\.part"):
            fetch(tmp_path)
    assert names(tmp_path) == PARTIAL
    fetch(tmp_path)
    size = len(server.files["/ogbench/cube-single-play-v0.npz"])
    assert [asked for _, asked in server.requests] == [None, f"bytes={size}-"]
    assert names(tmp_path) == WHOLE


def test_a_web_page_in_place_of_the_file_is_refused_before_it_is_stored(tmp_path, server):
    server.files["/login"] = b"<html>log in</html>"
    server.faults = ["page"]
    with pytest.raises(
        DataError, match=rf"a web page instead of the file \(from {server.url}/login: .* DFP_OGBENCH_URL"
    ):
        fetch(tmp_path)
    assert names(tmp_path) == [".lock"]
    fetch(tmp_path)
    assert names(tmp_path) == WHOLE


def test_a_proxy_that_is_not_there_is_named_in_one_line(tmp_path, server, monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(DataError, match=rf"^{server.url}/.*Connection refused.* set HTTPS_PROXY .* copy the file") as e:
        fetch(tmp_path)
    assert "\n" not in str(e.value)


def test_a_full_disk_is_named_and_what_is_there_is_kept(tmp_path, server):
    """A limit on file sizes fails a write as a full disk does."""
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            fetch(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename.endswith("download/cube-single-play-v0/cube-single-play-v0.npz.part")
    assert names(tmp_path) == PARTIAL
    fetch(tmp_path)
    assert server.requests[-1][1] == "bytes=300-"


def test_another_number_of_transitions_than_published_is_refused(tmp_path, server):
    with pytest.raises(DataError, match=r" 5 transitions.*'cube-single-task2'.* 6 "):
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
    assert line.endswith("on a login node, run `dfp data cube-single-task2 --config <file>`")
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
    manifests: list[dict] = []
    jobs = [threading.Thread(target=lambda: manifests.append(fetch(tmp_path))) for _ in range(2)]
    folder = tmp_path / "download" / "cube-single-play-v0"
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with logged() as lines:
            for job in jobs:
                job.start()
            wait_until(lambda: sum("waiting for it" in line for line in lines) == 2)
    for job in jobs:
        job.join()
    assert manifests[0] == manifests[1]
    assert len(server.requests) == 1
