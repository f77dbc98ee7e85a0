"""``python -m dfp <command>``: every step of the workflow, also by hand, without Snakemake.

Exit codes: 0 done; 2 bad input, one line on standard error; 3 training had to stop; 4 a check failed;
75 unfinished, run me again. :mod:`dfp.exit_codes` has them.
"""

import sys

import typer

from dfp.commands import bench, data, doctor, export, pack, plan, policies, report, results, status, studies, training
from dfp.commands.options import expect_gpu
from dfp.exit_codes import exit_code

app = typer.Typer(
    help="Drifting Field Policy, reproduced.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (data, training, pack, results, bench, plan, status, doctor, policies, report, studies, export):
    app.add_typer(group.app)


def main() -> None:
    """Run a command; bad input becomes one line, not a traceback."""
    expect_gpu()  # here, since parsing a spec imports its agent, and that JAX
    try:
        app()
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        print(f"dfp: {error}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
