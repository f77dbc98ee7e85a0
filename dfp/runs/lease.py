"""Who may write a run folder: one process at a time, and how one SLURM job hands a run over to the next.

A second copy of a job is common on a cluster. A killed Snakemake leaves its jobs running, and the next one submits them
again. SLURM requeues a job whose node it believes dead. A *job* that finds a run in use therefore asks for it, by a
file. The owner saves and ends with exit code 75, so nothing is computed twice. An owner without a heartbeat is dead
and is not asked. A process outside SLURM was started by a person who typed a command twice, and is refused.

The clocks of two machines may differ by minutes. A heartbeat is therefore a *change* of the file, and the process that
watches measures the time between two changes on its own clock. The time of a file is never compared with a clock.

filelock and flock are not used. They show that a lock is held but not by whom, they cannot ask the holder to leave, and
they hang or do nothing on cluster file systems that are mounted without locks.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from dfp.errors import ConfigError
from dfp.files import json_object, naming, write_atomically
from dfp.runs.console import log
from dfp.runs.layout import CLAIM, LEASE, RunFolderError, read_object

WATCH_S = 5.0  # seconds between looks
HEARTBEAT_S = 20.0  # seconds between renewals of a lease
STALE_S = 120.0  # seconds without a change after which a lease has no owner any more
HANDOVER_S = 1800.0  # seconds that a job waits for an owner that lives: it may be in the middle of an evaluation


class Watch:
    """Notices when a file changes, by this process's own clock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seen = _state(path)  # at the last look
        self._since = time.monotonic()  # of the last change, or of the first look
        self.changed = False  # whether the file was ever seen to change

    def quiet_s(self) -> float:
        """Seconds since the file was last seen to change."""
        if (state := _state(self._path)) != self.seen:
            self.seen, self._since, self.changed = state, time.monotonic(), True
        return time.monotonic() - self._since


class Lease:
    """Keeps a second process out of a run folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEASE
        self._claim = folder / CLAIM
        self._stop = threading.Event()
        self._owner: dict[str, Any] = {**this_process(), "pid_namespace": _pid_namespace(), "since": time.time_ns()}
        self.asked = False  # whether a later job waits for the run

    def __enter__(self) -> Lease:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        begun, waits = time.monotonic(), self._owner["job"] is not None
        watch = Watch(self._path)
        while not self._taken():
            quiet, owner = watch.quiet_s(), read_object(self._path)
            if quiet >= STALE_S or _is_dead(owner):
                self._remove(watch.seen)
                continue
            seen = f"in use by {_named(owner)}"
            if watch.changed and (not waits or time.monotonic() - begun >= HANDOVER_S):
                raise RunFolderError(f"{self._path}: {seen}")
            if waits:
                self._ask(seen)
            elif quiet < WATCH_S:
                log.info("%s: %s; waiting up to %.0f s for a sign of life", self._path, seen, STALE_S)
            time.sleep(WATCH_S)
        if read_object(self._claim).get("since") == self._owner["since"]:
            self._claim.unlink(missing_ok=True)
        threading.Thread(target=self._watch, args=(Watch(self._claim),), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):  # a lease that stays goes stale
            if self._is_mine():
                self._path.unlink(missing_ok=True)

    def confirm(self) -> None:
        """Check that this process still owns the run. Called before it writes what only an owner may write.

        Raises:
          RunFolderError: another process owns the run.
          OSError: the lease cannot be read, so that the owner is not known.
        """
        if not self._is_mine():
            raise RunFolderError(f"{self._path}: was taken over by {_named(read_object(self._path))}")

    def _is_mine(self) -> bool:
        try:
            return json_object(self._path).get("since") == self._owner["since"]
        except ConfigError:  # missing or damaged; an OSError says nothing of the owner and is raised
            return False

    def _taken(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        try:
            with naming(self._path), os.fdopen(descriptor, "w") as file:
                json.dump(self._owner, file)
        except OSError:  # a full disk: half a lease would keep everybody out
            self._path.unlink()
            raise
        return True

    def _remove(self, stale: tuple[int, int] | None) -> None:
        """Remove the lease that was seen to be ``stale``, by rename, so that only one of two processes succeeds.

        Another process may have removed the stale lease since, and have made a lease: that one is put back.
        """
        grave = self._path.with_name(f".lease.{os.getpid()}")
        try:
            self._path.rename(grave)
        except FileNotFoundError:
            return
        if _state(grave) == stale:
            grave.unlink()
        else:
            grave.rename(self._path)

    def _ask(self, seen: str) -> None:
        """Renew the claim of this job. If several jobs ask, the one that began last gets the run.

        Raises:
          RunFolderError: a job that began later has asked for the run.
        """
        claim = read_object(self._claim)
        since = claim.get("since")
        if isinstance(since, int) and since > self._owner["since"]:
            raise RunFolderError(f"{self._path}: {seen}, and {_named(claim)} waits for it")
        write_atomically(self._claim, json.dumps(self._owner))

    def _watch(self, claim: Watch) -> None:
        """Renew the lease, and look for a job that asks. A claim that nobody renews does not count."""
        beat = time.monotonic()
        while not self._stop.wait(WATCH_S):
            with contextlib.suppress(OSError):  # a file server that fails over: the next look tries again
                self.asked = claim.quiet_s() < 4 * WATCH_S and claim.changed and self._claim.exists()
                if time.monotonic() - beat >= HEARTBEAT_S and self._is_mine():
                    os.utime(self._path)
                    beat = time.monotonic()


def this_process() -> dict[str, str | int | None]:
    """``host``, ``pid`` and SLURM ``job`` (None outside SLURM) of this process."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _named(owner: dict[str, Any]) -> str:
    if not owner:
        return "an unknown process (the file is damaged)"
    return f"process {owner.get('pid')} on {owner.get('host')}, job {owner.get('job')}"


def _pid_namespace() -> str | None:
    """The PID namespace of this process: containers may share a host's name, and each counts its processes from 1."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this host and is gone. For another host or container this is unknown."""
    pid, here = owner.get("pid"), _pid_namespace()
    if here is None or (owner.get("host"), owner.get("pid_namespace")) != (socket.gethostname(), here):
        return False
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False
