"""``doctor``: check the machine before jobs are submitted."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfp.commands.options import DEFAULT_CONFIG, ConfigOption, group
from dfp.errors import FAILED_CHECK
from dfp.files import read_text
from dfp.plan.catalogue import load_catalogue, load_config
from dfp.shipped import LOCK, PROFILES, SLURM_PROFILE
from dfp.spec import ConfigError

if TYPE_CHECKING:
    from dfp.ops.doctor.findings import Finding

CHECKS = ("versions", "simulator", "rendering", "disk", "data", "device", "slurm")

app = group()


@app.command()
def doctor(
    config: ConfigOption = DEFAULT_CONFIG,
    only: Annotated[list[str] | None, typer.Option("--only", help=f"A check: {', '.join(CHECKS)}. Repeatable.")] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="As on a GPU node: falling back to the CPU is an error.")] = False,
    rendering: Annotated[bool, typer.Option("--rendering", help="Also draw a picture, for the task gallery.")] = False,
    profile: Annotated[
        list[Path] | None, typer.Option("--profile", help="Of Snakemake; repeatable, the last wins. Default: slurm.")
    ] = None,
    partition: Annotated[str | None, typer.Option("--partition", help="SLURM partition of the jobs.")] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Also submit a one-minute job on a GPU.")] = False,
    sbatch: Annotated[
        list[str] | None, typer.Option("--sbatch", help="An option for sbatch, with --submit; repeatable.")
    ] = None,
    wait: Annotated[float, typer.Option("--wait", min=0.0, help="Minutes to wait for that job.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check versions, simulators, disk, data, device and SLURM for what the configuration needs.

    Each finding says what is wrong, why it matters and what to type. Exit code: 0 no error, 4 an error.
    """
    from dfp.ops.doctor import findings as report
    from dfp.ops.doctor.submit import check_submission
    from dfp.runs.console import table_console

    wanted = only or [name for name in CHECKS if name != "rendering" or rendering]
    if unknown := [name for name in wanted if name not in CHECKS]:
        raise ConfigError(f"--only: '{unknown[0]}'; allowed: {', '.join(CHECKS)}")
    found = []
    for name, check in _checks(config, gpu, profile or [SLURM_PROFILE], partition).items():
        if name in wanted:
            found += check()
    if submit:
        found += check_submission(Path.cwd(), partition, sbatch or [], 60 * wait)
    console = table_console()
    if as_json:
        typer.echo(json.dumps({"findings": [dataclasses.asdict(one) for one in found]}, indent=1))
    elif console.is_terminal:
        console.print(report.table(found))
        console.print(report.summary(found))
    else:
        for line in [line for one in found for line in report.lines(one)] + [report.summary(found)]:
            typer.echo(line)
    raise typer.Exit(FAILED_CHECK if report.count(found).errors else 0)


def _checks(
    config: Path, gpu: bool, profiles: list[Path], partition: str | None
) -> "dict[str, Callable[[], list[Finding]]]":
    """The checks by name, in the order in which they are made; each does its work when it is called."""
    from dfp.ops.doctor import cluster, device, environment, storage
    from dfp.plan.experiments import plan

    settings, catalogue = load_config(config), load_catalogue()
    tasks = [catalogue.tasks[key].spec for key in storage.tasks_of(settings)]
    data_dir, results_dir = Path(settings.data_dir), Path(settings.results_dir)
    # A name such as `slurm` works in any folder.
    paths = [PROFILES / path if not path.exists() and (PROFILES / path).is_dir() else path for path in profiles]

    def disk() -> "list[Finding]":
        jobs = cluster.read_profile(paths).jobs
        runs = storage.results_bytes(plan(settings, catalogue).specs, results_dir, jobs)
        return [
            storage.check_disk("data", data_dir, storage.missing_data_bytes(tasks, settings.data, data_dir)),
            storage.check_disk("runs", results_dir, runs),
            storage.check_temporary(),
        ]

    def versions() -> "list[Finding]":
        locked = environment.locked_versions(read_text(LOCK))
        return environment.check_versions(locked, environment.installed_versions())

    return {
        "versions": versions,
        "simulator": lambda: environment.check_simulators(tasks),
        "rendering": lambda: [environment.check_rendering()],
        "disk": disk,
        "data": lambda: storage.check_datasets(tasks, settings.data, data_dir),
        "device": lambda: device.check_device(gpu),
        "slurm": lambda: cluster.check_cluster(cluster.read_profile(paths, partition)),
    }
