"""``python -m dfp <command>``: every step of the workflow, also by hand, without Snakemake.

Exit codes: 0 done; 2 bad input, one line on standard error; 3 training had to stop; 4 a check failed;
75 unfinished, run me again.
"""

import sys

import typer

from dfp.commands import bench, data, pack, results, training
from dfp.commands.options import expect_gpu
from dfp.files import is_disk_full

UNFINISHED = 75  # EX_TEMPFAIL: everything is saved, the same command continues

app = typer.Typer(
    help="Drifting Field Policy, reproduced.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (data, training, pack, results, bench):
    app.add_typer(group.app)


def main() -> None:
    """Run a command; bad input becomes one line, not a traceback."""
    expect_gpu()  # here, since parsing a spec imports its agent, and that JAX
    try:
        app()
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print(f"dfp: {error}", file=sys.stderr)
        sys.exit(code)


def _exit_code(error: Exception) -> int | None:
    if is_disk_full(error):
        return UNFINISHED
    # By name: importing the classes would load JAX for every command.
    codes = {"ConfigError": 2, "DataError": 2, "CheckpointError": 2, "RunFolderError": 2, "TrainingError": 3}
    return {**codes, "Unfinished": UNFINISHED}.get(type(error).__name__)


if __name__ == "__main__":
    main()
