"""``bench``, ``cost``: times against their floors, and what a step costs (Table 9)."""

import csv
import io
import json
from pathlib import Path
from typing import Annotated

import typer

from dfp.catalogue import load_catalogue, load_config
from dfp.commands.options import DEFAULT_CONFIG, ConfigOption, ThreadsOption, prepare_xla
from dfp.spec import ConfigError

app = typer.Typer()


@app.command()
def cost(
    config: ConfigOption = DEFAULT_CONFIG,
    output: Annotated[Path | None, typer.Option("--output", help="Default: cost.csv among the results.")] = None,
    task: Annotated[list[str] | None, typer.Option("--task", help="Task key; repeatable. Default: all.")] = None,
    method: Annotated[list[str] | None, typer.Option("--method", help="Repeatable. Default: Table 9's.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Of the online loop, per cell.")] = 5.0,
    threads: ThreadsOption = None,
) -> None:
    """Measure what an update, an online step and an inference step cost here (Table 9), all methods in one run."""
    prepare_xla(threads)
    from dfp import cost as costs
    from dfp.catalogue import method_entry, run_spec
    from dfp.files import write_atomically

    settings, catalogue = load_config(config), load_catalogue()
    text = io.StringIO()
    writer = csv.DictWriter(text, costs.COLUMNS, lineterminator="\n")
    writer.writeheader()
    for key in method or catalogue.experiments["table9"].methods:
        label = method_entry(key, catalogue).label
        for place in task or settings.tasks:
            spec = run_spec(settings, catalogue, place, key, 0)
            for row in costs.measure(spec, key, label, seconds):
                typer.echo(
                    f"{row['method']} on {row['task']}, {row['phase']}: {row['ms']} ms ({row['device']})", err=True
                )
                writer.writerow(row)
    path = output or Path(settings.results_dir) / "cost.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    typer.echo(write_atomically(path, text.getvalue()))


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
    prepare_xla(threads)
    from dfp import bench as measure
    from dfp.catalogue import run_spec
    from dfp.console import print_cases
    from dfp.experiments import stage_of

    if phase not in (None, "offline", "online"):
        raise ConfigError(f"--phase: '{phase}'; allowed: offline, online")
    lines = []
    for key in method or ["dfp"]:
        spec = run_spec(load_config(config), load_catalogue(), task, key, 0, stage_of(key, load_catalogue()))
        if phase == "online" and spec.online is None:
            raise ConfigError(f"--phase: '{key}' has no online phase; allowed: offline")
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
