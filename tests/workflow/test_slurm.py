"""The workflow on a real SLURM (support/slurm_cluster.py), disturbed in every way, ends as if nothing had happened."""

import contextlib
import datetime
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support.shipped import content
from support.slurm_cluster import Cluster, missing
from support.slurm_workflow import CHECKPOINT_S, CONTROLLERS, ROOT, CleanCheckout, Workflow, most_at_once, until

from dfp.runs.slurm import SLURM_MARGIN

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(missing() is not None, reason=f"no SLURM: {missing()}"),
]

# Toy networks and enough steps to be disturbed in the middle.
CONTENT = content() | {
    "results_dir": "results",
    "experiments": ["table2"],
    "training": {
        "batch_size": 32, "discount": 0.99, "learning_rate": 3.0e-4, "target_update_rate": 5.0e-3,
        "offline_steps": 4_000,
    },
    "online": {"steps": 1_500, "warmup_steps": 100, "buffer_capacity": 2_000_000},
    "evaluation": {"interval": 4_000, "episodes": 1},
}  # fmt: skip
MIDDLE = 200  # steps
SHORT_MIN = 2
TWO_GPUS = ("--resources", "gpu=2")  # as much as a small machine can train at once
PRETRAINED = ("pretrained/cube-single-task2/drifting/seed0", "pretrained/cube-single-task2/meanflow/seed0")
RUNS = tuple(f"runs/cube-single-task2/{method}/seed0" for method in ("mvp", "mvp-topk", "dfp-no-topk", "dfp"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        yield cluster.up()
    finally:
        for controller in CONTROLLERS:
            controller.kill()
            controller.wait()
        cluster.down()


def write_config(folder: Path) -> tuple[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "c.yaml").write_text(yaml.safe_dump(CONTENT))
    return "--configfile", "c.yaml"


def disturb(folder: Path, disturbances: dict[str, Callable[[str], object]]) -> None:
    """Do to each run what is meant for it, as soon as it is in the middle of training, whichever comes first."""
    waiting, begun = dict(disturbances), []

    def next_one() -> bool:
        for run in list(waiting):
            path = folder / "results" / run
            text = (path / "train.log").read_text() if (path / "train.log").exists() else ""
            if any(int(step) >= MIDDLE for step in re.findall(r"checkpoint at step (\d+)", text)):
                assert not (path / "finished").exists(), f"{run} was over before it could be disturbed: make it longer"
                begun.append(pool.submit(waiting.pop(run), run))
        return not waiting

    with ThreadPoolExecutor() as pool:  # one may take its time while the next one is due
        until("disturbed", next_one)
    for each in begun:
        each.result()


def same_results(one: Path, other: Path) -> None:
    """Every run's metrics but the seconds, and the table's bytes."""
    for run in (*PRETRAINED, *RUNS):
        rows = [pd.read_csv(folder / "results" / run / "metrics.csv").drop(columns="wall_s") for folder in (one, other)]
        pd.testing.assert_frame_equal(*rows, check_exact=True)
    for suffix in ("csv", "md", "tex"):
        name = f"results/table2.{suffix}"
        assert (one / name).read_bytes() == (other / name).read_bytes()


def attempts(folder: Path, run: str) -> int:
    """Attempts at a finished run, after a check that each went on from the last checkpoint before it."""
    text = (folder / "results" / run / "train.log").read_text()
    events = re.findall(r"(checkpoint at step|continues from step|finished after) (\d+)", text)
    last = None
    for event, number in events:
        if event == "continues from step":
            assert number == last, f"{run} went on from step {number}, though there was a checkpoint at {last}"
        last = number
    assert [event for event, _ in events].count("finished after") == 1, text
    return 1 + [event for event, _ in events].count("continues from step")


@pytest.fixture(scope="module")
def literal(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The command of the README in a clean checkout, with the profile as it is. It takes minutes, beside the others."""
    return CleanCheckout(cluster, tmp_path_factory.mktemp("checkout")).start()


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, literal: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    workflow = Workflow(cluster, folder, *write_config(folder), *TWO_GPUS).start()
    workflow.wait()
    assert most_at_once([job for job in workflow.jobs() if "TresPerJob" in job]) == 2
    assert [attempts(folder, run) for run in (*PRETRAINED, *RUNS)] == [1] * 6
    return folder


def test_a_disturbed_workflow_ends_as_the_undisturbed_one(cluster, undisturbed, tmp_path):
    shutil.copytree(undisturbed / "data", tmp_path / "data")
    # Too short for a pretraining that is held up (below).
    workflow = Workflow(
        cluster, tmp_path, *write_config(tmp_path), *TWO_GPUS, "--set-resources", f"pretrain:runtime={SHORT_MIN}"
    ).start()

    def hold_until_asked(run: str, pid: int) -> None:
        """The second copy takes its time to start; the first must not be over before, on a machine of any speed."""
        claim = tmp_path / "results" / run / "claim.json"
        # Held for very long it counts as dead: then it is not asked, and may write no more.
        until("asked", lambda: claim.exists() or workflow.trainer_of(run) != pid, seconds=300.0)
        os.kill(pid, signal.SIGCONT)

    def submit_again(run: str) -> None:
        """A second copy of the job, as SLURM would run it: the same script."""
        os.kill(pid := workflow.trainer_of(run), signal.SIGSTOP)
        (job,) = [job for job in workflow.jobs() if job["JobId"] == workflow.job_of(run)]
        script = cluster.call("scontrol", "write", "batch_script", job["JobId"], "-")
        (tmp_path / "copy.sh").write_text(script[script.index("#!") :])
        cluster.call(
            "sbatch", "--gpus=1", f"--mem={job['MinMemoryNode']}", f"--cpus-per-task={job['CPUs/Task']}",
            "-D", str(tmp_path), "-o", str(tmp_path / "copy.log"), str(tmp_path / "copy.sh"),
        )  # fmt: skip
        hold_until_asked(run, pid)

    def restart_slurmctld_and_let_time_run_out(run: str) -> None:
        """The run is held up until it is late, on a machine of any speed, but not until SLURM would kill it."""
        os.kill(pid := workflow.trainer_of(run), signal.SIGSTOP)
        cluster.stop_controller()
        time.sleep(5.0)  # longer than the interval between status checks
        cluster.start_controller()
        (job,) = [job for job in workflow.jobs() if job["JobId"] == workflow.job_of(run)]
        start = datetime.datetime.fromisoformat(job["StartTime"]).timestamp()
        late = start + 60 * SHORT_MIN * (1.0 - SLURM_MARGIN) + 1.0
        until("late", lambda: time.time() > late)
        os.kill(pid, signal.SIGCONT)

    def requeue(run: str) -> None:
        until("slurmctld answers", lambda: cluster.call("scontrol", "requeue", workflow.job_of(run)) == "")

    def restart_controller(run: str) -> None:
        os.kill(pid := workflow.trainer_of(run), signal.SIGSTOP)
        workflow.kill()
        workflow.unlock()
        workflow.start()
        hold_until_asked(run, pid)

    disturbances = {
        PRETRAINED[0]: lambda run: cluster.call("scancel", workflow.job_of(run)),
        PRETRAINED[1]: restart_slurmctld_and_let_time_run_out,
        RUNS[0]: workflow.kill_trainer,
        RUNS[1]: submit_again,
        RUNS[2]: requeue,
        RUNS[3]: restart_controller,
    }
    disturb(tmp_path, disturbances)
    workflow.wait()

    same_results(undisturbed, tmp_path)
    counts = {run: attempts(tmp_path, run) for run in disturbances}
    # More than two where the death of the controller met them as well.
    assert all(count >= 2 for count in counts.values()), counts
    logs = "".join(path.read_text() for path in (tmp_path / ".snakemake" / "slurm_logs").rglob("*.log"))
    assert "deadline reached at step" in logs
    assert "another job asks for the run at step" in logs


def test_a_pack_loses_no_finished_run_and_ends_as_single_runs(cluster, undisturbed, tmp_path):
    """Two of three members are killed once; the third, and what was finished, is not trained again."""
    shutil.copytree(undisturbed / "data", tmp_path / "data")
    workflow = Workflow(
        cluster, tmp_path, *write_config(tmp_path), "--config", "pack=3", "--resources", "gpu=1"
    ).start()

    disturb(tmp_path, {RUNS[0]: workflow.kill_trainer, RUNS[1]: workflow.kill_trainer})
    workflow.wait()

    same_results(undisturbed, tmp_path)
    assert [attempts(tmp_path, run) for run in (*PRETRAINED, *RUNS)] == [1, 1, 2, 2, 1, 1]
    assert not (tmp_path / "results" / "packs").exists() or not list((tmp_path / "results" / "packs").rglob("seed*"))
    # Two runs in one job, then three and one; one job at a time, since the user's cap is one GPU.
    comments = [job["Comment"] for job in workflow.jobs()]
    assert [sum("_pack_" in comment for comment in comments), len(comments)] == [4, 4]
    assert most_at_once(workflow.jobs()) == 1


def test_a_full_disk_costs_nothing(cluster, undisturbed, tmp_path):
    for name in ("data", "results/pretrained"):
        shutil.copytree(undisturbed / name, tmp_path / name)
    run = tmp_path / "results" / RUNS[0]
    run.mkdir(parents=True)
    size = "16M"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "dfp-test", str(run)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        target = f"results/{RUNS[0]}/metrics.csv"
        workflow = Workflow(cluster, tmp_path, *write_config(tmp_path), target=target).start()

        def fill(_: str) -> None:
            filler = run / "filler"
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            time.sleep(4 * CHECKPOINT_S)
            assert not (run / "finished").exists(), "finished before the disk was full: make the run longer"
            filler.unlink()

        disturb(tmp_path, {RUNS[0]: fill})
        workflow.wait()
        log = (run / "train.log").read_text()
        assert re.search(r"checkpoint at step \d+ not written: .*no space", log)
        # One attempt: it went on, and the next checkpoint found room.
        assert attempts(tmp_path, RUNS[0]) == 1
        frames = [pd.read_csv(folder / target).drop(columns="wall_s") for folder in (tmp_path, undisturbed)]
        pd.testing.assert_frame_equal(*frames, check_exact=True)
    finally:
        subprocess.run(["umount", str(run)], check=True)


def test_a_job_with_a_gpu_does_not_train_on_a_cpu(cluster, tmp_path, monkeypatch):
    """What a broken driver gives: an allocation with a GPU in which JAX finds none."""
    monkeypatch.delenv("JAX_PLATFORMS")
    cell = "--config config/smoke.yaml --task cube-single-task2 --method dfp --seed 0"
    command = f"{sys.executable} -m dfp train pretrain {cell} --run-dir {tmp_path}/run"
    log = tmp_path / "log"
    with pytest.raises(subprocess.CalledProcessError) as failed:
        cluster.call("sbatch", "--wait", "--gpus=1", "--mem=1000", "-D", str(ROOT), "-o", str(log), "--wrap", command)
    assert failed.value.returncode == 3
    assert log.read_text().splitlines()[-1].startswith("dfp: JAX_PLATFORMS=cuda: ")


def test_the_doctor_sends_a_job_that_looks_for_its_device(cluster, tmp_path):
    command = [sys.executable, "-m", "dfp", "ops", "doctor", "--only", "slurm", "--submit"]
    command += ["--config", str(ROOT / "config" / "smoke.yaml")]
    environment = os.environ | cluster.environment | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    # Jobs take the environment along: JAX_PLATFORMS is cpu in these tests, and the one GPU of the job a fake.
    assert done.returncode == 4, done.stdout
    assert re.search(r"^error +test job: job \d+ ran on \S+: no GPU: JAX fell back to the CPU", done.stdout, re.M)


def test_the_site_says_where_and_the_profile_does_not_overrule_it(cluster, undisturbed, tmp_path):
    """A site with `gres`, a partition of its own and shorter jobs, in one small file beside the profile."""
    for name in ("data", "results/pretrained"):
        shutil.copytree(undisturbed / name, tmp_path / name)
    site = yaml.safe_load((ROOT / "workflow" / "profiles" / "site-gres" / "config.yaml").read_text())
    site["default-resources"] = {"slurm_partition": "other"}
    site["slurm-status-command"] = "squeue"  # there is no accounting here
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
    target = f"results/{RUNS[3]}/metrics.csv"
    workflow = Workflow(cluster, tmp_path, *write_config(tmp_path), "--profile", "site.yaml", target=target).start()
    workflow.wait()
    (job,) = workflow.jobs()
    assert job["Partition"] == "other"
    assert job["TresPerNode"] == "gres:gpu:1"
    assert "TresPerJob" not in job
    minutes = site["set-resources"]["finetune"]["runtime"]
    assert job["TimeLimit"] == f"{minutes // 60:02d}:{minutes % 60:02d}:00"
    assert job["Requeue"] == "1"  # of the profile


def test_the_command_of_the_readme_in_a_clean_checkout(literal):
    literal.wait()
    results = literal.folder / "results" / "smoke"
    assert (results / "table2.csv").exists()
    assert (results / "report.html").exists()
    jobs = {job["Comment"]: job for job in literal.jobs()}
    training = [job for comment, job in jobs.items() if re.match("rule_(pretrain|finetune)_", comment)]
    assert len(training) == 6
    for job in training:
        assert job["TresPerJob"] == "gres:gpu:1"
        assert job["CPUs/Task"] == "4"
        assert job["MinMemoryNode"] == "12000M"
    assert most_at_once(training) >= 2
    # Logs of training where the README says, and SLURM's own where the plugin says.
    for rule in ("pretrain", "finetune"):
        assert list((results / "logs" / rule).glob("cube-single-task2/*/seed0.log"))
