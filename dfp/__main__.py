"""``dfp <group> <command>``, or ``python -m dfp``: every step of the workflow, also by hand, without Snakemake.

Exit codes: 0 done; 2 bad input, one line on standard error; 3 training had to stop; 4 a check failed;
75 unfinished, run me again. :mod:`dfp.errors` has them.
"""

import importlib
import io
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from dfp.commands.options import expect_gpu
from dfp.errors import exit_code, one_line
from dfp.runs import numerics

# Each is a module of dfp.commands, imported when one of its commands is asked for.
GROUPS = {
    "data": "Download, generate or check a task's dataset.",
    "train": "Train: pretrain, finetune, offline; several runs on one GPU.",
    "run": "One run: its settings, its policy evaluated or played, why it ended.",
    "report": "Tables, figures and statistics of the paper from finished runs.",
    "ops": "Check the machine, plan, watch and export runs, measure speed.",
    "workflow": "Run all of it with Snakemake, whose options it takes.",
    "study": "Beyond the paper: the equations measured, the field, the candidates.",
}
RENAMED = {
    **dict.fromkeys(("pretrain", "finetune", "offline", "pack", "recall"), "train"),
    **dict.fromkeys(("show", "evaluate", "play", "why"), "run"),
    **dict.fromkeys(("runs", "collect", "table", "figure", "gallery"), "report"),
    **dict.fromkeys(("statistics", "verdict", "provenance", "summary", "page"), "report"),
    **dict.fromkeys(("status", "doctor", "plan", "bench", "cost", "export"), "ops"),
    **dict.fromkeys(("theory", "plot"), "study"),
}  # old name of a command: the group that it is in now. Old names work for one version, and help does not list them.


class Groups(TyperGroup):
    """The groups. The module of a group is imported only when the group is used, so that help is quick."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(GROUPS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in GROUPS:
            command = typer.main.get_command(importlib.import_module(f"dfp.commands.{cmd_name}").app)
            command.help = GROUPS[cmd_name] if isinstance(command, TyperGroup) else command.help
            return command
        if (group := RENAMED.get(cmd_name)) is None:
            return None
        typer.echo(f"dfp: `dfp {cmd_name}` is now `dfp {group} {cmd_name}`; the old name will go", err=True)
        return self.get_command(ctx, group).get_command(ctx, cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(GROUPS.items()))


app = typer.Typer(cls=Groups, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def dfp() -> None:
    """Drifting Field Policy, reproduced. `dfp train --help` lists a group's commands."""


def main() -> None:
    """Run a command; bad input becomes one line, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale without the sign ± is no reason to fail
    expect_gpu()  # here, since parsing a spec imports its agent, and that JAX
    try:
        numerics.require(os.environ)
        app()
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        print(f"dfp: {one_line(error)}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
