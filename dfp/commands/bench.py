"""``bench``, ``cost``: times against their floors, and what a step costs (Table 9)."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from dfp.commands.options import DEFAULT_CONFIG, ConfigOption, ThreadsOption, group, prepare_xla, refuse_repeats
from dfp.plan.catalogue import load_catalogue, load_config
from dfp.spec import ConfigError

app = group()


@app.command()
def cost(
    config: ConfigOption = DEFAULT_CONFIG,
    output: Annotated[Path | None, typer.Option("--output", help="Default: cost.csv among the results.")] = None,
    task: Annotated[list[str] | None, typer.Option("--task", help="Task key; repeatable. Default: all.")] = None,
    method: Annotated[list[str] | None, typer.Option("--method", help="Repeatable. Default: Table 9's.")] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="Seconds of the online loop, for each cell.")
    ] = 5.0,
    threads: ThreadsOption = None,
) -> None:
    """Measure what an update, an online step and an inference step cost here (Table 9), all methods in one run."""
    prepare_xla(threads)
    from dfp.files import csv_rows, write_atomically
    from dfp.ops.cost import cost_rows
    from dfp.plan.catalogue import method_entry, run_spec
    from dfp.report.tables.cost import COST_TYPES

    settings, catalogue = load_config(config), load_catalogue()
    tasks = refuse_repeats("--task", task or [])
    rows = []
    for key in refuse_repeats("--method", method or []) or catalogue.experiments["table9"].methods:
        label = method_entry(key, catalogue).label
        for place in tasks or settings.tasks:
            spec = run_spec(settings, catalogue, place, key, 0)
            for row in cost_rows(spec, key, label, seconds):
                typer.echo(f"{key} on {place}, {row['phase']}: {row['ms']} ms ({row['device']})", err=True)
                rows.append(row)
    path = output or Path(settings.results_dir) / "cost.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    typer.echo(write_atomically(path, csv_rows(list(COST_TYPES), rows)))


@app.command()
def bench(
    config: ConfigOption = DEFAULT_CONFIG,
    task: Annotated[str, typer.Option("--task", help="Task key: its widths, and its simulator.")] = "cube-double-task2",
    method: Annotated[list[str] | None, typer.Option("--method", help="Method key; repeatable. Default: dfp.")] = None,
    phase: Annotated[str | None, typer.Option("--phase", help="offline or online. Default: both.")] = None,
    width: Annotated[int | None, typer.Option("--width", min=1, help="Default: the configuration's.")] = None,
    depth: Annotated[int | None, typer.Option("--depth", min=1, help="Default: the configuration's.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Default: the configuration's.")] = None,
    simulator: Annotated[bool, typer.Option("--simulator", help="Also time the loops and an evaluation.")] = False,
    steps: Annotated[int, typer.Option("--steps", min=600, help="Environment steps of the online loop.")] = 3000,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="Episodes of the evaluation.")] = 50,
    scaling: Annotated[Path | None, typer.Option("--scaling", help="Folder. Time updates as work grows.")] = None,
    beside: Annotated[
        Path | None, typer.Option("--beside", help="Checkout of the authors' release, to time too.")
    ] = None,
    beside_python: Annotated[
        Path, typer.Option("--beside-python", help="An interpreter with the release's requirements.")
    ] = Path(sys.executable),
    threads: ThreadsOption = None,
) -> None:
    """Time updates, acting and (--simulator) the loops against their floors: a JSON line per case.

    With --scaling: the time of an online update against batch, width, N, K, G and rows, as a table and a figure.
    With --beside: the same updates by the authors' code, in turns with ours, on the same rows.
    """
    prepare_xla(threads)
    from dfp.ops.bench import Beside, bench_run, bench_scaling, resized
    from dfp.plan.catalogue import run_spec
    from dfp.plan.experiments import stage_of
    from dfp.runs.console import print_cases

    if phase not in (None, "offline", "online"):
        raise ConfigError(f"--phase: '{phase}'; allowed: offline, online")
    release = None if beside is None else Beside(beside, beside_python)
    lines = []
    for key in refuse_repeats("--method", method or []) or ["dfp"]:
        spec = run_spec(load_config(config), load_catalogue(), task, key, 0, stage_of(key, load_catalogue()))
        if phase == "online" and spec.online is None:
            raise ConfigError(f"--phase: '{key}' has no online phase; allowed: offline")
        spec = resized(spec, width, depth, batch)
        cases = bench_scaling(spec) if scaling else bench_run(spec, phase, simulator, steps, episodes, release)
        for line in cases:
            lines.append({**line, "method": key})
            typer.echo(json.dumps(lines[-1]))
    print_cases(lines)
    if scaling is not None:
        from dfp.report.figures.scaling import write_scaling

        for path in write_scaling(lines, scaling):
            typer.echo(path, err=True)
