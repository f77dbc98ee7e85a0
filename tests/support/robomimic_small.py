"""What the tests of Robomimic share. They are skipped as a whole where robosuite or h5py is not installed."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from dfp.plan.catalogue import load_catalogue
from dfp.spec import DataSpec, TaskSpec
from dfp.tasks import manifest_path
from dfp.tasks.robomimic import environment as adapter

if adapter.installed_versions()["robosuite"] == "none":  # not by importing it: it chooses a renderer for everybody
    pytest.skip("robosuite is not installed: uv sync --extra robomimic", allow_module_level=True)
h5py = pytest.importorskip("h5py", reason="h5py is not installed: uv sync --extra robomimic")

TASKS = {key: load_catalogue().tasks[key].spec for key in ("lift", "can", "square")}
LIFT, CAN, SQUARE = TASKS.values()
OBJECT_WIDTHS = {"lift": 10, "can": 14, "square": 14}
DOWNLOAD = DataSpec(source="download")


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
