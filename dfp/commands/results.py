"""``runs``, ``collect``, ``table``, ``figure``: from finished runs to the paper's tables and figures."""

from pathlib import Path
from typing import Annotated

import typer

from dfp.catalogue import load_catalogue, load_config
from dfp.commands.options import DEFAULT_CONFIG, ConfigOption, PartialOption, ResultsOption

app = typer.Typer()


@app.command()
def runs(
    config: ConfigOption = DEFAULT_CONFIG,
    results_dir: Annotated[Path | None, typer.Option("--results-dir", help="Default: the configuration's.")] = None,
) -> None:
    """Write the run table: every run that the configuration's tables and figures need."""
    from dfp.experiments import plan, run_table
    from dfp.files import write_atomically

    settings, catalogue = load_config(config), load_catalogue()
    folder = results_dir or Path(settings.results_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "runs.csv", run_table(plan(settings, catalogue), catalogue))
    typer.echo(folder / "runs.csv")


@app.command()
def collect(results_dir: ResultsOption, partial: PartialOption = False) -> None:
    """Join the metrics of all runs into one tidy CSV."""
    from dfp.report.collect import write_metrics

    typer.echo(write_metrics(results_dir, partial))


@app.command()
def table(number: int, results_dir: ResultsOption, partial: PartialOption = False) -> None:
    """Make a table of the paper as CSV, Markdown and LaTeX."""
    from dfp.report.tables import write_table

    for path in write_table(number, results_dir, partial):
        typer.echo(path)


@app.command()
def figure(
    number: int,
    results_dir: ResultsOption,
    partial: PartialOption = False,
    published: Annotated[
        bool, typer.Option("--published/--no-published", help="Figure 1: the curves that others published, too.")
    ] = True,
) -> None:
    """Draw a figure of the paper as PNG and PDF, with its numbers as CSV."""
    from dfp.report.collect import experiment_runs
    from dfp.report.figures import BOTH_PHASES, write_figure
    from dfp.report.published import published_curves

    for path in write_figure(number, results_dir, partial, published):
        typer.echo(path)
    if published and number in BOTH_PHASES:
        _, reason = published_curves(experiment_runs(results_dir, f"figure{number}"))
        if reason:
            typer.echo(reason, err=True)
