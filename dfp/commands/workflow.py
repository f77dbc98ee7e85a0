"""``workflow``: Snakemake on the workflow that comes with the package, in the folder one is in."""

import os
import sys
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from dfp.commands.options import group
from dfp.shipped import CATALOGUE, PROFILES, SNAKEFILE


class _Passing(TyperCommand):
    """Passes every argument on as it is, ``--`` too, which click would keep for itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if "--help" in args else ["--", *args])


app = group()


@app.command("workflow", cls=_Passing, context_settings={"allow_extra_args": True})
def run(context: typer.Context) -> None:
    """Run the workflow here. Every option is Snakemake's: `dfp workflow --cores all --configfile config/demo.yaml`.

    --configfile also takes the files that come with the package: config/smoke.yaml, demo.yaml, study.yaml, config.yaml.
    Default: config/config.yaml.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), *map(_shipped, context.args)]
    os.execv(sys.executable, command)


def _shipped(argument: str) -> str:
    """An argument, alone or after ``--option=``; a file or profile of the package, if there is none such here."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    if value in ("slurm", "workstation"):
        ours = PROFILES / value
    elif Path(value).parent == Path("config") and value.endswith(".yaml"):
        ours = CATALOGUE / Path(value).name
    else:
        return argument
    return argument if Path(value).exists() else f"{option}{equals}{ours}"
