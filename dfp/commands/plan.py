"""``plan``: what the runs will take, before anything starts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from dfp.commands.options import DEFAULT_CONFIG, ConfigOption, group, refuse_repeats
from dfp.plan.catalogue import Config, load_catalogue, load_config
from dfp.runs.console import table_console
from dfp.spec import ConfigError

if TYPE_CHECKING:
    from dfp.ops.forecast import Forecast

app = group()


@app.command()
def plan(
    config: ConfigOption = DEFAULT_CONFIG,
    tables: Annotated[str | None, typer.Option("--tables", help="Numbers, e.g. 2,4. Default: all.")] = None,
    figures: Annotated[str | None, typer.Option("--figures", help="Numbers, e.g. 1. Default: all.")] = None,
    tasks: Annotated[str | None, typer.Option("--tasks", help="Task keys, e.g. lift,can. Default: all.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Seeds, e.g. 0,1. Default: all.")] = None,
    seeds_per_job: Annotated[int, typer.Option("--seeds-per-job", min=1, help="Seeds in one program.")] = 1,
    results_dir: Annotated[Path | None, typer.Option("--results-dir", help="Results that give the rates.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """Jobs, hours, disk and memory by table, with the source of the rates, and what sharing pretrainings saves."""
    from dfp.ops.forecast import forecast

    settings, catalogue = load_config(config), load_catalogue()
    chosen = _chosen(settings, tables, figures, tasks, seeds)
    found = forecast(chosen, catalogue, results_dir or Path(settings.results_dir), seeds_per_job)
    if as_json:
        lines = [line._asdict() for line in found.lines]
        typer.echo(json.dumps({**found._asdict(), "lines": lines, "total": found.total._asdict()}, indent=1))
        return
    _print(found)


def _print(found: "Forecast") -> None:
    from dfp.ops.forecast import CPU_SEED, GPU_FLOP_PER_S

    table = Table(
        "", *("pretrain", "finetune", "offline", "jobs", "hours", "unshared", "disk GB", "memory GB"), box=None
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for line in (*found.lines, found.total):
        counts = (str(count or "") for count in (line.pretrain, line.finetune, line.offline, line.jobs))
        sizes = (f"{size / 1e9:.1f}" for size in (line.disk_bytes, line.memory_bytes))
        style = "bold" if line is found.total else None
        table.add_row(line.name, *counts, f"{line.hours:,.1f}", f"{line.unshared_hours:,.1f}", *sizes, style=style)
    console = table_console(highlight=False)
    console.print(table)
    saved = found.total.unshared_hours - found.total.hours
    share = saved / found.total.unshared_hours if saved else 0.0
    console.print(
        f"Sharing pretrainings saves {saved:,.1f} of {found.total.unshared_hours:,.1f} hours ({share:.0%}) against one "
        "for every fine-tuning. Tables share runs, so that they take less together than one by one."
    )
    if found.total.jobs < found.total.pretrain + found.total.finetune + found.total.offline:
        console.print(
            "Several seeds in one program: each further one is taken to add the time of its matrix products at "
            f"{GPU_FLOP_PER_S / 1e12:.0f} TFLOP/s (a GPU, assumed), or {CPU_SEED} times a run alone (a CPU, measured)."
        )
    for source, runs in sorted(found.sources.items(), key=lambda item: -item[1]):
        console.print(f"Rate of {runs} runs: {source}.")
    console.print(
        f"Disk: what finished runs leave. Each running one takes up to {found.running_bytes / 1e9:.2f} GB more. "
        "Memory: main memory of the largest job on a CPU. On a GPU, the rows are in the GPU's memory instead."
    )
    rows = ", ".join(f"{name} {count:,}" for name, count in sorted(found.datasets.items()))
    console.print(f"Datasets (rows): {rows}.")


def _chosen(settings: Config, tables: str | None, figures: str | None, tasks: str | None, seeds: str | None) -> Config:
    """The part of the configuration that the options choose."""
    experiments = settings.experiments
    if tables is not None or figures is not None:
        named = [("--tables", f"table{number}") for number in _listed("--tables", tables)]
        named += [("--figures", f"figure{number}") for number in _listed("--figures", figures)]
        experiments = _among(named, settings.experiments)
    changes: dict[str, object] = {"experiments": experiments}
    offline = settings.offline
    for name, text in (("tasks", tasks), ("seeds", seeds)):
        if text is None:
            continue
        own, others = getattr(settings, name), getattr(offline, name, [])
        known = [str(one) for one in (*own, *others)]
        wanted = _among([(f"--{name}", one) for one in _listed(f"--{name}", text)], known)
        changes[name] = [one for one in own if str(one) in wanted]
        if offline is not None:
            offline = offline.model_copy(update={name: [one for one in others if str(one) in wanted]})
    return settings.model_copy(update={**changes, "offline": offline})


def _listed(option: str, text: str | None) -> list[str]:
    return [] if text is None else refuse_repeats(option, [part.strip() for part in text.split(",")])


def _among(named: list[tuple[str, str]], allowed: list[str]) -> list[str]:
    for option, name in named:
        if name not in allowed:
            raise ConfigError(f"{option}: '{name}'; allowed: {', '.join(dict.fromkeys(allowed))}")
    return [name for _, name in named]
