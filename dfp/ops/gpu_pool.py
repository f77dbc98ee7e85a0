"""The GPUs of a workstation, given out one job at a time. SLURM does this on a cluster.

A device is a lock file. The job that holds the lock has the device. The kernel frees the lock when the job ends,
however it ends.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

POLL_S = 1.0


def parse_devices(text: str) -> list[str]:
    """``0,1,3`` as a list: indices or UUIDs, as ``CUDA_VISIBLE_DEVICES`` takes them.

    Raises ``ValueError`` for an empty or repeated name.
    """
    devices = [name.strip() for name in text.split(",")]
    if not all(devices) or len(set(devices)) != len(devices) or any("/" in name for name in devices):
        raise ValueError(f"'{text}': allowed: different names of devices, such as 0,1,2")
    return devices


def take_device(devices: Sequence[str], folder: Path, waiting: Callable[[], None] = lambda: None) -> tuple[str, int]:
    """Lock the first free device of the pool; wait while there is none.

    Args:
      devices: their names, in the order of preference.
      folder: has the lock files, one for each device, on the machine's own disk.
      waiting: called once if no device is free at first.

    Returns:
      The device, and the descriptor that holds its lock until it is closed. A program that replaces this one (``exec``)
      inherits it; a child process does not.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    told = False
    while True:
        for device in devices:
            descriptor = os.open(folder / device, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            os.set_inheritable(descriptor, True)
            return device, descriptor
        if not told:
            waiting()
            told = True
        time.sleep(POLL_S)


def run_on_device(devices: Sequence[str], command: Sequence[str], waiting: Callable[[], None]) -> None:
    """Replace this process by ``command``, with one device of the pool in ``CUDA_VISIBLE_DEVICES``."""
    folder = Path(tempfile.gettempdir()) / f"dfp-gpus-{os.getuid()}"
    device, _ = take_device(devices, folder, waiting)
    os.execvpe(command[0], list(command), os.environ | {"CUDA_VISIBLE_DEVICES": device})
