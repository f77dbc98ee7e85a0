"""A one-minute job on the cluster: does it start, where, and which device does it see?"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dfp.ops.doctor.findings import Finding
from dfp.runs import slurm

POLL_S = 2.0
ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
    "PREEMPTED",
)
LOG = "doctor-job-%j.log"
ANSWER = re.compile(r'^\{\s*"findings":', re.MULTILINE)


def script(python: str = sys.executable) -> str:
    """The job: the Python of this environment looks for the device of the node."""
    root = Path(__file__).resolve().parents[3]
    command = f"{shlex.quote(python)} -m dfp ops doctor --only device --gpu --json"
    place = shlex.quote(str(root))  # has the default configuration, in whatever folder doctor was called
    return f"#!/bin/bash\ncd {place}\nexport PYTHONPATH={place}\nhostname\n{command}\n"


def sbatch(folder: Path, partition: str | None, options: Sequence[str]) -> list[str]:
    """The command that submits the job: one minute, one GPU, and the further ``options`` of the site.

    The command names the memory, because some sites give a job without it all memory of a node.
    """
    place = [f"--partition={partition}"] if partition else []
    log = f"--output={folder / LOG}"
    return ["sbatch", "--parsable", "--job-name=dfp-doctor", "--time=1", "--gpus=1", "--mem=4G", log, *place, *options]


def check_submission(folder: Path, partition: str | None, options: Sequence[str], wait_s: float) -> list[Finding]:
    """Submit the job, wait for it, and read its log.

    Args:
      folder: for the job's log; must be seen by the compute nodes.
      options: further options for ``sbatch``; a later one replaces an earlier one.
      wait_s: seconds to wait for the job's end, queue included.
    """
    command = sbatch(folder, partition, options)
    try:
        done = subprocess.run(command, input=script(), capture_output=True, text=True, timeout=slurm.ASK_S, check=False)
    except FileNotFoundError:
        why = "without it nothing can be submitted from here"
        return [Finding("test job", "error", "sbatch is not on the PATH", why, "use a login node")]
    except subprocess.TimeoutExpired:
        why = "jobs cannot be submitted or watched"
        return [Finding("test job", "error", f"sbatch did not answer within {slurm.ASK_S:.0f} s", why, "scontrol ping")]
    if done.returncode != 0:
        why = "the workflow's jobs would be refused as well"
        what = f"sbatch refused the job: {' '.join(done.stderr.split())}"
        return [Finding("test job", "error", what, why, shlex.join([*command, "--wrap=hostname"]))]
    job = done.stdout.strip().split(";")[0]
    state = wait_for(job, wait_s)
    path = folder / LOG.replace("%j", job)
    return [
        submission_finding(
            job, state, path.read_text(encoding="utf-8", errors="replace") if path.exists() else "", path
        )
    ]


def wait_for(job: str, wait_s: float, query: slurm.Ask = slurm.ask) -> str:
    """The state in which the job ended, or the one it is in when the time is up."""
    limit, state = time.monotonic() + wait_s, "UNKNOWN"
    while True:
        found = slurm.jobs([job], query)
        state = found[-1]["State"].split()[0] if found and found[-1]["State"] else state
        if state in ENDED or time.monotonic() > limit:
            return state
        time.sleep(POLL_S)


def submission_finding(job: str, state: str, log: str, path: Path) -> Finding:
    """What the job's end and its log mean.

    The log has the host, then the warnings of JAX, if there are any, and what ``doctor --json`` printed.
    """
    host, _, answer = log.partition("\n")
    if state not in ENDED:
        why = "the partition is full, or it cannot run such a job"
        return Finding("test job", "warning", f"job {job} is still {state}", why, f"squeue -j {job}; scancel {job}")
    begin = ANSWER.search(answer)
    try:
        findings = json.JSONDecoder().raw_decode(answer, begin.start() if begin else 0)[0]["findings"]
    except (ValueError, KeyError, TypeError):
        last = (answer.strip().splitlines() or ["its log is empty"])[-1]
        what = f"job {job} on {host or 'an unknown node'}: {state}: {last}"
        return Finding("test job", "error", what, "training jobs would end like it", f"cat {path}")
    what = f"job {job} ran on {host}: {'; '.join(finding['what'] for finding in findings)}"
    bad = [finding for finding in findings if finding["level"] == "error"]
    if bad:
        return Finding("test job", "error", what, bad[0]["why"], bad[0]["command"])
    return Finding("test job", "ok", what)
