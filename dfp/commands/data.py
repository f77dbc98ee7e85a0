"""``data``: download, generate or check a task's dataset."""

from pathlib import Path
from typing import Annotated

import typer

from dfp.commands.options import DEFAULT_CONFIG, ConfigOption, group
from dfp.errors import FAILED_CHECK
from dfp.plan.catalogue import load_catalogue, load_config
from dfp.spec import ConfigError

app = group()


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
    from dfp.runs.console import lines_on_stderr
    from dfp.spec import lookup, parse_data

    *action, key = what
    if action not in ([], ["check"]):
        raise ConfigError(f"data: '{' '.join(what)}'; allowed: TASK, or check TASK")
    spec = lookup(load_catalogue().tasks, key, "task", "tasks.yaml").spec
    source = load_config(config).data if data is None else parse_data(data)
    folder = data_dir or Path(load_config(config).data_dir)

    with lines_on_stderr():
        if not action:
            typer.echo(tasks.prepare_dataset(spec, source, folder, processes))
            return
        reproduction = tasks.check(spec, source, folder, demonstrations)
    typer.echo(reproduction.summary())
    if not reproduction.passed:
        raise typer.Exit(FAILED_CHECK)
