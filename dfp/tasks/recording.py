"""Recording episodes in several processes. A recording continues where it was interrupted.

A finished episode is a separate file in ``parts/`` until all episodes of its file of the dataset are finished.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from dfp.files import replacing
from dfp.tasks.interface import DataError

log = logging.getLogger("dfp")

# The arithmetic that every x86-64 CPU with AVX2 has. OpenBLAS and NumPy would otherwise choose by the CPU. Another
# choice sums in another order, and within an episode a difference in a plan's last digit becomes another trajectory.
ARITHMETIC = {"OPENBLAS_CORETYPE": "Haswell", "NPY_ENABLE_CPU_FEATURES": "X86_V3"}

Record = Callable[[int, Path], None]
Join = Callable[[list[Path], Path], None]


def record_files(
    folder: Path,
    files: Mapping[str, Sequence[int]],
    record: Record,
    join: Join,
    processes: int,
) -> None:
    """Make the files that are missing in ``folder``.

    Args:
      files: the numbers of the episodes in each file, by its name.
      record: writes the episode with a number to a path. It is pickled, because it runs in a separate process.
      join: writes the files of several episodes into one file, in this process.
      processes: number of processes at once (>= 1). No episode may depend on it.

    Raises:
      DataError: a recording process died.
    """
    parts = folder / "parts"
    parts.mkdir(exist_ok=True)
    # A fresh interpreter per process: a fork would copy the caller's threads and device handles in use.
    spawn = multiprocessing.get_context("spawn")
    try:
        with (
            _common_arithmetic(),
            ProcessPoolExecutor(min(processes, sum(map(len, files.values()))), spawn, _obey_parent) as pool,
        ):
            for name, episodes in files.items():
                if not (folder / name).exists():
                    _record_file(folder / name, {parts / f"{k:06d}": k for k in episodes}, record, join, pool)
    except BrokenProcessPool:
        raise DataError(
            f"{folder}: a recording process died (out of memory?); finished episodes are kept, run it again"
        ) from None
    shutil.rmtree(parts)


def _record_file(file: Path, parts: dict[Path, int], record: Record, join: Join, pool: Executor) -> None:
    """Record the episodes that are missing among ``parts``, and make one file of all."""
    missing = [part for part in parts if not part.exists()]
    recordings = pool.map(functools.partial(_record_part, record), [parts[part] for part in missing], missing)
    for done, _ in enumerate(recordings, len(parts) - len(missing) + 1):
        if done * 10 // len(parts) > (done - 1) * 10 // len(parts):
            log.info(f"{file}: {done} of {len(parts)} episodes")
    with replacing(file) as temporary:
        join(list(parts), temporary)
    for part in parts:
        part.unlink()


def _record_part(record: Record, episode: int, part: Path) -> None:
    with replacing(part) as temporary:
        record(episode, temporary)


@contextlib.contextmanager
def _common_arithmetic() -> Iterator[None]:
    """Let processes that are started in this block compute with ``ARITHMETIC``, if this CPU can."""
    extensions = np.show_config(mode="dicts")["SIMD Extensions"]
    if "X86_V3" not in extensions.get("found", []):  # NumPy drops empty entries
        yield
        return
    before = dict(os.environ)
    os.environ.pop("NPY_DISABLE_CPU_FEATURES", None)  # NumPy refuses this variable with NPY_ENABLE_CPU_FEATURES
    os.environ.update(ARITHMETIC)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _obey_parent() -> None:
    """End this process when its parent ends, in whatever way, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_after(process: Any) -> None:
    process.join()
    os._exit(1)
