"""``report``: tables, figures, statistics and the verdict, from finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from dfp.commands.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    PartialOption,
    ResultsOption,
    ResultsPlaceOption,
    SizeOption,
    echo_paths,
    group,
    parsed_size,
)
from dfp.plan.catalogue import load_catalogue, load_config
from dfp.spec import ConfigError, canonical_json

app = group()


@app.command()
def runs(
    config: ConfigOption = DEFAULT_CONFIG,
    results_dir: ResultsPlaceOption = None,
) -> None:
    """Write the run table: every run that the configuration's tables and figures need."""
    from dfp.files import write_atomically
    from dfp.plan.experiments import plan
    from dfp.plan.foreign import CONFIG
    from dfp.plan.results import record
    from dfp.plan.run_table import run_table

    settings, catalogue = load_config(config), load_catalogue()
    folder = results_dir or Path(settings.results_dir)
    record(folder, [config])
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "runs.csv", run_table(plan(settings, catalogue), catalogue))
    write_atomically(folder / CONFIG, canonical_json(settings.model_dump(mode="json")))
    typer.echo(folder / "runs.csv")


@app.command()
def collect(results_dir: ResultsOption, partial: PartialOption = False) -> None:
    """Join the metrics of all runs into one tidy CSV."""
    from dfp.report.collect import write_metrics

    typer.echo(write_metrics(results_dir, partial))


@app.command()
def table(number: int, results_dir: ResultsOption, partial: PartialOption = False) -> None:
    """Make a table of the paper as CSV, Markdown, LaTeX and HTML."""
    from dfp.report.tables.success import write_table

    echo_paths(write_table(number, results_dir, partial))


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
    from dfp.plan.run_table import experiment_runs
    from dfp.report.figures.curves import BOTH_PHASES, write_figure
    from dfp.report.figures.published import published_curves

    echo_paths(write_figure(number, results_dir, partial, published))
    if published and number in BOTH_PHASES:
        _, reason = published_curves(experiment_runs(results_dir, f"figure{number}"))
        if reason:
            typer.echo(reason, err=True)


@app.command()
def statistics(results_dir: ResultsOption, partial: PartialOption = False) -> None:
    """Means, interquartile means, intervals, probabilities of improvement, profiles and regret of all runs."""
    from dfp.report.aggregates import write_statistics

    echo_paths(write_statistics(results_dir, partial))


@app.command()
def verdict(results_dir: ResultsOption, partial: PartialOption = False) -> None:
    """Compare every cell of the paper's tables and every claim of its text with the runs."""
    from dfp.report.verdict.page import write_verdict

    echo_paths(write_verdict(results_dir, partial))


@app.command()
def provenance(results_dir: ResultsOption, partial: PartialOption = False) -> None:
    """Code, versions, devices, attempts and hours behind the results."""
    from dfp.report.provenance import write_provenance

    echo_paths(write_provenance(results_dir, partial))


@app.command()
def summary(results_dir: ResultsOption, partial: PartialOption = False) -> None:
    """What was run and what came out, in a page to paste."""
    from dfp.report.summary import write_summary

    echo_paths([write_summary(results_dir, partial)])


@app.command()
def page(
    markdown: Annotated[Path, typer.Argument(help="A .md file of the results.")],
    target: Annotated[Path | None, typer.Option("--to", help="Default: the same name with .html.")] = None,
) -> None:
    """A Markdown file as an HTML page, for the report."""
    from dfp.report.pages import write_page

    if markdown.suffix != ".md" or not markdown.is_file():
        raise ConfigError(f"page: {markdown}: allowed: an existing .md file")
    echo_paths([write_page(markdown, target or markdown.with_suffix(".html"))])


@app.command()
def gallery(
    config: ConfigOption = DEFAULT_CONFIG,
    results_dir: ResultsPlaceOption = None,
    size: SizeOption = None,
) -> None:
    """Draw the configuration's tasks at their start, for Figure 2."""
    from dfp.tasks import rendering

    rendering.choose_context()  # before a simulator is imported
    from dfp.policies.gallery import render_gallery
    from dfp.runs.console import lines_on_stderr

    settings = load_config(config)
    folder = results_dir or Path(settings.results_dir)
    with lines_on_stderr():
        typer.echo(render_gallery(settings, load_catalogue(), folder, parsed_size(size)))
