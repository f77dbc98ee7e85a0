"""The workflow on the SLURM of slurm_cluster.py, as a process: started, watched, killed, waited for."""

import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.slurm_cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT_S = 1.0
LIMIT_S = 1800.0
QUICK = [
    "--seconds-between-status-checks",
    "2",
    "--slurm-init-seconds-before-status-checks",
    "2",
    "--latency-wait",
    "20",
    # Snakemake waits for this timespan at its end, each time.
    "--max-jobs-per-timespan",
    "100/1s",
]
CONTROLLERS: list[subprocess.Popen[bytes]] = []  # none may outlive the tests


class Workflow:
    """``snakemake --profile slurm`` in a folder, as a process: the controller."""

    def __init__(self, cluster: Cluster, folder: Path, *arguments: str, target: str = "all") -> None:
        """The profile looks once a minute, for which a test has no time."""
        self.cluster, self.folder = cluster, folder
        self._command = [sys.executable, "-m", "snakemake", target, "--snakefile", str(ROOT / "Snakefile")]
        self._command += ["--profile", str(ROOT / "slurm"), *arguments, *QUICK]
        self._process: subprocess.Popen[bytes] | None = None  # of this start, of which there may be several

    def start(self) -> "Workflow":
        interval = {"DFP_CHECKPOINT_MINUTES": str(CHECKPOINT_S / 60)}
        with (self.folder / "controller.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self.folder, env=os.environ | self.cluster.environment | interval,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        CONTROLLERS.append(self._process)
        return self

    def kill(self) -> None:
        """kill -9 of the controller; its jobs go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def unlock(self) -> None:
        command = [*self._command, "--unlock"]
        subprocess.run(command, cwd=self.folder, env=os.environ | self.cluster.environment, check=True, timeout=120)

    def wait(self) -> None:
        """Until everything is made."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGINT)
            pytest.fail(f"not finished after {LIMIT_S:.0f} s:\n{self.log()[-3000:]}")
        assert code == 0, self.log()[-6000:]

    def log(self) -> str:
        return (self.folder / "controller.log").read_text()

    def jobs(self) -> list[dict[str, str]]:
        """The jobs of this folder, as ``scontrol`` has them."""
        return [job for job in self.cluster.jobs() if job.get("WorkDir") == str(self.folder)]

    def job_of(self, run: str) -> str:
        """Id of the running job that trains a run."""
        return self._lease(run)["job"]

    def trainer_of(self, run: str) -> int:
        """Process id of the trainer of a run."""
        return self._lease(run)["pid"]

    def kill_trainer(self, run: str) -> None:
        os.kill(self.trainer_of(run), signal.SIGKILL)

    def _lease(self, run: str) -> dict[str, Any]:
        return json.loads((self.folder / "results" / run / "lease.json").read_text())


class CleanCheckout(Workflow):
    """The command of the README, to the letter."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        super().__init__(cluster, folder)
        listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listing, cwd=ROOT, capture_output=True, text=True).stdout.splitlines():
            if (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
        self._command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "all"]
        self._command += ["--configfile", "config/smoke.yaml"]


def until(what: str, condition: Callable[[], object], seconds: float = LIMIT_S) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, subprocess.CalledProcessError):
            if condition():
                return
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)


def most_at_once(jobs: list[dict[str, str]]) -> int:
    """The largest number of jobs that ran at one moment."""
    changes = []
    for job in jobs:
        start, end = (datetime.datetime.fromisoformat(job[name]) for name in ("StartTime", "EndTime"))
        changes += [(start, 1), (end, -1)]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most
