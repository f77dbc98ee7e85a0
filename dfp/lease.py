"""Who may write a run folder: one process at a time, and how one SLURM job hands a run over to the next.

A second copy of a job is no accident on a cluster: a killed Snakemake leaves its jobs running, and the next one submits
them again; SLURM requeues what it believes dead. So a *job* that finds a run in use asks for it, by a file. The owner
saves, ends with exit code 75 and nothing is computed twice. An owner without a heartbeat is dead and is not asked.
A process outside SLURM is a person who typed a command twice, and is refused.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from dfp.files import write_atomically

LEASE = "lease.json"
WATCH_S = 5.0  # between looks at who asks
HEARTBEAT_S = 20.0
STALE_S = 120.0  # a lease that has not been renewed for so long has no owner any more
HANDOVER_S = 1800.0  # the owner may be in the middle of an evaluation


class RunFolderError(Exception):
    """The folder cannot be used, in one line."""


class Lease:
    """Keeps a second process out of a run folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEASE
        self._claim = folder / "claim.json"
        self._stop = threading.Event()
        self._owner: dict[str, Any] = {**this_process(), "since": time.time_ns()}
        self.asked = False  # whether a later job waits for the run

    def __enter__(self) -> Lease:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + (HANDOVER_S if self._owner["job"] else 0.0)
        while not self._taken():
            if (owner := self._live_owner()) is None:
                continue
            if time.monotonic() >= deadline:
                raise RunFolderError(f"{self._path}: in use by {owner}")
            self._ask(owner)
            time.sleep(WATCH_S)
        if _read(self._claim).get("since") == self._owner["since"]:
            self._claim.unlink(missing_ok=True)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._is_mine():
            self._path.unlink(missing_ok=True)

    def confirm(self) -> None:
        """Before anything is written that an owner alone may write; :class:`RunFolderError` where it is another's."""
        if not self._is_mine():
            raise RunFolderError(f"{self._path}: was taken over by {_named(_read(self._path))}")

    def _is_mine(self) -> bool:
        return _read(self._path).get("since") == self._owner["since"]

    def _taken(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            json.dump(self._owner, file)
        return True

    def _live_owner(self) -> str | None:
        """Who holds the lease and when that was last seen; none where nobody does any more, and the file is gone."""
        try:
            age = time.time() - self._path.stat().st_mtime
        except FileNotFoundError:
            return None
        owner = _read(self._path)
        here = owner.get("host") == socket.gethostname()
        if age < STALE_S and not (here and not _alive(owner["pid"])):
            return f"{_named(owner)}, seen {age:.0f} s ago"
        # By rename, so that of two processes that find the stale lease only one removes it.
        grave = self._path.with_name(f".lease.{os.getpid()}")
        try:
            self._path.rename(grave)
        except FileNotFoundError:
            return None
        grave.unlink()
        return None

    def _ask(self, owner: str) -> None:
        """Say, again and again, that this job wants the run. Of several that ask the latest gets it."""
        claim = _read(self._claim)
        if claim.get("since", 0) > self._owner["since"]:
            raise RunFolderError(f"{self._path}: in use by {owner}, and {_named(claim)} waits for it")
        write_atomically(self._claim, json.dumps(self._owner))

    def _watch(self) -> None:
        """Renew the lease; see who asks. A claim that nobody renews is no claim."""
        beat = time.monotonic()
        while not self._stop.wait(WATCH_S):
            try:
                self.asked = time.time() - self._claim.stat().st_mtime < 4 * WATCH_S
            except FileNotFoundError:
                self.asked = False
            if time.monotonic() - beat >= HEARTBEAT_S and self._is_mine():
                os.utime(self._path)
                beat = time.monotonic()


def this_process() -> dict[str, str | int | None]:
    """Who writes: ``host``, ``pid`` and SLURM ``job`` (none outside SLURM)."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}


def _read(path: Path) -> dict[str, Any]:
    """A lease or claim; empty where there is none, or it is just being written."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _named(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid')} on {owner.get('host')}, job {owner.get('job')}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
