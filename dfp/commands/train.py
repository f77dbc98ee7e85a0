"""``train``: runs, one at a time or several on one GPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dfp.commands.options import (
    DEFAULT_CONFIG,
    AllowCpuOption,
    CheckpointOption,
    ConfigOption,
    DataDirOption,
    MethodOption,
    RunDirOption,
    SeedOption,
    SpecOption,
    TaskOption,
    ThreadsOption,
    TimeLimitOption,
    group,
    prepare_xla,
)  # fmt: skip
from dfp.errors import UNFINISHED
from dfp.plan.catalogue import load_catalogue, load_config, run_spec
from dfp.plan.experiments import folder_of
from dfp.plan.results import record
from dfp.runs.slurm import deadline
from dfp.spec import ConfigError, RunSpec, parse_spec

STAGES = {
    "pretrain": "The offline phase of a cell. Methods whose offline phases are equal share it.",
    "finetune": "The online phase of a cell, from its finished pretraining.",
    "offline": "A run of the offline table. Only its evaluations use an environment.",
}

RunsOption = Annotated[str, typer.Option("--runs", help="JSON: a list of {spec, run_dir, pretrained or null}.")]
DatasetsOption = Annotated[Path, typer.Option("--data-dir", help="Folder of the datasets.")]

app = group()


def _command(stage: str) -> Callable[..., None]:
    def command(
        spec: SpecOption = None, task: TaskOption = None, method: MethodOption = None, seed: SeedOption = None,
        config: ConfigOption = DEFAULT_CONFIG, run_dir: RunDirOption = None,
        pretrained: Annotated[Path | None, typer.Option("--pretrained", help="finetune: its pretraining.")] = None,
        data_dir: DataDirOption = None,
        checkpoint_minutes: CheckpointOption = 10.0, time_limit: TimeLimitOption = None,
        threads: ThreadsOption = None, allow_cpu: AllowCpuOption = False,
    ) -> None:  # fmt: skip
        if pretrained is not None and stage != "finetune":
            raise ConfigError(f"--pretrained: '{stage}' starts from nothing; only 'finetune' has a pretraining")
        if spec is None:
            run, results_dir, (folder, start), data = cell(config, task, method, seed, stage)
            if run_dir is None:
                record(results_dir, [config])
            folder, start = run_dir or results_dir / folder, pretrained or results_dir / start
            data = data_dir or data
        else:
            run = parse_spec(spec)
            if run.stage != stage:
                raise ConfigError(f"--spec: stage '{run.stage}' is not '{stage}'")
            if run_dir is None or data_dir is None or (stage == "finetune" and pretrained is None):
                raise ConfigError("--spec needs --run-dir and --data-dir, and --pretrained for finetune")
            folder, start, data = run_dir, pretrained or run_dir, data_dir
        prepare_xla(threads)
        from dfp.training import stages

        options = stages.Options(data, 60 * checkpoint_minutes, deadline(time_limit), threads, allow_cpu)
        if stage == "finetune":
            stages.finetune(run, folder, start, options)
        else:
            stages.pretrain(run, folder, options)

    return command


for _stage, _help in STAGES.items():
    app.command(_stage, help=_help)(_command(_stage))


def cell(
    config: Path, task: str | None, method: str | None, seed: int | None, stage: str
) -> tuple[RunSpec, Path, tuple[str, str], Path]:
    """A cell of a configuration.

    Returns the run, the folder of the results, the folders of the run and of its pretraining relative to the results,
    and the folder of the data.
    """
    if stage not in STAGES:
        raise ConfigError(f"--stage: '{stage}'; allowed: {', '.join(STAGES)}")
    if task is None or method is None or seed is None:
        raise ConfigError("give either --spec, or --task, --method and --seed (and --config)")
    settings, catalogue = load_config(config), load_catalogue()
    run = run_spec(settings, catalogue, task, method, seed, "offline" if stage == "offline" else "finetune")
    run = run.pretraining() if stage == "pretrain" else run
    folder, start = (folder_of(which, catalogue, task, method, seed) for which in (stage, "pretrain"))
    return run, Path(settings.results_dir), (folder, start), Path(settings.data_dir)


@app.command()
def pack(
    runs: RunsOption, data_dir: DatasetsOption,
    seeds_per_job: Annotated[int, typer.Option("--seeds-per-job", min=1, help="Seeds in one process.")] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU cores, over all runs.")] = 1,
    checkpoint_minutes: CheckpointOption = 10.0, time_limit: TimeLimitOption = None, allow_cpu: AllowCpuOption = False,
) -> None:  # fmt: skip
    """Train several runs side by side on one GPU, each in a separate process. Exit code 75: run it again."""
    from dfp.ops.pack import parse_members, run_pack

    options = ["--data-dir", str(data_dir), "--checkpoint-minutes", str(checkpoint_minutes)]
    options += [] if time_limit is None else ["--time-limit", str(time_limit)]
    options += ["--allow-cpu"] if allow_cpu else []
    if code := run_pack(parse_members(runs), options, threads, seeds_per_job):
        raise typer.Exit(code)


@app.command()
def seeds(
    runs: RunsOption, data_dir: DatasetsOption,
    threads: ThreadsOption = None,
    checkpoint_minutes: CheckpointOption = 10.0, time_limit: TimeLimitOption = None, allow_cpu: AllowCpuOption = False,
) -> None:  # fmt: skip
    """Train several seeds of one offline phase in one program. Exit code 75: run it again."""
    from dfp.ops.pack import exit_code, parse_members
    from dfp.plan.experiments import programs

    members = parse_members(runs)
    if len(programs({str(member.folder): member.spec for member in members}, len(members))) != 1:
        raise ConfigError("--runs: allowed: offline phases that differ in their seeds alone")
    prepare_xla(threads)
    from dfp.training.seeds import pretrain_seeds
    from dfp.training.session import Options

    options = Options(data_dir, 60 * checkpoint_minutes, deadline(time_limit), threads, allow_cpu)
    if code := exit_code(pretrain_seeds([(member.spec, member.folder) for member in members], options)):
        raise typer.Exit(code)


@app.command()
def recall(
    spec: Annotated[str, typer.Option("--spec", help="The run as canonical JSON.")],
    run_dir: Annotated[Path, typer.Option("--run-dir", help="Its folder.")],
    pretrained: Annotated[Path | None, typer.Option("--pretrained", help="Folder of its pretraining.")] = None,
) -> None:
    """Put the results of a finished run back under their names; never trains. Exit code 75: it is not finished."""
    from dfp.ops.pack import Member

    if not Member(parse_spec(spec), run_dir, pretrained).finished():
        typer.echo(f"dfp: {run_dir}: no finished run of this spec", err=True)
        raise typer.Exit(UNFINISHED)
    typer.echo(f"{run_dir}: finished", err=True)
