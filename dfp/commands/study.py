"""``study``: what goes beyond the paper's tables and figures, computed and drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dfp.commands.options import PartialOption, ResultsOption, ThreadsOption, echo_paths, group, prepare_xla
from dfp.errors import FAILED_CHECK

STUDIES = {
    "field": "Compute the drifting field on a toy with two modes: field.csv.",
    "normalisation": "Compare Eq. 3 as written with the released algorithm, on runs: normalisation.csv.",
    "candidates": "Compute Q of the old policy's candidates, by rank, on runs: candidates.csv.",
}

app = group()

OutputOption = Annotated[Path, typer.Option("--results-dir", help="Folder for the files.")]
StudyFolder = Annotated[Path, typer.Option("--folder", help="Folder of the study's page and CSV files.")]
DataOption = Annotated[Path, typer.Option("--data-dir", help="Folder of the datasets.")]


@app.command()
def theory(results_dir: OutputOption = Path("results"), threads: ThreadsOption = None) -> None:
    """Check the paper's equations; exit code 4 if one does not hold. Writes theory.csv and a figure."""
    prepare_xla(threads)
    import pandas as pd

    from dfp.files import write_atomically
    from dfp.report.figures.drawing import csv_text
    from dfp.studies.draw import write_study
    from dfp.studies.theory import run_checks
    from dfp.studies.theory.points import points

    results_dir.mkdir(parents=True, exist_ok=True)
    rows = []
    for check in run_checks():
        rows.append({**check._asdict(), "holds": check.holds})
        line = f"{check.measured:.6g} {check.relation} {check.expected:.6g} within {check.tolerance:g}"
        typer.echo(f"{'holds' if check.holds else 'FAILS'}  {check.equation:13} {check.name}: {line}")
    write_atomically(results_dir / "theory.csv", csv_text(pd.DataFrame(rows)))
    write_atomically(results_dir / "theory_points.csv", csv_text(pd.DataFrame(points())))
    echo_paths([results_dir / "theory.csv", results_dir / "theory_points.csv", *write_study("theory", results_dir)])
    if not all(row["holds"] for row in rows):
        raise typer.Exit(FAILED_CHECK)


def _command(name: str) -> Callable[..., None]:
    def command(
        results_dir: ResultsOption,
        data_dir: DataOption = Path("data"),
        partial: PartialOption = False,
        threads: ThreadsOption = None,
    ) -> None:
        prepare_xla(threads)
        from dfp.files import write_atomically
        from dfp.report.figures.drawing import csv_text
        from dfp.studies.candidates import candidate_rows, normalisation_rows
        from dfp.studies.field import field_rows

        if name == "field":
            rows = field_rows()
        elif name == "normalisation":
            rows = normalisation_rows(results_dir, data_dir, partial)
        else:
            rows = candidate_rows("candidates", results_dir, data_dir, partial)
        results_dir.mkdir(parents=True, exist_ok=True)
        typer.echo(write_atomically(results_dir / f"{name}.csv", csv_text(rows)))

    return command


for _name, _help in STUDIES.items():
    app.command(_name, help=_help)(_command(_name))


@app.command()
def plot(name: str, results_dir: ResultsOption) -> None:
    """Draw a study, or the theory, from the numbers that are there: theory, field, normalisation, candidates."""
    from dfp.studies.draw import write_study

    echo_paths(write_study(name, results_dir))


@app.command()
def collect(
    name: Annotated[str, typer.Argument(help="Configuration of the study: study, study-dfp, study-lift or equality.")],
    results_dir: ResultsOption,
    folder: StudyFolder = Path("docs/study"),
) -> None:
    """Put the finished runs of a study into its metrics.csv and provenance.csv; foreign runs are refused."""
    from dfp.report.study.data import collect_study

    echo_paths(collect_study(name, results_dir, folder))


@app.command()
def page(folder: StudyFolder = Path("docs/study")) -> None:
    """Make the study's page, tables and figures from its CSV files; print its answers to what the paper leaves open."""
    from dfp.report.study.page import silent_rows, write_study_page

    echo_paths(write_study_page(folder))
    for row, sentence in silent_rows(folder).items():
        typer.echo(f"docs/where-the-paper-is-silent.md, row '{row}': {sentence}")
