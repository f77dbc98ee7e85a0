"""``statistics``, ``verdict``, ``provenance``, ``summary``, ``page``: what the results amount to."""

from pathlib import Path
from typing import Annotated

import typer

from dfp.commands.options import PartialOption, ResultsOption
from dfp.spec import ConfigError

app = typer.Typer()


@app.command()
def statistics(results_dir: ResultsOption, partial: PartialOption = False) -> None:
    """Means, interquartile means, intervals, probabilities of improvement, profiles and regret of all runs."""
    from dfp.report.aggregates import write_statistics

    _echo(write_statistics(results_dir, partial))


@app.command()
def verdict(results_dir: ResultsOption, partial: PartialOption = False) -> None:
    """Compare every cell of the paper's tables and every claim of its text with the runs."""
    from dfp.report.verdict_page import write_verdict

    _echo(write_verdict(results_dir, partial))


@app.command()
def provenance(results_dir: ResultsOption, partial: PartialOption = False) -> None:
    """Code, versions, devices, attempts and hours behind the results."""
    from dfp.report.provenance import write_provenance

    _echo(write_provenance(results_dir, partial))


@app.command()
def summary(results_dir: ResultsOption, partial: PartialOption = False) -> None:
    """What was run and what came out, in a page to paste."""
    from dfp.report.summary import write_summary

    _echo([write_summary(results_dir, partial)])


@app.command()
def page(
    markdown: Annotated[Path, typer.Argument(help="A .md file of the results.")],
    target: Annotated[Path | None, typer.Option("--to", help="Default: the same name with .html.")] = None,
) -> None:
    """A Markdown file as an HTML page, for the report."""
    from dfp.report.page import write_page

    if markdown.suffix != ".md" or not markdown.is_file():
        raise ConfigError(f"page: {markdown}: allowed: an existing .md file")
    _echo([write_page(markdown, target or markdown.with_suffix(".html"))])


def _echo(paths: list[Path]) -> None:
    for path in paths:
        typer.echo(path)
