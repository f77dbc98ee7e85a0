"""``pack`` and ``recall``: several runs in one job, and finished runs under their names again."""

from pathlib import Path
from typing import Annotated

import typer

from dfp.commands.options import AllowCpuOption, CheckpointOption, TimeLimitOption

UNFINISHED = 75

app = typer.Typer()


@app.command()
def pack(
    runs: Annotated[str, typer.Option("--runs", help="JSON: a list of {spec, run_dir, pretrained or null}.")],
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Folder of the datasets.")],
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU cores, over all runs.")] = 1,
    checkpoint_minutes: CheckpointOption = 10.0, time_limit: TimeLimitOption = None, allow_cpu: AllowCpuOption = False,
) -> None:  # fmt: skip
    """Train several runs side by side on one GPU, each in a process of its own. Exit code 75: run it again."""
    from dfp.pack import parse_members, run_pack

    options = ["--data-dir", str(data_dir), "--checkpoint-minutes", str(checkpoint_minutes)]
    options += [] if time_limit is None else ["--time-limit", str(time_limit)]
    options += ["--allow-cpu"] if allow_cpu else []
    if code := run_pack(parse_members(runs), options, threads):
        raise typer.Exit(code)


@app.command()
def recall(
    spec: Annotated[str, typer.Option("--spec", help="The run as canonical JSON.")],
    run_dir: Annotated[Path, typer.Option("--run-dir", help="Its folder.")],
    pretrained: Annotated[Path | None, typer.Option("--pretrained", help="Folder of its pretraining.")] = None,
) -> None:
    """Put the results of a finished run back under their names; never trains. Exit code 75: it is not finished."""
    from dfp.pack import Member
    from dfp.spec import parse_spec

    if not Member(parse_spec(spec), run_dir, pretrained).finished():
        typer.echo(f"dfp: {run_dir}: no finished run of this spec", err=True)
        raise typer.Exit(UNFINISHED)
    typer.echo(f"{run_dir}: finished", err=True)
