"""What several test files of ``dfp.tasks`` share: tasks, and small datasets written by hand."""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np

from dfp.plan.catalogue import load_catalogue
from dfp.spec import DataSpec, TaskSpec
from dfp.tasks import manifest_path

TASKS = {key: entry.spec for key, entry in load_catalogue().tasks.items()}
CUBE = TASKS["cube-single-task2"].model_copy(update={"rows": 5})
DOUBLE = TASKS["cube-double-task2"].model_copy(update={"rows": 5})
DOWNLOAD = DataSpec(source="download")
POINT = TaskSpec(
    key="point-mass",
    suite="gymnasium",
    environment="point_mass:PointMass-v0",
    dataset="point-mass-walks",
    observation_size=2,
    action_size=2,
    max_episode_steps=20,
    rows=3,
)
WHOLE = [".lock", "cube-single-play-v0.npz", "manifest.json"]  # what a prepared folder holds


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    """The lines of the logger while a block runs."""
    lines: list[str] = []
    handler, log = logging.Handler(logging.INFO), logging.getLogger("dfp")
    handler.emit = lambda record: lines.append(record.getMessage())
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def columns(cubes: list[list[float]], terminals: list[int], observation_size: int = 28) -> dict[str, np.ndarray]:
    """A file's columns. Row i has observations i and actions min(i / 4, 1); ``cubes``: positions, [R, 3 * cubes]."""
    rows, count = len(terminals), len(cubes[0]) // 3
    index = np.arange(rows, dtype=np.float32)[:, None]
    qpos = np.zeros((rows, 14 + 7 * count), np.float32)
    for cube in range(count):
        qpos[:, 14 + 7 * cube : 17 + 7 * cube] = np.array(cubes)[:, 3 * cube : 3 * cube + 3]
    return {
        "observations": np.broadcast_to(index, (rows, observation_size)).copy(),
        "actions": np.broadcast_to(np.minimum(index / 4, 1), (rows, 5)).copy(),
        "terminals": np.array(terminals, bool),
        "qpos": qpos,
        "qvel": np.zeros((rows, 13), np.float32),
    }


def small() -> dict[str, np.ndarray]:
    """Two episodes, of three and of two transitions; the goal of task 2 is (0.50, 0, 0.02)."""
    x = [0.35, 0.459, 0.461, 0.50, 0.539, 0.541, 0.30]
    return columns([[value, 0.0, 0.02] for value in x], [0, 0, 0, 1, 0, 0, 1])


def npz(content: dict[str, np.ndarray]) -> bytes:
    stream = BytesIO()
    np.savez_compressed(stream, allow_pickle=True, **content)
    return stream.getvalue()


def changed(name: str, value) -> bytes:
    content = small()
    content[name] = value(content[name])
    return npz(content)


def record(data_dir: Path, task: TaskSpec, *files: bytes) -> Path:
    """A downloaded dataset with the given files, and a manifest that is true of their bytes. The first file's path."""
    path = manifest_path(task, DOWNLOAD, data_dir)
    path.parent.mkdir(parents=True)
    entries = []
    for index, content in enumerate(files):
        path.with_name(f"{index}.npz").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        entries.append({"name": f"{index}.npz", "bytes": len(content), "sha256": digest, "rows": 5})
    manifest = {"dataset": task.dataset, "source": "download", "rows": 5 * len(files), "files": entries, "versions": {}}
    path.write_text(json.dumps(manifest))
    return path.with_name("0.npz")


def full_size(data_dir: Path, task: TaskSpec, rows: int = 1_001_000) -> None:
    """A downloaded dataset of random rows as large as OGBench's, episodes of 1,001; its files are one, linked."""
    folder = manifest_path(task, DOWNLOAD, data_dir).parent
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    terminals = np.zeros(rows, bool)
    terminals[1000::1001] = True
    cubes = (task.observation_size - 19) // 9
    np.savez(
        folder / "0.npz",
        allow_pickle=False,
        observations=rng.standard_normal((rows, task.observation_size), np.float32),
        actions=rng.uniform(-1, 1, (rows, 5)).astype(np.float32),
        terminals=terminals,
        qpos=rng.standard_normal((rows, 14 + 7 * cubes), np.float32),
        qvel=np.zeros((rows, 14 + 6 * cubes), np.float32),
    )
    with (folder / "0.npz").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    transitions = rows // 1001 * 1000
    entry = {"bytes": (folder / "0.npz").stat().st_size, "sha256": digest, "rows": transitions}
    names = [f"{shard}.npz" for shard in range(task.shards)]
    for name in names[1:]:
        os.link(folder / "0.npz", folder / name)
    manifest = {
        "dataset": task.dataset, "source": "download", "rows": task.shards * transitions,
        "files": [entry | {"name": name} for name in names], "versions": {},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
