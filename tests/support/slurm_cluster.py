"""A real SLURM cluster of one node on this machine, with devices that stand for GPUs.

    python tests/support/slurm_cluster.py up [folder]      start it, and print what a shell must know to use it
    python tests/support/slurm_cluster.py down [folder]    end it, by the process ids it wrote down

munged, slurmctld and slurmd are Debian's (`apt-get install slurm-wlm munge`) and run as root from a folder of their
own: their key, socket, ports, state and logs touch no other cluster. Accounting is off, as on many small sites.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path("/tmp/dfp-slurm")  # of the commands above
DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "squeue", "sinfo", "scancel", "scontrol", "sacct", "sacctmgr")
GPUS = 4  # two at work, and two for second copies of their jobs
START_S = 60.0

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
# A requeued job waits for as long as credentials hold, 120 s by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
# squeue still shows a job for so long after its end.
MinJobAge=3600
ReturnToService=2
# More CPUs and memory are promised below than there are: the jobs of tests are small.
SlurmdParameters=config_overrides
KillWait=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=other Nodes={host} Default=NO MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no cluster here; none where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    absent = [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=_path()) is None]
    return f"not installed: {', '.join(absent)} (apt-get install slurm-wlm munge)" if absent else None


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class Cluster:
    """The cluster in a folder."""

    def __init__(self, folder: Path, cpus: int = 64, memory_mb: int = 256_000) -> None:
        self.folder = folder
        self._cpus, self._memory = cpus, memory_mb

    @property
    def environment(self) -> dict[str, str]:
        """What a process must have in its environment to use this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": f"{self.folder / 'bin'}:{_path()}"}

    def up(self) -> Cluster:
        """Start the daemons; returns when the node takes jobs."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir(exist_ok=True)
        self._write_configuration()
        self._write_commands()
        self._run("munged", "--force", *(f"--{name}={self.folder}/munge.{name}" for name in ("socket",)),
                  f"--key-file={self.folder}/munge.key", f"--pid-file={self.folder}/munged.pid",
                  f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munge.seed")  # fmt: skip
        self.start_controller()
        self._run("slurmd", "-f", str(self.folder / "slurm.conf"), "-N", _host())
        self._wait(
            "node", lambda: self.call("sinfo", "-h", "-p", "main", "-o", "%T").split()[:1] == ["idle"], resume=True
        )
        return self

    def start_controller(self) -> None:
        """Start slurmctld, from its saved state where there is one."""
        self._run("slurmctld", "-f", str(self.folder / "slurm.conf"))
        self._wait("slurmctld", lambda: "is UP" in self.call("scontrol", "ping"))

    def stop_controller(self) -> None:
        """End slurmctld alone; jobs go on."""
        self._end("slurmctld")

    def down(self) -> None:
        """Cancel all jobs and end the daemons."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.call("scancel", "--state=PENDING")
            self.call("scancel", "--state=RUNNING", "--signal=KILL", "--full")
        for name in reversed(DAEMONS):
            self._end(name)

    def call(self, *command: str) -> str:
        """Output of a SLURM command."""
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """Every job that slurmctld knows, as ``scontrol show job`` has it."""
        lines = self.call("scontrol", "show", "job", "--oneliner").splitlines()
        found = [dict(pair.split("=", 1) for pair in line.split(" ") if "=" in pair) for line in lines]
        return [job for job in found if "JobId" in job]

    def _write_configuration(self) -> None:
        controller, node = _free_ports(2)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for index in range(GPUS):
            device = self.folder / f"gpu{index}"
            if not device.exists():
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # another /dev/null
        (self.folder / "slurm.conf").write_text(
            CONF.format(
                folder=self.folder,
                host=_host(),
                controller=controller,
                node=node,
                gpus=GPUS,
                cpus=self._cpus,
                memory=self._memory,
            )
        )
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n")
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # not used; "disabled" is no plugin

    def _write_commands(self) -> None:
        """The plugin clears SLURM's variables inside a job, SLURM_CONF too, and its srun would look in /etc."""
        for name in COMMANDS:
            path = self.folder / "bin" / name
            path.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which(name)} "$@"\n')
            path.chmod(0o755)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}")

    def _wait(self, what: str, ready, resume: bool = False) -> None:
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(subprocess.SubprocessError):
                if ready():
                    return
                if resume:
                    self.call("scontrol", "update", f"NodeName={_host()}", "State=RESUME")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} is not usable after {START_S:.0f} s; see the logs in {self.folder}")
            time.sleep(0.3)

    def _end(self, name: str) -> None:
        path = self.folder / f"{name}.pid"
        try:
            pid = int(path.read_text())
        except (FileNotFoundError, ValueError):
            return
        for attempt in range(100):
            try:
                # The pid may have been given to another process since: look before signalling.
                if name not in Path(f"/proc/{pid}/comm").read_text():
                    break
                os.kill(pid, signal.SIGTERM if attempt < 50 else signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                break
            time.sleep(0.2)
        path.unlink(missing_ok=True)


def _host() -> str:
    return socket.gethostname().split(".")[0]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def main(arguments: list[str]) -> str:
    """``up`` or ``down``."""
    match arguments:
        case ["up", *rest] if len(rest) <= 1:
            if (reason := missing()) is not None:
                return reason
            cluster = Cluster(Path(rest[0]).resolve() if rest else FOLDER).up()
            for name, value in cluster.environment.items():
                print(f"export {name}={value}")
        case ["down", *rest] if len(rest) <= 1:
            Cluster(Path(rest[0]).resolve() if rest else FOLDER).down()
        case _:
            return __doc__ or ""
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
