"""How the controller bears many jobs: 1,000 jobs of ten seconds through a real SLURM, with the profile as it is.

    python tests/support/slurm_load.py [--jobs 1000] [--seconds 10] [--minutes 15]

Starts the cluster of slurm_cluster.py, sends as many jobs through `snakemake --profile slurm` as `--minutes` allow, and
says how many were submitted, run and done, how often each job ran (exactly once, or it fails), and what CPU time and
memory the controller and slurmctld took. Not part of CI.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from support.slurm_cluster import Cluster, missing

PROFILE = Path(__file__).resolve().parents[2] / "workflow" / "profiles" / "slurm"
# Each job adds a line to a file of its own when it starts; a job that ran twice has two.
SNAKEFILE = """\
rule all:
    input:
        expand("done/{{n}}", n=range({jobs})),
rule work:
    output:
        "done/{{n}}",
    resources:
        mem_mb=10,
        runtime=5,
    shell:
        "mkdir -p ran; echo $SLURM_JOB_ID >> ran/{{wildcards.n}}; sleep {seconds}; touch {{output}}"
"""


def usage(pid: int) -> tuple[float, float]:
    """CPU seconds and peak memory, MB, of a process and those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = sum(int(field) for field in fields[11:15])
    peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return ticks / os.sysconf("SC_CLK_TCK"), int(peak.split()[1]) / 1024


def main() -> str:
    """Run it; the reason why it failed, or nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--minutes", type=float, default=15.0)
    chosen = parser.parse_args()
    if (reason := missing()) is not None:
        return reason
    folder = Path(tempfile.mkdtemp(prefix="dfp-load-"))
    # Jobs that sleep need no core: a node with one for each of those that the profile submits at once.
    cluster = Cluster(folder / "slurm", cpus=128)
    work = folder / "work"
    work.mkdir()
    (work / "Snakefile").write_text(SNAKEFILE.format(jobs=chosen.jobs, seconds=chosen.seconds))
    command = [sys.executable, "-m", "snakemake", "--profile", str(PROFILE), "--quiet", "all"]
    try:
        cluster.up()
        with (folder / "controller.log").open("wb") as log:
            started = time.monotonic()
            controller = subprocess.Popen(
                command, cwd=work, env=os.environ | cluster.environment, stdout=log, stderr=subprocess.STDOUT
            )
            taken = (0.0, 0.0)
            while controller.poll() is None and time.monotonic() - started < 60 * chosen.minutes:
                try:
                    taken = usage(controller.pid)
                except (FileNotFoundError, ProcessLookupError, StopIteration):
                    break  # it has just ended
                time.sleep(1.0)
            cut = controller.poll() is None
            elapsed = time.monotonic() - started
            if cut:
                controller.kill()  # not by SIGTERM: Snakemake 9.27 may then wait for itself forever
                controller.wait()
                while cluster.call("squeue", "--noheader").strip():  # what was submitted goes on
                    time.sleep(1.0)
        slurmctld = usage(int((folder / "slurm" / "slurmctld.pid").read_text()))
        states = Counter(job["JobState"] for job in cluster.jobs())
    finally:
        cluster.down()
    ran = {path.name: len(path.read_text().split()) for path in (work / "ran").iterdir()}
    done = {path.name for path in (work / "done").iterdir()}
    print(f"folder      {folder}")
    print(f"time        {elapsed / 60:.1f} min{', cut off' if cut else ''}")
    print(f"submitted   {sum(states.values())}: {dict(states)}")
    print(f"done        {len(done)} of {chosen.jobs}; {len(done) / elapsed * 60:.0f} per minute")
    print(
        f"controller  {taken[0]:.0f} CPU s with its sbatch and squeue, {taken[0] / elapsed:.1%} of a core; "
        f"peak {taken[1]:.0f} MB"
    )
    print(f"slurmctld   {slurmctld[0]:.0f} CPU s, peak {slurmctld[1]:.0f} MB")
    doubled = {name: count for name, count in ran.items() if count != 1}
    lost = done - set(ran) if cut else {str(n) for n in range(chosen.jobs)} - done
    print(f"doubled     {len(doubled)}")
    print(f"lost        {len(lost)}")
    return "jobs were lost or doubled" if doubled or lost else ""


if __name__ == "__main__":
    sys.exit(main())
