"""Options that several commands share, and what a command does before JAX is imported."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

SLURM_MARGIN_S = 180.0  # what is left of the allocation for the last block, the checkpoint and the shutdown
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
CheckpointOption = Annotated[float, typer.Option("--checkpoint-minutes", min=0.0, help="Minutes between checkpoints.")]
TimeLimitOption = Annotated[
    float | None, typer.Option("--time-limit", min=0.0, help="Minutes after which to save and exit with code 75.")
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="CPU cores to use; default: all.")]
AllowCpuOption = Annotated[bool, typer.Option("--allow-cpu", help="Train on a CPU however long it takes.")]


def deadline(minutes: float | None) -> float | None:
    """When to be saved: the given limit, or the end of the SLURM allocation, whichever comes first."""
    limits = [] if minutes is None else [time.time() + 60.0 * minutes]
    if (end := os.environ.get("SLURM_JOB_END_TIME", "")).isdigit():
        limits.append(float(end) - SLURM_MARGIN_S)
    return min(limits, default=None)


def prepare_xla(threads: int | None) -> None:
    """Before JAX is imported. Flags that are set already stay.

    One job must not spread over the cores of its neighbours; and XLA left alone uses half of a CPU's widest vectors,
    with which an update of the paper's size takes 2 % longer.
    """
    flags = ["--xla_cpu_prefer_vector_width=512"]
    if threads is not None:
        flags.append(f"--xla_cpu_multi_thread_eigen={'false' if threads == 1 else 'true'}")
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()
