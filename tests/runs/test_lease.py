"""Who writes a run folder; what is kept of a finished run; several runs in one job; the end of an allocation."""

import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from support.helpers import CUBE, wait_until
from typer.testing import CliRunner

import dfp.runs.lease
from dfp.__main__ import app
from dfp.commands.options import expect_gpu
from dfp.errors import is_disk_full
from dfp.ops.pack import Member, exit_code, parse_members, run_pack
from dfp.plan.catalogue import load_catalogue, load_config
from dfp.plan.experiments import plan
from dfp.runs.finished import describe, identity, keep, problem, recall
from dfp.runs.layout import RunFolderError
from dfp.runs.lease import Lease, Watch
from dfp.runs.online_rows import OnlineRows
from dfp.runs.slurm import deadline
from dfp.spec import ConfigError

SPECS = plan(load_config(Path("config/smoke.yaml")), load_catalogue()).specs
SPEC = SPECS["pretrained/cube-single-task2/drifting/seed0"]
OTHER = SPECS["pretrained/cube-single-task2/meanflow/seed0"]
FINETUNING = SPECS["runs/cube-single-task2/dfp/seed0"]


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(dfp.runs.lease, "WATCH_S", 0.02)


def test_a_job_asks_for_a_run_and_gets_it_when_the_owner_leaves(job, tmp_path):
    taken = threading.Event()

    def second() -> None:
        with Lease(tmp_path):
            taken.set()

    with Lease(tmp_path) as first:
        assert not first.asked
        thread = threading.Thread(target=second)
        thread.start()
        wait_until(lambda: first.asked)
        assert not taken.is_set()
    assert taken.wait(60.0)
    thread.join()
    # Nothing is left that would make the next owner leave at once.
    assert list(tmp_path.iterdir()) == []


def test_of_two_jobs_that_wait_the_later_one_gets_the_run(job, tmp_path):
    with Lease(tmp_path):
        earlier = Lease(tmp_path)
        (tmp_path / "claim.json").write_text(json.dumps({"since": time.time_ns(), "job": "8"}))
        with pytest.raises(RunFolderError, match="job 8 waits for it"):
            earlier.__enter__()


def test_an_owner_that_does_not_leave_keeps_its_run(job, tmp_path, monkeypatch):
    monkeypatch.setattr(dfp.runs.lease, "HANDOVER_S", 0.1)
    monkeypatch.setattr(dfp.runs.lease, "HEARTBEAT_S", 0.02)
    with Lease(tmp_path) as owner:
        with pytest.raises(RunFolderError, match="in use by process"):
            Lease(tmp_path).__enter__()
        owner.confirm()


def test_a_claim_that_nobody_renews_makes_no_owner_leave(job, tmp_path):
    (tmp_path / "claim.json").write_text(json.dumps({"since": 1, "job": "8"}))
    with Lease(tmp_path) as owner:
        time.sleep(0.2)
        assert not owner.asked
        (tmp_path / "claim.json").write_text(json.dumps({"since": 2, "job": "9"}))
        wait_until(lambda: owner.asked)
        wait_until(lambda: not owner.asked)


def test_an_owner_that_was_taken_for_dead_writes_nothing(tmp_path):
    with Lease(tmp_path) as sleeper:
        sleeper.confirm()
        (tmp_path / "lease.json").write_text(json.dumps({"host": "elsewhere", "pid": 1, "job": "9", "since": 1}))
        with pytest.raises(RunFolderError, match="process 1 on elsewhere, job 9"):
            sleeper.confirm()
    assert (tmp_path / "lease.json").exists()


def test_two_processes_that_find_a_dead_owner_do_not_both_take_the_run(tmp_path, monkeypatch):
    """The second one comes to remove the dead owner's lease when the first one has replaced it already."""
    with Lease(tmp_path):
        owner = json.loads((tmp_path / "lease.json").read_text())
    (tmp_path / "lease.json").write_text(json.dumps(owner | {"pid": 2**22 + 1}))
    monkeypatch.setattr(dfp.runs.lease, "WATCH_S", 0.02)
    first, second, is_dead = Lease(tmp_path), Lease(tmp_path), dfp.runs.lease._is_dead

    def overtaken(found) -> bool:
        monkeypatch.setattr(dfp.runs.lease, "_is_dead", is_dead)
        first.__enter__()
        return is_dead(found)

    monkeypatch.setattr(dfp.runs.lease, "_is_dead", overtaken)
    with pytest.raises(RunFolderError, match="in use by process"):
        second.__enter__()
    first.confirm()
    first.__exit__()
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_another_container_is_not_looked_for_among_ours(tmp_path):
    """Containers on a host's network share its name: there the number is of another process, or of none here."""
    with Lease(tmp_path):
        owner = json.loads((tmp_path / "lease.json").read_text())
    assert owner["pid_namespace"] == os.readlink("/proc/self/ns/pid")
    gone = owner | {"pid": 2**22 + 1}
    assert dfp.runs.lease._is_dead(gone)
    assert not dfp.runs.lease._is_dead(gone | {"pid_namespace": "pid:[1]"})
    del gone["pid_namespace"]
    assert not dfp.runs.lease._is_dead(gone)


def test_a_hiccup_of_the_file_system_does_not_end_the_heartbeat(job, tmp_path, monkeypatch):
    monkeypatch.setattr(dfp.runs.lease, "HEARTBEAT_S", 0.02)
    missed, utime = [], os.utime

    def stale_once(path) -> None:
        if not missed:
            missed.append(path)
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        utime(path)

    monkeypatch.setattr(os, "utime", stale_once)
    with Lease(tmp_path):
        watch = Watch(tmp_path / "lease.json")
        wait_until(lambda: watch.quiet_s() < 0.01 and watch.changed, seconds=10.0)
    assert missed == [tmp_path / "lease.json"]


def test_a_lease_that_cannot_be_read_is_not_taken_for_anothers(tmp_path, monkeypatch):
    def stale(path) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    with Lease(tmp_path) as owner:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", stale)
            with pytest.raises(OSError, match=r"Stale file handle: .*lease\.json"):
                owner.confirm()
        owner.confirm()


def finish(folder: Path, spec=SPEC, text: str = "rows") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "agent.npz").write_text("weights")
    (folder / "metrics.csv").write_text(text)
    results = {name: describe((folder / name).read_bytes()) for name in ("agent.npz", "metrics.csv")}
    (folder / "manifest.json").write_text(json.dumps({"digest": spec.digest(), "results": results}))


def test_what_snakemake_deletes_of_a_finished_run_comes_back(tmp_path):
    run, names = tmp_path / "run", ("agent.npz", "metrics.csv", "manifest.json")
    finish(run)
    before = {name: (run / name).read_bytes() for name in names}
    keep(run, "start")
    assert (run / "agent.npz").stat().st_nlink == 2  # no second copy
    for name in names:
        (run / name).unlink()
    assert not recall(run, OTHER, "start")
    assert not recall(run, SPEC, "another start")
    assert not (run / "metrics.csv").exists()
    assert recall(run, SPEC, "start")
    assert {name: (run / name).read_bytes() for name in names} == before


def test_a_record_with_a_damaged_result_is_none(tmp_path):
    run = tmp_path / "run"
    finish(run)
    keep(run, None)
    assert problem(run, SPEC.digest()) is None
    (run / "agent.npz").write_text("weightz")  # the same file under both names
    assert problem(run, SPEC.digest()) is not None
    assert not recall(run, SPEC, None)
    (run / "agent.npz").unlink()
    (run / "finished" / "agent.npz").unlink()
    assert not recall(run, SPEC, None)


def test_a_record_that_was_not_completed_is_none(tmp_path, monkeypatch):
    run = tmp_path / "run"
    finish(run)
    keep(run, None)
    finish(run, OTHER, "other rows")
    monkeypatch.setattr(os, "utime", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        keep(run, None)
    monkeypatch.undo()
    assert not recall(run, SPEC, None)
    assert not recall(run, OTHER, None)


def test_a_start_is_known_by_its_content(tmp_path):
    assert identity(None) is None
    assert identity(tmp_path) is None
    (tmp_path / "agent.npz").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert identity(tmp_path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_member_that_started_from_another_pretraining_is_not_finished(tmp_path):
    run, pretrained = tmp_path / "run", tmp_path / "pretrained"
    finish(run)
    pretrained.mkdir()
    (pretrained / "agent.npz").write_bytes(b"abc")
    keep(run, identity(pretrained))
    member = Member(SPEC, run, pretrained)
    assert member.finished()
    (pretrained / "agent.npz").write_bytes(b"made again")
    assert not member.finished()
    assert "another pretraining" in str(problem(run, SPEC.digest(), identity(pretrained)))
    (pretrained / "agent.npz").unlink()  # nothing to compare with
    assert member.finished()


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([], 0), ([0, 0], 0), ([0, 75, 3], 75), ([0, -9, 2], 75), ([0, 3, 2], 3)],
)
def test_a_pack_is_unfinished_if_a_member_is(codes, expected):
    assert exit_code(codes) == expected


def test_a_member_that_fails_or_dies_leaves_the_others_alone(tmp_path, monkeypatch, capfd):
    """Members are stand-ins that end in every way; the last one ends long after the others."""
    child = tmp_path / "python"
    child.write_text(
        f"#!{sys.executable}\n"
        "import os, signal, sys, time\n"
        "folder = sys.argv[sys.argv.index('--run-dir') + 1]\n"
        "threads = sys.argv[sys.argv.index('--threads') + 1]\n"
        "print(threads, os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'])\n"
        "if folder.endswith('bad'): sys.exit(3)\n"
        "if folder.endswith('killed'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(1.0)\n"
        "print('to the end')\n"
    )
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    done = tmp_path / "done"
    finish(done)
    keep(done, None)
    (done / "metrics.csv").unlink()
    names = ("done", "bad", "killed", "good")
    assert run_pack([Member(SPEC, tmp_path / name, None) for name in names], [], threads=7) == 75
    output = capfd.readouterr().out
    # Three are started: a finished member is not, and its results are there.
    assert output.count("2 0.300") == 3
    assert (done / "metrics.csv").exists()
    assert f"{tmp_path.name}/good] to the end" in output
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_seeds_of_an_offline_phase_are_one_process_of_a_pack(tmp_path, monkeypatch, capfd):
    """Of three seeds and a fine-tuning, one seed finished: the other two are one child, the fine-tuning another."""
    child = tmp_path / "python"
    child.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "runs = json.loads(sys.argv[sys.argv.index('--runs') + 1]) if '--runs' in sys.argv else []\n"
        "print(sys.argv[4], [run['spec']['seed'] for run in runs], os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'])\n"
    )
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    specs = [SPEC.model_copy(update={"seed": seed}) for seed in range(3)]
    finish(tmp_path / "seed1", specs[1])
    members = [Member(spec, tmp_path / f"seed{spec.seed}", None) for spec in specs]
    assert run_pack([*members, Member(FINETUNING, tmp_path / "run", tmp_path)], [], threads=2, seeds_per_job=3) == 0
    lines = capfd.readouterr().out.splitlines()
    assert sorted(line.partition("] ")[2] for line in lines if "exit code" not in line) == [
        "finetune [] 0.450",
        "seeds [0, 2] 0.450",
    ]


def test_runs_that_differ_in_more_than_their_seeds_are_no_program():
    entries = [
        {"spec": spec.model_dump(mode="json"), "run_dir": name, "pretrained": None}
        for name, spec in (("a", SPEC), ("b", OTHER), ("c", FINETUNING))
    ]
    for runs in (entries[:2], entries[2:] + entries[:1]):
        done = CliRunner().invoke(app, ["train", "seeds", "--runs", json.dumps(runs), "--data-dir", "data"])
        assert "differ in their seeds alone" in str(done.exception)


@pytest.mark.parametrize("text", ["{", "[1]", '[{"spec": {}}]'])
def test_a_pack_that_is_none_is_named(text):
    with pytest.raises(ConfigError, match=r"--runs: .*spec, run_dir and pretrained"):
        parse_members(text)


def test_two_members_need_two_folders():
    member = {"spec": SPEC.model_dump(mode="json"), "run_dir": "a", "pretrained": None}
    with pytest.raises(ConfigError, match="two runs have one folder"):
        parse_members(json.dumps([member, member]))


@pytest.mark.parametrize(("minutes", "margin"), [(600, 180.0), (10, 120.0), (1, 12.0)])
def test_the_end_of_the_allocation_is_the_deadline_less_a_margin(monkeypatch, minutes, margin):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_START_TIME", "1000")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(1000 + 60 * minutes))
    found = deadline(None)
    assert found is not None
    assert found - time.monotonic() == pytest.approx(1000 + 60 * minutes - margin - time.time(), abs=1.0)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("1970-01-02T00:00:00 1970-01-02T10:00:00", 10 * 3600.0 - 180.0), ("1970-01-02T00:00:00 NONE", None), ("", None)],
)
def test_an_older_slurm_is_asked_for_the_end(monkeypatch, tmp_path, answer, expected):
    squeue = tmp_path / "squeue"
    squeue.write_text(f'#!/bin/sh\necho "{answer}"\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    start = time.mktime((1970, 1, 2, 0, 0, 0, 0, 0, 0))
    found = deadline(None)
    left = None if expected is None else pytest.approx(start + expected - time.time(), abs=1.0)
    assert (None if found is None else found - time.monotonic()) == left


def test_outside_slurm_there_is_no_deadline():
    assert deadline(None) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, None), ({"SLURM_JOB_GPUS": "0"}, "cuda"), ({"SLURM_JOB_GPUS": "0", "JAX_PLATFORMS": "rocm"}, "rocm")],
)
def test_a_job_with_a_gpu_wants_it(monkeypatch, given, expected):
    monkeypatch.delenv("JAX_PLATFORMS")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    expect_gpu()
    assert os.environ.get("JAX_PLATFORMS") == expected
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)


def test_a_full_disk_is_told_from_other_errors():
    assert is_disk_full(OSError(errno.ENOSPC, "full"))
    assert is_disk_full(OSError(errno.EDQUOT, "quota"))
    assert not is_disk_full(OSError(errno.EIO, "broken"))
    assert not is_disk_full(ValueError())


def test_rows_that_were_written_in_part_are_cut_off(tmp_path, monkeypatch):
    rows = OnlineRows(tmp_path / "rows", CUBE)
    observation, action = [0.0] * CUBE.observation_size, [0.0] * CUBE.action_size

    def add(reward: float) -> None:
        rows.add(observation, action, reward, 1.0, None)  # pyright: ignore[reportArgumentType]

    add(1.0)
    assert rows.flush() == 1
    whole = (tmp_path / "rows").read_bytes()
    add(2.0)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        rows.flush()
    assert (tmp_path / "rows").read_bytes() == whole
    monkeypatch.undo()
    assert rows.flush() == 2
    assert rows.read()["reward"].tolist() == [1.0, 2.0]
    shutil.rmtree(tmp_path)
