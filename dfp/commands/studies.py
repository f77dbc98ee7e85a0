"""``theory``, ``study``, ``plot``: what goes beyond the paper's tables and figures, computed and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dfp.commands.options import PartialOption, ResultsOption, ThreadsOption, prepare_xla
from dfp.spec import ConfigError

app = typer.Typer()

OutputOption = Annotated[Path, typer.Option("--results-dir", help="Folder for the files.")]
DataOption = Annotated[Path, typer.Option("--data-dir", help="Folder of the datasets.")]


@app.command()
def theory(results_dir: OutputOption = Path("results"), threads: ThreadsOption = None) -> None:
    """Check the paper's equations; exit code 4 where one does not hold. Writes theory.csv and a figure."""
    prepare_xla(threads)
    import pandas as pd

    from dfp.files import write_atomically
    from dfp.report.drawing import csv_text
    from dfp.report.studies import write_study
    from dfp.theory import run_checks
    from dfp.theory.points import points

    results_dir.mkdir(parents=True, exist_ok=True)
    rows = []
    for check in run_checks():
        rows.append({**check._asdict(), "holds": check.holds})
        line = f"{check.measured:.6g} {check.relation} {check.expected:.6g} within {check.tolerance:g}"
        typer.echo(f"{'holds' if check.holds else 'FAILS'}  {check.equation:13} {check.name}: {line}")
    write_atomically(results_dir / "theory.csv", csv_text(pd.DataFrame(rows)))
    write_atomically(results_dir / "theory_points.csv", csv_text(pd.DataFrame(points())))
    for path in (results_dir / "theory.csv", results_dir / "theory_points.csv", *write_study("theory", results_dir)):
        typer.echo(path)
    if not all(row["holds"] for row in rows):
        raise typer.Exit(4)


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="field, normalisation or candidates.")],
    results_dir: ResultsOption,
    data_dir: DataOption = Path("data"),
    partial: PartialOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Compute a study beyond the paper and write <name>.csv; `plot` draws it."""
    if name not in ("field", "normalisation", "candidates"):
        raise ConfigError(f"study '{name}': not one of the studies made here: field, normalisation, candidates")
    prepare_xla(threads)
    from dfp.files import write_atomically
    from dfp.report.drawing import csv_text

    if name == "field":
        from dfp.studies_field import field_rows

        rows = field_rows()
    else:
        from dfp.studies import candidate_rows, normalisation_rows

        if name == "normalisation":
            rows = normalisation_rows(results_dir, data_dir, partial)
        else:
            rows = candidate_rows("candidates", results_dir, data_dir, partial)
    results_dir.mkdir(parents=True, exist_ok=True)
    typer.echo(write_atomically(results_dir / f"{name}.csv", csv_text(rows)))


@app.command()
def plot(name: str, results_dir: ResultsOption) -> None:
    """Draw a study, or the theory, from the numbers that are there: theory, field, normalisation, candidates."""
    from dfp.report.studies import write_study

    for path in write_study(name, results_dir):
        typer.echo(path)
