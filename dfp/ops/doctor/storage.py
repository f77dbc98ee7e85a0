"""Data and disk: what is there already, what is still to come, and whether it fits."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from dfp.errors import DfpError, one_line
from dfp.ops.doctor.findings import Finding
from dfp.ops.forecast import running_bytes, state_bytes
from dfp.plan.catalogue import Config
from dfp.runs.layout import METRICS
from dfp.spec import DataSpec, RunSpec, TaskSpec
from dfp.tasks import manifest, manifest_path, suite_of


def check_datasets(tasks: Iterable[TaskSpec], data: DataSpec, data_dir: Path) -> list[Finding]:
    """Check every dataset once: it is prepared, and each file is the one that the manifest records."""
    kinds = {manifest_path(task, data, data_dir): task for task in tasks}
    return [check_dataset(path, task) for path, task in kinds.items()]


def check_dataset(path: Path, task: TaskSpec) -> Finding:
    """Hash every file of a dataset. A missing one is a warning: the workflow prepares it, if its node can."""
    if not path.exists():
        return Finding(
            "data",
            "warning",
            f"{path.parent}: not prepared",
            "the workflow prepares it, but compute nodes often have no internet",
            f"dfp data {task.key} --config <file>",
        )
    try:
        found = manifest.read_manifest(path, task)
        for entry in found.files:
            manifest.require_recorded(path.with_name(entry.name), entry, task)
    except (DfpError, OSError) as error:
        command = f"dfp data {task.key} --config <file>"
        return Finding("data", "error", one_line(error), "jobs refuse a file that is not the recorded one", command)
    return Finding("data", "ok", f"{path.parent}: {found.rows:,} rows in {len(found.files)} files, hashes right")


def missing_data_bytes(tasks: Iterable[TaskSpec], data: DataSpec, data_dir: Path) -> int:
    """Bytes of the datasets that are not prepared yet, estimated."""
    kinds = {manifest_path(task, data, data_dir): task for task in tasks}
    return sum(_dataset_bytes(task, data) for path, task in kinds.items() if not path.exists())


def _dataset_bytes(task: TaskSpec, data: DataSpec) -> int:
    suite = suite_of(task)
    rows = task.rows if data.episodes is None else data.episodes * suite.episode_steps(task)
    return rows * task.observation_size * suite.bytes_per_number


def results_bytes(specs: Mapping[str, RunSpec], results_dir: Path, jobs: int) -> int:
    """Bytes that the runs without results still take.

    Each run leaves a final state. While it runs, it also has two checkpoints and its online rows; at most ``jobs`` runs
    do so at once.
    """
    open_runs = [spec for folder, spec in specs.items() if not (results_dir / folder / METRICS).exists()]
    sizes = sorted(map(running_bytes, open_runs), reverse=True)
    return sum(map(state_bytes, open_runs)) + sum(sizes[:jobs])


def check_disk(what: str, folder: Path, needed: int, free: int | None = None) -> Finding:
    """Whether ``needed`` more bytes fit into ``folder``, with a fifth to spare, and whether it can be written."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(there).free if free is None else free
    text = f"{what} in {folder}: about {size(needed)} still to come, {size(free)} free"
    if not os.access(there, os.W_OK):
        reason = "nothing can be saved there"
        return Finding("disk", "error", f"{there} cannot be written", reason, f"chmod u+w {there}, or another folder")
    if free < 1.2 * needed:
        command = f"df -h {there}    # make room, or set another folder in the configuration"
        return Finding("disk", "error", text, "runs stop when a checkpoint cannot be written", command)
    return Finding("disk", "ok", text)


def check_temporary() -> Finding:
    """The node's own disk, where compiled programs are kept."""
    return check_disk("compiled programs", Path(tempfile.gettempdir()), 1_000_000_000)


def size(count: int) -> str:
    """Bytes in a unit that fits: ``850 MB``, ``14 GB``."""
    for unit, divisor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= divisor:
            return f"{count / divisor:.3g} {unit}"
    return f"{count / 1000:.3g} kB"


def tasks_of(config: Config) -> list[str]:
    """The task keys of the configuration, those of ``offline`` included, each once."""
    return list(dict.fromkeys([*config.tasks, *(config.offline.tasks if config.offline else ())]))
