"""``workflow``: Snakemake on the workflow that comes with the package, in the current folder."""

import os
import sys
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from dfp.commands.options import group
from dfp.shipped import CATALOGUE, PROFILES, SNAKEFILE

PROFILE_OPTIONS = {"--profile", "--workflow-profile"}


class _Passing(TyperCommand):
    """Passes every argument on as it is, also ``--``, which click would drop."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if "--help" in args else ["--", *args])


app = group()


@app.command("workflow", cls=_Passing, context_settings={"allow_extra_args": True})
def run(context: typer.Context) -> None:
    """Run the workflow here. Every option is Snakemake's: `dfp workflow --cores all --configfile config/demo.yaml`.

    --configfile also takes the files that come with the package: config/smoke.yaml, demo.yaml, study.yaml, config.yaml.
    Default: config/config.yaml.
    """
    given = context.args
    arguments = [_shipped(argument, before) for before, argument in zip(["", *given], given, strict=False)]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), *arguments]
    os.execv(sys.executable, command)


def _shipped(argument: str, before: str) -> str:
    """The argument; a profile or configuration that is not in the current folder becomes the path of the package's.

    ``before``: the argument before this one. ``slurm`` is a profile only after an option of :data:`PROFILE_OPTIONS`.
    Elsewhere it is the name of an executor.
    """
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    if PROFILE_OPTIONS & {option, before} and value in ("slurm", "workstation"):
        ours = PROFILES / value
    elif Path(value).parent == Path("config") and value.endswith(".yaml"):
        ours = CATALOGUE / Path(value).name
    else:
        return argument
    return f"{option}{equals}{ours}" if ours.exists() and not Path(value).exists() else argument
