"""``python -m dfp <command>``: every step of the workflow, also by hand, without Snakemake.

Exit codes: 0 done; 2 bad input, one line on standard error; 3 training had to stop; 4 a check failed;
75 unfinished, run me again.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from dfp.spec import ConfigError, RunSpec, load_catalogue, load_config

FAILED_CHECK = 4
UNFINISHED = 75  # EX_TEMPFAIL: everything is saved, the same command continues
SLURM_MARGIN_S = 180.0  # what is left of the allocation for the last block, the checkpoint and the shutdown

app = typer.Typer(
    help="Drifting Field Policy, reproduced.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[Path, typer.Option("--config", help="Configuration file.")]
ResultsOption = Annotated[Path, typer.Option("--results-dir", help="Folder with runs.csv and the run folders.")]
PartialOption = Annotated[bool, typer.Option("--partial", help="Show what has finished; say how much is missing.")]
DEFAULT_CONFIG = Path("config/config.yaml")


# --------------------------------------------------------------------------- data


@app.command("data")
def prepare(
    what: Annotated[list[str], typer.Argument(metavar="[check] TASK", help="Task key, from config/tasks.yaml.")],
    config: ConfigOption = DEFAULT_CONFIG,
    data: Annotated[str | None, typer.Option("--data", help="Source as JSON, instead of the configuration's.")] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Default: the configuration's.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that generate episodes.")] = 1,
    demonstrations: Annotated[int | None, typer.Option(min=1, help="check: how many; default: all.")] = None,
) -> None:
    """Download a task's dataset, or generate it, as the configuration says.

    `data check TASK` plays recorded actions again and says how many demonstrations succeed as they did (Robomimic).
    """
    from dfp import tasks
    from dfp.spec import lookup, parse_data

    *action, key = what
    if action not in ([], ["check"]):
        raise ConfigError(f"data: '{' '.join(what)}'; allowed: TASK, or check TASK")
    spec = lookup(load_catalogue().tasks, key, "task", "tasks.yaml").spec
    source = load_config(config).data if data is None else parse_data(data)
    folder = data_dir or Path(load_config(config).data_dir)

    def report(line: str) -> None:
        typer.echo(line, err=True)

    if not action:
        typer.echo(tasks.prepare_dataset(spec, source, folder, processes, report))
        return
    replay = tasks.check(spec, source, folder, demonstrations, report)
    typer.echo(replay.verdict())
    if not replay.passed:
        raise typer.Exit(FAILED_CHECK)


# --------------------------------------------------------------------------- training

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


@app.command()
def pretrain(
    spec: SpecOption = None, task: TaskOption = None, method: MethodOption = None, seed: SeedOption = None,
    config: ConfigOrNone = None, run_dir: RunDirOption = None, data_dir: DataDirOption = None,
    checkpoint_minutes: CheckpointOption = 10.0, time_limit: TimeLimitOption = None,
    threads: ThreadsOption = None, allow_cpu: AllowCpuOption = False,
) -> None:  # fmt: skip
    """The offline phase of a cell. Methods whose offline phases are equal share it."""
    run, folder, _, data_folder = _run(spec, task, method, seed, config, run_dir, None, data_dir, "pretrain")
    _prepare_xla(threads)
    from dfp import train

    options = train.Options(data_folder, 60 * checkpoint_minutes, _deadline(time_limit), threads, allow_cpu)
    train.pretrain(run, folder, options)


@app.command()
def finetune(
    spec: SpecOption = None, task: TaskOption = None, method: MethodOption = None, seed: SeedOption = None,
    config: ConfigOrNone = None, run_dir: RunDirOption = None,
    pretrained: Annotated[Path | None, typer.Option("--pretrained", help="Folder of the finished pretraining.")] = None,
    data_dir: DataDirOption = None,
    checkpoint_minutes: CheckpointOption = 10.0, time_limit: TimeLimitOption = None,
    threads: ThreadsOption = None, allow_cpu: AllowCpuOption = False,
) -> None:  # fmt: skip
    """The online phase of a cell, from its finished pretraining."""
    run, folder, start, data_folder = _run(spec, task, method, seed, config, run_dir, pretrained, data_dir, "finetune")
    _prepare_xla(threads)
    from dfp import train

    options = train.Options(data_folder, 60 * checkpoint_minutes, _deadline(time_limit), threads, allow_cpu)
    train.finetune(run, folder, start, options)


@app.command()
def show(
    folder: Annotated[Path | None, typer.Argument(help="Folder of a run, or name a cell by the options.")] = None,
    task: TaskOption = None, method: MethodOption = None, seed: SeedOption = None, config: ConfigOrNone = None,
    stage: Annotated[str, typer.Option("--stage", help="pretrain or finetune, of a cell.")] = "finetune",
) -> None:  # fmt: skip
    """The exact command of a run, every number of its spec, and where each comes from."""
    from dfp.show import describe, read_run

    if folder is not None:
        run, command = read_run(folder)
    else:
        run, *_ = _run(None, task, method, seed, config, None, None, None, stage)
        cell = f"--config {config or DEFAULT_CONFIG} --task {task} --method {method} --seed {seed}"
        command = f"python -m dfp {stage} {cell}"
    typer.echo(describe(run, load_catalogue(), command))


def _run(
    spec: str | None, task: str | None, method: str | None, seed: int | None, config: Path | None,
    run_dir: Path | None, pretrained: Path | None, data_dir: Path | None, stage: str,
) -> tuple[RunSpec, Path, Path, Path]:  # fmt: skip
    """The run, its folder, the folder it starts from and the data's: from a spec, or from a configuration's cell."""
    from dfp.experiments import pretrained_folder, run_folder
    from dfp.spec import finetune_spec, lookup, parse_spec

    if spec is not None:
        run = parse_spec(spec)
        if run.stage != stage:
            raise ConfigError(f"--spec: stage '{run.stage}' is not '{stage}'")
        if run_dir is None or data_dir is None or (stage == "finetune" and pretrained is None):
            raise ConfigError("--spec needs --run-dir and --data-dir, and --pretrained for finetune")
        return run, run_dir, pretrained or run_dir, data_dir
    if task is None or method is None or seed is None:
        raise ConfigError("give either --spec, or --task, --method and --seed (and --config)")
    settings, catalogue = load_config(config or DEFAULT_CONFIG), load_catalogue()
    run = finetune_spec(settings, catalogue, task, method, seed)
    results = Path(settings.results_dir)
    backbone = lookup(catalogue.methods, method, "method", "methods.yaml").backbone
    start = results / pretrained_folder(task, backbone, seed)
    default = start if stage == "pretrain" else results / run_folder(task, method, seed)
    run = run.pretraining() if stage == "pretrain" else run
    return run, run_dir or default, pretrained or start, data_dir or Path(settings.data_dir)


def _deadline(minutes: float | None) -> float | None:
    """When to be saved: the given limit, or the end of the SLURM allocation, whichever comes first."""
    limits = [] if minutes is None else [time.time() + 60.0 * minutes]
    if (end := os.environ.get("SLURM_JOB_END_TIME", "")).isdigit():
        limits.append(float(end) - SLURM_MARGIN_S)
    return min(limits, default=None)


def _prepare_xla(threads: int | None) -> None:
    """Before JAX is imported. Flags that are set already stay.

    One job must not spread over the cores of its neighbours; and XLA left alone uses half of a CPU's widest vectors,
    with which an update of the paper's size takes 2 % longer.
    """
    flags = ["--xla_cpu_prefer_vector_width=512"]
    if threads is not None:
        flags.append(f"--xla_cpu_multi_thread_eigen={'false' if threads == 1 else 'true'}")
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()


# --------------------------------------------------------------------------- tables and figures


@app.command()
def runs(
    config: ConfigOption = DEFAULT_CONFIG,
    results_dir: Annotated[Path | None, typer.Option("--results-dir", help="Default: the configuration's.")] = None,
) -> None:
    """Write the run table: every run that the configuration's tables and figures need."""
    from dfp.experiments import plan, run_table
    from dfp.files import write_atomically

    settings, catalogue = load_config(config), load_catalogue()
    folder = results_dir or Path(settings.results_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "runs.csv", run_table(plan(settings, catalogue), catalogue))
    typer.echo(folder / "runs.csv")


@app.command()
def collect(results_dir: ResultsOption, partial: PartialOption = False) -> None:
    """Join the metrics of all runs into one tidy CSV."""
    from dfp.report.collect import write_metrics

    typer.echo(write_metrics(results_dir, partial))


@app.command()
def table(number: int, results_dir: ResultsOption, partial: PartialOption = False) -> None:
    """Make a table of the paper as CSV, Markdown and LaTeX."""
    from dfp.report.tables import write_table

    for path in write_table(number, results_dir, partial):
        typer.echo(path)


@app.command()
def figure(number: int, results_dir: ResultsOption, partial: PartialOption = False) -> None:
    """Draw a figure of the paper as PNG and PDF."""
    from dfp.report.figures import write_figure

    for path in write_figure(number, results_dir, partial):
        typer.echo(path)


@app.command()
def bench(
    config: ConfigOption = DEFAULT_CONFIG,
    task: Annotated[str, typer.Option("--task", help="Task key: its widths, and its simulator.")] = "cube-double-task2",
    method: Annotated[list[str] | None, typer.Option("--method", help="Method key; repeatable. Default: dfp.")] = None,
    phase: Annotated[str | None, typer.Option("--phase", help="offline or online. Default: both.")] = None,
    width: Annotated[int | None, typer.Option("--width", min=1, help="Default: the configuration's.")] = None,
    depth: Annotated[int | None, typer.Option("--depth", min=1, help="Default: the configuration's.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Default: the configuration's.")] = None,
    simulator: Annotated[bool, typer.Option("--simulator", help="Also the loops, and an evaluation.")] = False,
    steps: Annotated[int, typer.Option("--steps", min=600, help="Environment steps of the online loop.")] = 3000,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="Episodes of the evaluation.")] = 50,
    scaling: Annotated[Path | None, typer.Option("--scaling", help="Instead: cost as work grows, into here.")] = None,
    threads: ThreadsOption = None,
) -> None:
    """Time updates, acting and (--simulator) the loops against their floors: a JSON line per case.

    With --scaling: the time of an online update against batch, width, N, K, G and rows, as a table and a figure.
    """
    _prepare_xla(threads)
    from dfp import bench as measure
    from dfp.console import print_cases
    from dfp.spec import finetune_spec

    if phase not in (None, "offline", "online"):
        raise ConfigError(f"--phase: '{phase}'; allowed: offline, online")
    lines = []
    for key in method or ["dfp"]:
        spec = finetune_spec(load_config(config), load_catalogue(), task, key, 0)
        spec = measure.resized(spec, width, depth, batch)
        cases = measure.bench_scaling(spec) if scaling else measure.bench_run(spec, phase, simulator, steps, episodes)
        for line in cases:
            lines.append({**line, "method": key})
            typer.echo(json.dumps(lines[-1]))
    print_cases(lines)
    if scaling is not None:
        from dfp.report.scaling import write_scaling

        for path in write_scaling(lines, scaling):
            typer.echo(path, err=True)


def main() -> None:
    """Run a command; bad input becomes one line, not a traceback."""
    try:
        app()
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print(f"dfp: {error}", file=sys.stderr)
        sys.exit(code)


def _exit_code(error: Exception) -> int | None:
    # By name: importing the classes would load JAX for every command.
    codes = {"ConfigError": 2, "DataError": 2, "CheckpointError": 2, "RunFolderError": 2, "TrainingError": 3}
    return {**codes, "Unfinished": UNFINISHED}.get(type(error).__name__)


if __name__ == "__main__":
    main()
