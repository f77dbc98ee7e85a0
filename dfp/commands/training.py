"""``pretrain``, ``finetune``, ``offline``, ``show``: the runs."""

from pathlib import Path
from typing import Annotated

import typer

from dfp.catalogue import load_catalogue, load_config
from dfp.commands.options import (
    DEFAULT_CONFIG,
    AllowCpuOption,
    CheckpointOption,
    ConfigOrNone,
    DataDirOption,
    MethodOption,
    RunDirOption,
    SeedOption,
    SpecOption,
    TaskOption,
    ThreadsOption,
    TimeLimitOption,
    deadline,
    prepare_xla,
)  # fmt: skip
from dfp.spec import ConfigError, RunSpec

app = typer.Typer()


@app.command()
def pretrain(
    spec: SpecOption = None, task: TaskOption = None, method: MethodOption = None, seed: SeedOption = None,
    config: ConfigOrNone = None, run_dir: RunDirOption = None, data_dir: DataDirOption = None,
    checkpoint_minutes: CheckpointOption = 10.0, time_limit: TimeLimitOption = None,
    threads: ThreadsOption = None, allow_cpu: AllowCpuOption = False,
) -> None:  # fmt: skip
    """The offline phase of a cell. Methods whose offline phases are equal share it."""
    run, folder, _, data_folder = _run(spec, task, method, seed, config, run_dir, None, data_dir, "pretrain")
    prepare_xla(threads)
    from dfp import train

    options = train.Options(data_folder, 60 * checkpoint_minutes, deadline(time_limit), threads, allow_cpu)
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
    prepare_xla(threads)
    from dfp import train

    options = train.Options(data_folder, 60 * checkpoint_minutes, deadline(time_limit), threads, allow_cpu)
    train.finetune(run, folder, start, options)


@app.command()
def offline(
    spec: SpecOption = None, task: TaskOption = None, method: MethodOption = None, seed: SeedOption = None,
    config: ConfigOrNone = None, run_dir: RunDirOption = None, data_dir: DataDirOption = None,
    checkpoint_minutes: CheckpointOption = 10.0, time_limit: TimeLimitOption = None,
    threads: ThreadsOption = None, allow_cpu: AllowCpuOption = False,
) -> None:  # fmt: skip
    """A cell of the offline table: a whole run without an environment, but for its evaluations."""
    run, folder, _, data_folder = _run(spec, task, method, seed, config, run_dir, None, data_dir, "offline")
    prepare_xla(threads)
    from dfp import train

    options = train.Options(data_folder, 60 * checkpoint_minutes, deadline(time_limit), threads, allow_cpu)
    train.offline(run, folder, options)


@app.command()
def show(
    folder: Annotated[Path | None, typer.Argument(help="Folder of a run, or name a cell by the options.")] = None,
    task: TaskOption = None, method: MethodOption = None, seed: SeedOption = None, config: ConfigOrNone = None,
    stage: Annotated[str, typer.Option("--stage", help="pretrain, finetune or offline, of a cell.")] = "finetune",
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
    from dfp.catalogue import run_spec
    from dfp.experiments import offline_folder, pretrained_folder, run_folder
    from dfp.spec import parse_spec

    if spec is not None:
        run = parse_spec(spec)
        if run.stage != stage:
            raise ConfigError(f"--spec: stage '{run.stage}' is not '{stage}'")
        if run_dir is None or data_dir is None or (stage == "finetune" and pretrained is None):
            raise ConfigError("--spec needs --run-dir and --data-dir, and --pretrained for finetune")
        return run, run_dir, pretrained or run_dir, data_dir
    folders = {"pretrain": pretrained_folder, "finetune": run_folder, "offline": offline_folder}
    if stage not in folders:
        raise ConfigError(f"--stage: '{stage}'; allowed: {', '.join(folders)}")
    if task is None or method is None or seed is None:
        raise ConfigError("give either --spec, or --task, --method and --seed (and --config)")
    settings, catalogue = load_config(config or DEFAULT_CONFIG), load_catalogue()
    run = run_spec(settings, catalogue, task, method, seed, "offline" if stage == "offline" else "finetune")
    run = run.pretraining() if stage == "pretrain" else run
    folder, start = (
        Path(settings.results_dir) / place(catalogue, task, method, seed)
        for place in (folders[stage], pretrained_folder)
    )
    return run, run_dir or folder, pretrained or start, data_dir or Path(settings.data_dir)
