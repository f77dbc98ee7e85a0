"""Options that several commands share, and what a command does before JAX is imported."""

import datetime
import os
import subprocess
import time
from pathlib import Path
from typing import Annotated

import typer

# What is left of an allocation for the last block of work, the checkpoint and the shutdown: seconds, but of a short
# allocation at most this part.
SLURM_MARGIN_S = 180.0
SLURM_MARGIN = 0.2
DEFAULT_CONFIG = Path("config/config.yaml")

ConfigOption = Annotated[Path, typer.Option("--config", help="Configuration file.")]
ResultsOption = Annotated[Path, typer.Option("--results-dir", help="Folder with runs.csv and the run folders.")]
PartialOption = Annotated[bool, typer.Option("--partial", help="Show what has finished; say how much is missing.")]
SpecOption = Annotated[str | None, typer.Option("--spec", help="The run as canonical JSON, instead of a cell.")]
TaskOption = Annotated[str | None, typer.Option("--task", help="Task key.")]
MethodOption = Annotated[str | None, typer.Option("--method", help="Method key, from config/methods.yaml.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Seed.")]
ConfigOrNone = Annotated[Path | None, typer.Option("--config", help="Configuration, with --task, --method, --seed.")]
RunDirOption = Annotated[Path | None, typer.Option("--run-dir", help="Default: the run's place in the results.")]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="Default: the configuration's.")]
CheckpointOption = Annotated[
    float,
    typer.Option("--checkpoint-minutes", min=0.0, envvar="DFP_CHECKPOINT_MINUTES", help="Minutes between checkpoints."),
]
TimeLimitOption = Annotated[
    float | None, typer.Option("--time-limit", min=0.0, help="Minutes after which to save and exit with code 75.")
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="CPU cores to use; default: all.")]
AllowCpuOption = Annotated[bool, typer.Option("--allow-cpu", help="Train on a CPU however long it takes.")]


def deadline(minutes: float | None) -> float | None:
    """When to be saved: the given limit, or short of the end of the SLURM allocation, whichever comes first."""
    limits = [] if minutes is None else [time.time() + 60.0 * minutes]
    if (allocation := slurm_allocation()) is not None:
        start, end = allocation
        limits.append(end - min(SLURM_MARGIN_S, SLURM_MARGIN * (end - start)))
    return min(limits, default=None)


def slurm_allocation() -> tuple[float, float] | None:
    """Start and end (seconds since 1970) of the SLURM job this is; none outside one, or without a time limit."""
    job = os.environ.get("SLURM_JOB_ID")
    start, end = (os.environ.get(f"SLURM_JOB_{name}_TIME", "") for name in ("START", "END"))
    if job is None or (start.isdigit() and end.isdigit()):
        return (float(start), float(end)) if start.isdigit() and end.isdigit() else None
    # Before version 22.05.6 SLURM does not set them.
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%S %e"]
    environment = os.environ | {"SLURM_TIME_FORMAT": "standard"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        start, end = (datetime.datetime.fromisoformat(text).timestamp() for text in done.stdout.split())
    except (OSError, subprocess.SubprocessError, ValueError):  # "NONE": no limit
        return None
    return start, end


def expect_gpu() -> None:
    """A SLURM job that was given a GPU trains on it or not at all: a broken driver must not pass for a slow run.

    Before JAX is imported, which is when it reads this; what is set already stays.
    """
    if os.environ.get("SLURM_JOB_GPUS") or os.environ.get("SLURM_STEP_GPUS"):
        os.environ.setdefault("JAX_PLATFORMS", "cuda")


def prepare_xla(threads: int | None) -> None:
    """Before JAX is used. Flags that are set already stay.

    One job must not spread over the cores of its neighbours; and XLA left alone uses half of a CPU's widest vectors,
    with which an update of the paper's size takes 2 % longer.
    """
    flags = ["--xla_cpu_prefer_vector_width=512"]
    if threads is not None:
        flags.append(f"--xla_cpu_multi_thread_eigen={'false' if threads == 1 else 'true'}")
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()
