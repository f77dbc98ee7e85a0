"""A workstation's GPUs: each job has one of its own, and a job that ends frees it, however it ends."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from support.snakemake import ROOT, snakemake

from dfp.ops.gpu_pool import parse_devices, take_device

# Says which device it has, then waits until its input ends.
JOB = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"


def start(folder, *more: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "dfp", "ops", "on-gpu", "0,1", "--", sys.executable, "-c", JOB, *more]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, env=os.environ | {"TMPDIR": str(folder)}, text=True, **pipes)


def test_each_job_has_a_device_of_its_own_until_it_ends(tmp_path):
    first, second = start(tmp_path), start(tmp_path, "--an-option")
    taken = {first.stdout.readline().strip(): first, second.stdout.readline().strip(): second}
    assert set(taken) == {"0", "1"}
    third = start(tmp_path)
    assert third.stderr.readline() == "GPUs 0,1 are all taken; waiting\n"  # no error to `dfp ops status`
    os.kill(taken["1"].pid, signal.SIGKILL)
    assert third.stdout.readline().strip() == "1"
    for job in (taken["0"], taken["1"], third):
        job.communicate("")
    assert [job.returncode for job in (taken["0"], taken["1"], third)] == [0, -signal.SIGKILL, 0]


def test_a_child_of_the_job_does_not_keep_the_device(tmp_path):
    device, descriptor = take_device(["7"], tmp_path)
    assert device == "7"
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    os.close(descriptor)
    started = time.monotonic()
    again, descriptor = take_device(["7"], tmp_path)
    assert (again, time.monotonic() - started < 30) == ("7", True)
    os.close(descriptor)
    child.kill()
    child.wait()


def test_readmes_command_gives_every_job_on_a_gpu_a_device_of_the_pool():
    """The training jobs, and the one that measures the times of Table 9."""
    (line,) = re.findall(r"`(snakemake --profile workstation .*?) all`", (ROOT / "README.md").read_text())
    arguments = [*shlex.split(line)[1:], "results/table2.csv", "results/cost.csv"]
    done = snakemake("--dry-run", "--printshellcmds", *arguments, folder=ROOT)
    printed = done.stdout + done.stderr
    started = re.findall(r"^Shell command: (.*?) --data-dir .*--run-dir", printed, re.MULTILINE)
    on_gpu = "python -m dfp ops on-gpu 0,1,2,3 -- python -m dfp"
    assert Counter(started) == {f"{on_gpu} train pretrain": 120, f"{on_gpu} train finetune": 240}
    assert f"&& {on_gpu} ops cost --config" in printed


@pytest.mark.parametrize(
    ("text", "devices"), [("0", ["0"]), ("0, 3", ["0", "3"]), ("GPU-ab,GPU-cd", ["GPU-ab", "GPU-cd"])]
)
def test_devices(text, devices):
    assert parse_devices(text) == devices


@pytest.mark.parametrize("text", ["", "0,,1", "0,0", "../0"])
def test_devices_that_cannot_be_are_refused(text):
    with pytest.raises(ValueError, match="different names of devices"):
        parse_devices(text)
