"""``workflow``: Snakemake on the workflow that comes with the package, in the folder one is in."""

import os
import sys
from pathlib import Path

import typer

from dfp.commands.options import group
from dfp.shipped import CATALOGUE, PROFILES, SNAKEFILE

app = group()


@app.command("workflow", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(context: typer.Context) -> None:
    """Run the workflow here. Every option is Snakemake's: `dfp workflow --cores all --configfile config/demo.yaml`.

    Of --configfile also one that comes with the package: config/smoke.yaml, demo.yaml, study.yaml, config.yaml.
    """
    given = [str(_shipped(argument)) for argument in context.args]
    if "--configfile" not in given:
        given += ["--configfile", str(_shipped("config/config.yaml"))]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), *given]
    os.execv(sys.executable, command)


def _shipped(argument: str) -> str | Path:
    path = Path(argument)
    if argument in ("slurm", "workstation") and not path.exists():
        return PROFILES / argument
    is_ours = path.parent == Path("config") and path.suffix == ".yaml" and not path.exists()
    return CATALOGUE / path.name if is_ours else argument
