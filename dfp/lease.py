"""The lease of a run folder: it keeps a second process out, and its heartbeat says that the owner lives."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

LEASE = "lease.json"
HEARTBEAT_S = 20.0
STALE_S = 120.0  # a lease that has not been renewed for so long has no owner any more


class RunFolderError(Exception):
    """The folder cannot be used, in one line."""


class Lease:
    """Keeps a second process out of a run folder. A lease without a heartbeat is taken over."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEASE
        self._stop = threading.Event()

    def __enter__(self) -> Lease:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            try:
                descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                self._evict_or_refuse()
                continue
            with os.fdopen(descriptor, "w") as file:
                json.dump(this_process(), file)
            threading.Thread(target=self._beat, daemon=True).start()
            return self
        raise RunFolderError(f"{self._path}: another process took the lease just now")

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            if self._path.exists():
                os.utime(self._path)

    def _evict_or_refuse(self) -> None:
        try:
            age = time.time() - self._path.stat().st_mtime
            owner = json.loads(self._path.read_text())
        except FileNotFoundError:
            return  # given back in the meantime
        except json.JSONDecodeError:
            owner = {}
        here = owner.get("host") == socket.gethostname()
        if age < STALE_S and not (here and not _alive(owner["pid"])):
            who = f"process {owner.get('pid')} on {owner.get('host')}, job {owner.get('job')}"
            raise RunFolderError(f"{self._path}: in use by {who}, seen {age:.0f} s ago")
        # By rename, so that of two processes that find the stale lease only one removes it.
        grave = self._path.with_name(f".lease.{os.getpid()}")
        try:
            self._path.rename(grave)
        except FileNotFoundError:
            return
        grave.unlink()


def this_process() -> dict[str, str | int | None]:
    """Who writes: ``host``, ``pid`` and SLURM ``job`` (none outside SLURM)."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
