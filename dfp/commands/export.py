"""``export``: runs for other people's viewers."""

from pathlib import Path
from typing import Annotated

import typer

from dfp.commands.options import ResultsOption

app = typer.Typer()


@app.command()
def export(
    to: Annotated[str, typer.Option("--to", help="tensorboard or wandb; each needs the extra of its name.")],
    results_dir: ResultsOption = Path("results"),
    out: Annotated[Path | None, typer.Option("--out", help="Default: export/<to> in the results.")] = None,
) -> None:
    """Write finished and running runs as TensorBoard events or offline runs of Weights & Biases."""
    from dfp import export as exporter

    for folder in exporter.export(to, results_dir, out):
        typer.echo(folder)
