"""``status``: the state of the runs.

Exit codes: 0 all runs are done; 4 a run failed or stalled; 75 none did, and some are running or waiting.
"""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from dfp.commands.options import ResultsOption, group
from dfp.spec import ConfigError

WATCH_S = 10.0  # seconds between two looks

app = group()


@app.command()
def status(
    results_dir: ResultsOption = Path("results"),
    everything: Annotated[bool, typer.Option("--all", help="A line for waiting and finished runs too.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every 10 seconds, until all are done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Also a page with the curves, one file.")] = None,
) -> None:
    """Runs done, running, stalled, waiting and failed, from their folders alone.

    Exit code: 0 all done; 4 a run failed or stalled; 75 none did, and some are running or waiting.
    """
    from rich.live import Live

    from dfp.ops.status import overview, terminal
    from dfp.runs.console import table_console

    console = table_console()
    if watch and (as_json or html or not console.is_terminal):
        raise ConfigError("--watch shows a table on a terminal; leave out --json and --html, or leave out --watch")
    view = overview.overview(results_dir)
    if html is not None:
        from dfp.ops.status.page import write_page

        write_page(view, html)
    if as_json:
        typer.echo(json.dumps(overview.as_json(view), indent=1))
    elif watch:
        with Live(terminal.tables(view, everything), console=console, auto_refresh=False) as live:
            while overview.exit_status(view.runs) != 0:
                time.sleep(WATCH_S)
                view = overview.overview(results_dir)
                live.update(terminal.tables(view, everything), refresh=True)
    elif console.is_terminal:
        console.print(terminal.tables(view, everything))
    else:
        for line in terminal.lines(view, everything):
            typer.echo(line)
    raise typer.Exit(overview.exit_status(view.runs))
