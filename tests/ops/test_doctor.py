"""``doctor``: each check on canned answers, and the command against fake SLURM commands on the PATH."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.helpers import DOUBLE, DOWNLOAD, npz, record, small

from dfp.ops.doctor import cluster, device, environment, findings, storage, submit
from dfp.ops.doctor.cluster import Profile
from dfp.ops.doctor.findings import Finding
from dfp.ops.forecast import state_bytes
from dfp.plan.catalogue import CATALOGUE, load_catalogue, load_config, run_spec
from dfp.runs import slurm
from dfp.shipped import LOCK, SLURM_PROFILE
from dfp.spec import ConfigError

# `scontrol show config` of SLURM 22.05, cut to a part of its lines.
CONFIG = """Configuration data as of 2026-11-24T22:10:00
AccountingStorageBackupHost = (null)
AccountingStorageType   = accounting_storage/none
BOOT_TIME               = 2026-11-24T21:02:11
ClusterName             = lab
JobRequeue              = 1
MaxArraySize            = 1001
MaxJobCount             = 10000
MinJobAge               = 300 sec
PreemptMode             = OFF
PreemptType             = preempt/none
SLURM_VERSION           = 22.05.8

Cgroup Support Configuration:
AllowedRAMSpace         = 100.0%

Slurmctld(primary) at login1 is UP
"""
PARTITIONS = """\
PartitionName=gpu AllowGroups=ALL Default=YES MaxTime=2-00:00:00 PreemptMode=OFF State=UP TRES=cpu=64,mem=512G
PartitionName=short AllowGroups=ALL Default=NO MaxTime=00:10:00 PreemptMode=CANCEL State=DRAIN TRES=cpu=8
"""
PROFILE = Profile(jobs=100, polling_s=60.0, status_command="squeue", partition=None)
PARSED = slurm.parse_config(CONFIG)
NODES = slurm.parse_records(PARTITIONS)


def whats(found: list[Finding]) -> list[str]:
    assert all(one.why and one.command for one in found if one.level != "ok"), "a finding without reason or remedy"
    return [f"{one.level}: {one.what}" for one in found]


# --------------------------------------------------------------------------- what SLURM says


def test_configuration_is_read_line_by_line():
    assert PARSED["MinJobAge"] == "300 sec"
    assert PARSED["AllowedRAMSpace"] == "100.0%"
    assert not any("Slurmctld" in key or "Configuration" in key for key in PARSED)
    assert [(one["PartitionName"], one["MaxTime"]) for one in NODES] == [("gpu", "2-00:00:00"), ("short", "00:10:00")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2-00:00:00", 2880), ("01:30:00", 90), ("00:00:30", 0.5), ("10:00", 10), ("45", 45), ("1-12", 36 * 60),
     ("1-12:30", 36 * 60 + 30), ("UNLIMITED", float("inf"))],
)  # fmt: skip
def test_time_limits(text, expected):
    assert slurm.minutes(text) == expected


def test_a_time_that_is_none_is_refused():
    with pytest.raises(ValueError, match="'soon' is not a time limit"):
        slurm.minutes("soon")


def test_jobs_come_from_accounting_or_else_from_the_controller():
    def off(command):
        record = "JobId=41 JobName=x JobState=TIMEOUT ExitCode=0:15 RunTime=00:10:02 NodeList=node3\n"
        return record if command[0] == "scontrol" else None

    expected = {"JobID": "41", "State": "TIMEOUT", "ExitCode": "0:15", "Elapsed": "00:10:02", "NodeList": "node3"}
    assert slurm.jobs(["41"], off) == [expected]
    assert slurm.jobs(["41"], lambda command: "41|TIMEOUT|0:15|00:10:02|node3\n") == [expected]
    assert slurm.jobs(["41"], lambda command: None) == []


# --------------------------------------------------------------------------- settings that lose jobs


def test_a_sound_cluster_has_no_finding():
    assert cluster.check_accounting(PARSED, PROFILE, sacct=True) == []
    assert cluster.check_memory_of_jobs(PARSED, PROFILE) == []
    assert cluster.check_preemption(PARSED, NODES, None) == []
    assert cluster.check_requeue(PARSED) == []
    assert cluster.check_limits(PARSED, [{"MaxSubmit": "500", "GrpSubmit": ""}], PROFILE) == []
    assert cluster.check_partition(NODES, None) == []


@pytest.mark.parametrize(
    ("storage_type", "status", "sacct", "lost"),
    [
        ("accounting_storage/none", "sacct", True, True),
        ("accounting_storage/none", "auto", True, True),
        ("accounting_storage/none", "auto", False, False),
        ("accounting_storage/none", "squeue", True, False),
        ("accounting_storage/slurmdbd", "auto", True, False),
    ],
)
def test_sacct_without_accounting_waits_for_ever(storage_type, status, sacct, lost):
    config = PARSED | {"AccountingStorageType": storage_type}
    found = cluster.check_accounting(config, PROFILE._replace(status_command=status), sacct)
    assert [one.level for one in found] == ["error"] * lost


@pytest.mark.parametrize(("age", "lost"), [("300 sec", 0), ("120 sec", 0), ("119 sec", 1), ("0 sec", 0)])
def test_the_controller_must_remember_two_looks(age, lost):
    found = cluster.check_memory_of_jobs({"MinJobAge": age}, PROFILE)
    assert len(found) == lost
    assert all("seconds-between-status-checks: 59" in one.command for one in found)


def test_preemption_that_cancels_is_named_where_it_is_used():
    config = PARSED | {"PreemptType": "preempt/partition_prio", "PreemptMode": "CANCEL"}
    assert whats(cluster.check_preemption(config, NODES, "gpu")) == ["warning: PreemptMode of the cluster is CANCEL"]
    both = cluster.check_preemption(config | {"PreemptMode": "GANG,SUSPEND"}, NODES, "short")
    assert whats(both) == ["warning: PreemptMode of partition short is CANCEL"]
    assert cluster.check_preemption(PARSED | {"PreemptMode": "CANCEL"}, NODES, "short") == []  # nothing preempts


def test_jobs_that_are_not_requeued():
    (found,) = cluster.check_requeue(PARSED | {"JobRequeue": "0"})
    assert found.level == "warning"


def test_fewer_jobs_than_the_profile_submits():
    limits = [{"MaxSubmit": "20", "GrpSubmit": "400"}]
    assert whats(cluster.check_limits(PARSED | {"MaxJobCount": "50"}, limits, PROFILE)) == [
        "error: MaxSubmit of your account is 20, the profile submits up to 100 jobs at once",
        "error: MaxJobCount of the cluster is 50, the profile submits up to 100 jobs at once",
    ]


def test_partitions_that_cannot_run_it():
    assert whats(cluster.check_partition(NODES, "short")) == [
        "error: partition short is DRAIN",
        "error: partition short ends jobs after 00:10:00, less than the 13 min to a first checkpoint",
    ]
    assert whats(cluster.check_partition(NODES, "gpus")) == ["error: no partition 'gpus'; there are: gpu, short"]


def test_our_profile_and_one_of_a_site_are_read(tmp_path):
    own = cluster.read_profile([SLURM_PROFILE])
    assert (own.jobs, own.status_command) == (100, "squeue")
    site = tmp_path / "config.yaml"
    site.write_text("jobs: 7\ndefault-resources: [slurm_partition=a100, mem_mb=10]\n")
    assert cluster.read_profile([tmp_path]) == Profile(7, 40, "auto", "a100")
    # As `snakemake --profile slurm --profile my-site.yaml` reads them.
    assert cluster.read_profile([SLURM_PROFILE, site]) == Profile(7, 60, "squeue", "a100")
    site.write_text("default-resources:\n  # slurm_account: my_account\n")
    assert cluster.read_profile([site]).partition is None
    site.write_text("jobs: many\n")
    with pytest.raises(ConfigError, match="'jobs': 'many' is not a number"):
        cluster.read_profile([site])


def fake(folder: Path, name: str, output: str, code: int = 0) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {code}\n")
    path.chmod(0o755)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder before everything else on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_fake_commands_on_the_path(site):
    answer = f'#!/bin/sh\ncase "$*" in *partition*) cat {site}/partitions;; *) cat {site}/config;; esac\n'
    (site / "scontrol").write_text(answer)
    (site / "scontrol").chmod(0o755)
    (site / "partitions").write_text(PARTITIONS)
    (site / "config").write_text(CONFIG)
    fake(site, "sacctmgr", "|\n500|")
    fake(site, "sacct", "Slurm accounting storage is disabled", 1)
    (sound,) = cluster.check_cluster(PROFILE)
    assert (sound.level, sound.what) == ("ok", "lab: no setting that loses jobs")
    (lost,) = cluster.check_cluster(PROFILE._replace(status_command="auto"))
    assert "accounting is off" in lost.what
    fake(site, "sacctmgr", "9|")
    assert whats(cluster.check_cluster(PROFILE))[0].startswith("error: MaxSubmit of your account is 9")
    fake(site, "scontrol", "slurm_load_ctl_conf error: Unable to contact slurm controller", 1)
    assert whats(cluster.check_cluster(PROFILE)) == ["error: scontrol does not answer"]


def test_without_slurm_there_is_nothing_to_check(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = cluster.check_cluster(PROFILE)
    assert found.level == "ok"


# --------------------------------------------------------------------------- the test job

ANSWER = {"findings": [{"check": "device", "level": "ok", "what": "gpu: H100", "why": "", "command": ""}]}
FALLBACK = {"findings": [{"check": "device", "level": "error", "what": "no GPU", "why": "w", "command": "c"}]}


@pytest.mark.parametrize(
    ("state", "log", "level", "what"),
    [
        ("COMPLETED", f"node7\n{json.dumps(ANSWER)}", "ok", "job 5 ran on node7: gpu: H100"),
        ("FAILED", f"node7\n{json.dumps(FALLBACK)}", "error", "job 5 ran on node7: no GPU"),
        ("FAILED", "node7\nbash: python: not found", "error", "job 5 on node7: FAILED: bash: python: not found"),
        ("PENDING", "", "warning", "job 5 is still PENDING"),
        # Standard error is in the log too: XLA's warnings, and what SLURM says at the end.
        ("COMPLETED", f"node7\nW0 cuda.cc] {{x}}\n{json.dumps(ANSWER, indent=1)}\nslurmstepd: done", "ok",
         "job 5 ran on node7: gpu: H100"),
    ],
)  # fmt: skip
def test_what_the_test_job_tells(state, log, level, what, tmp_path):
    found = submit.submission_finding("5", state, log, tmp_path)
    assert (found.level, found.what) == (level, what)


def test_submission_through_fake_commands(site, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "doctor-job-77.log"
    log.write_text(f"node7\n{json.dumps(ANSWER)}")
    fake(site, "sbatch", "77;lab")
    fake(site, "sacct", "77|COMPLETED|0:0|00:00:09|node7")
    (found,) = submit.check_submission(tmp_path, "gpu", ["--account=x"], wait_s=0.0)
    assert found.what == "job 77 ran on node7: gpu: H100"
    assert submit.sbatch(tmp_path, "gpu", ["--account=x"])[-2:] == ["--partition=gpu", "--account=x"]
    fake(site, "sbatch", "", 1)
    assert "refused" in submit.check_submission(tmp_path, None, [], wait_s=0.0)[0].what
    monkeypatch.setattr(slurm, "ASK_S", 0.2)
    (site / "sbatch").write_text("#!/bin/sh\nexec sleep 60\n")
    (slow,) = submit.check_submission(tmp_path, None, [], wait_s=0.0)
    assert (slow.level, slow.what) == ("error", "sbatch did not answer within 0 s")


# --------------------------------------------------------------------------- environment, data, disk, device


def test_versions_that_differ_from_the_lock_are_named():
    lock = environment.locked_versions(LOCK.read_text())
    assert lock["mujoco"] == "3.7.0"
    (good,) = environment.check_versions({"numpy": "2", "unused": "1"}, {"numpy": "2", "extra": "9"})
    assert (good.level, good.what) == ("ok", "1 packages have the versions of uv.lock")
    (bad,) = environment.check_versions({"numpy": "2", "jax": "1"}, {"numpy": "1", "jax": "1"})
    assert whats([bad]) == ["error: not the locked version: numpy 1 (lock: 2)"]


def test_only_a_package_that_computes_numbers_is_an_error():
    lock = {"jax": "1", "certifi": "1", "nvidia-cudnn-cu12": "1", "jax-cuda12-plugin": "1"}
    installed = {"jax": "2", "certifi": "2", "nvidia-cudnn-cu12": "2"}
    assert whats(environment.check_versions(lock, installed)) == [
        "error: not the locked version: jax 2 (lock: 1)",
        "warning: not the locked version: certifi 2 (lock: 1), nvidia-cudnn-cu12 2 (lock: 1)",
    ]
    on_gpu = {"nvidia-cudnn-cu12": "2", "jax-cuda12-plugin": "1"}  # JAX loads this cuDNN
    assert whats(environment.check_versions(lock, on_gpu)) == [
        "error: not the locked version: nvidia-cudnn-cu12 2 (lock: 1)"
    ]


def test_packages_that_compute_numbers_are_in_the_lock():
    assert set(environment.NUMBERS) <= set(environment.locked_versions(LOCK.read_text()))


def test_the_remedy_is_that_of_the_installer(tmp_path):
    def remedy(name):
        (found,) = environment.check_versions({"jax": "1"}, {"jax": "2"}, prefix=tmp_path / name)
        return found.command

    (tmp_path / "conda" / "conda-meta").mkdir(parents=True)
    for name, line in (("uv", "uv = 0.13.9"), ("pip", "version = 3.12.1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyvenv.cfg").write_text(f"home = /usr/bin\n{line}\n")
    assert remedy("conda") == f"conda env update --prefix {tmp_path}/conda --file {LOCK.parent}/environment.yml"
    assert remedy("uv") == "uv sync --inexact"
    assert remedy("pip") == f"{tmp_path}/pip/bin/pip install jax==1"


def test_a_simulator_is_stepped_and_a_missing_one_has_its_extra(monkeypatch):
    def missing(task):
        raise ConfigError("package 'robosuite': not installed")

    task = load_catalogue().tasks["lift"].spec
    monkeypatch.setattr("dfp.ops.doctor.environment.make_environment", missing)
    (found,) = environment.check_simulators([task, task])
    assert found.level == "error"
    assert found.command == environment.install_command(["--editable", ".[robomimic]"], "robomimic")
    assert "robomimic" in found.command or "environment.yml" in found.command

    def broken(task):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr("dfp.ops.doctor.environment.make_environment", broken)
    (found,) = environment.check_simulators([task])
    assert (found.level, found.what) == ("error", "lift (robomimic): cannot cache function: no locator available")


def test_the_real_simulator_steps():
    found = environment.check_simulator(load_catalogue().tasks["cube-single-task2"].spec)
    assert (found.level, found.what.split(":")[0]) == ("ok", "cube-single-task2 (ogbench)")


def test_rendering_in_a_process_of_its_own():
    assert environment.check_rendering(source="print(1)").level == "ok"
    broken = environment.check_rendering(source="raise RuntimeError('no EGL display')")
    assert broken.level == "error"
    assert broken.what.endswith("RuntimeError: no EGL display")
    assert environment.check_rendering(source="import os; os.abort()").level == "error"


def test_data_is_there_and_hashed(tmp_path):
    file = record(tmp_path, DOUBLE, npz(small()))
    (good,) = storage.check_datasets([DOUBLE, DOUBLE], DOWNLOAD, tmp_path)
    assert good.level == "ok"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the size stays
    file.write_bytes(content)
    (bad,) = storage.check_datasets([DOUBLE], DOWNLOAD, tmp_path)
    assert bad.level == "error"
    assert "sha256" in bad.what
    (absent,) = storage.check_datasets([DOUBLE], DOWNLOAD, tmp_path / "elsewhere")
    assert absent.level == "warning"
    assert storage.missing_data_bytes([DOUBLE, DOUBLE], DOWNLOAD, tmp_path) == 0
    # Five rows of a state of 37 numbers, ten bytes each.
    assert storage.missing_data_bytes([DOUBLE, DOUBLE], DOWNLOAD, tmp_path / "elsewhere") == 5 * 37 * 10


def test_disk_is_measured_against_what_is_to_come(tmp_path):
    assert storage.check_disk("data", tmp_path / "new" / "data", 1000, free=1200).level == "ok"
    (short,) = [storage.check_disk("data", tmp_path, 1000, free=1199)]
    assert whats([short])[0].startswith(f"error: data in {tmp_path}: about 1 kB still to come, 1.2 kB free")


def test_sizes_of_runs(tmp_path):
    spec = run_spec(load_config(CATALOGUE / "smoke.yaml"), load_catalogue(), "cube-single-task2", "dfp", 0)
    kept = state_bytes(spec)  # of the agent's own shapes: tests/ops/test_forecast.py
    # Two checkpoints besides, and 100 online steps of 28 + 5 + 3 numbers.
    one = 3 * kept + 100 * 36 * 4
    assert storage.results_bytes({"a": spec}, tmp_path, jobs=5) == one
    assert storage.results_bytes({"a": spec, "b": spec}, tmp_path, jobs=1) == one + kept
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.csv").touch()
    assert storage.results_bytes({"a": spec}, tmp_path, jobs=5) == 0


def test_a_fall_back_to_the_cpu_is_an_error_where_a_gpu_is_wanted():
    assert [one.level for one in device.device_findings("cpu", "x", 0.0, gpu=False)] == ["ok"]
    assert [one.level for one in device.device_findings("cpu", "x", 0.0, gpu=True)] == ["error"]
    assert [one.level for one in device.device_findings("gpu", "x", 0.0, gpu=True)] == ["ok"]
    assert "off by 60.0%" in device.device_findings("gpu", "x", 0.6, gpu=True)[0].what
    assert device.device_findings("gpu", "x", np.nan, gpu=True)[0].level == "error"
    assert device.check_device(gpu=False)[0].level == "ok"


def test_a_platform_that_is_not_installed_is_named():
    code = "from dfp.ops.doctor.device import check_device; print(check_device(gpu=True)[0].what)"
    environment = os.environ | {"JAX_PLATFORMS": "rocm"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("JAX finds no device: JAX_PLATFORMS=rocm: ")
    assert len(done.stdout.strip()) > len("JAX finds no device: JAX_PLATFORMS=rocm: ")


# --------------------------------------------------------------------------- the command


def test_findings_say_what_why_and_what_to_type():
    found = Finding("disk", "error", "full", "runs stop", "df -h")
    assert findings.lines(found) == ["error   disk: full", "        why: runs stop", "        type: df -h"]
    assert findings.summary([found, Finding("data", "ok", "there")]) == "1 error"


def test_the_command_ends_with_4_where_a_check_failed(tmp_path):
    env = os.environ | {"PATH": str(tmp_path)}
    line = [sys.executable, "-m", "dfp", "ops", "doctor", "--config", str(CATALOGUE / "smoke.yaml"), "--json"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*line, *more], env=env, capture_output=True, text=True, timeout=300, check=False)

    sound = run("--only", "slurm", "--only", "disk")
    assert sound.returncode == 0, sound.stderr
    assert [one["check"] for one in json.loads(sound.stdout)["findings"]] == ["disk", "disk", "disk", "slurm"]
    assert run("--only", "slurm", "--submit").returncode == 4
    wrong = run("--only", "gpus")
    assert wrong.returncode == 2
    assert "--only: 'gpus'; allowed: versions," in wrong.stderr
