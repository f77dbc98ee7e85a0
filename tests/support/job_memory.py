"""What a job of the paper's grid takes of main memory: the numbers behind workflow/rules/needs.smk.

    python tests/support/job_memory.py [--tasks cube-triple-task2,cube-quadruple-task2] [--method dfp] [--workers 4]

Pretrains and fine-tunes at the paper's sizes (Table 5's networks, batch and buffer, datasets of full size with random
rows), but for few steps, and prints the peak that each job recorded: its process and its simulators. On a CPU the
rows that a GPU would hold are in main memory too, while CUDA's own share of it is missing. Not part of CI.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from support.helpers import TASKS, full_size

from dfp.plan.catalogue import load_catalogue, load_config, run_spec
from dfp.runs.attempts import read_attempts
from dfp.spec import RunSpec

ROOT = Path(__file__).resolve().parents[2]
UPDATES, STEPS = 40, 60


def shortened(spec: RunSpec) -> RunSpec:
    """The run with few updates, of which each file of the dataset gets some, and one evaluation at the end."""
    assert spec.online is not None
    task = spec.task.model_copy(update={"shards": min(spec.task.shards, 3), "shard_interval": UPDATES // 3})
    return spec.model_copy(
        update={
            "task": task,
            "training": spec.training.model_copy(update={"offline_steps": UPDATES}),
            "online": spec.online.model_copy(update={"steps": STEPS, "warmup_steps": STEPS // 2}),
            "evaluation": spec.evaluation.model_copy(update={"interval": UPDATES + STEPS, "episodes": 4}),
        }
    )


def job(stage: str, spec: RunSpec, folder: Path, workers: int, *more: str) -> None:
    """Run it as the workflow does, and print its peak."""
    command = [sys.executable, "-m", "dfp", "train", stage, "--spec", spec.canonical()]
    command += ["--run-dir", str(folder / stage)]
    command += ["--data-dir", str(folder / "data"), "--threads", str(workers), "--allow-cpu", *more]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"{spec.task.key} {stage} {workers} workers: {read_attempts(folder / stage)[-1].peak_mb:,} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", default="cube-triple-task2,cube-quadruple-task2")
    parser.add_argument("--method", default="dfp")
    parser.add_argument("--workers", type=int, default=4, help="evaluation processes; the profile's cores per job")
    given = parser.parse_args()
    catalogue, config = load_catalogue(), load_config(ROOT / "config" / "config.yaml")
    for name in given.tasks.split(","):
        spec = shortened(run_spec(config, catalogue, name, given.method, 0))
        with tempfile.TemporaryDirectory() as folder:
            full_size(Path(folder) / "data", spec.task, rows=TASKS[name].rows // TASKS[name].shards // 1000 * 1001)
            job("pretrain", spec.pretraining(), Path(folder), given.workers)
            job("finetune", spec, Path(folder), given.workers, "--pretrained", str(Path(folder) / "pretrain"))


if __name__ == "__main__":
    main()
