"""``export``: runs for other people's viewers."""

from pathlib import Path
from typing import Annotated

import typer

from dfp.commands.options import ResultsOption, echo_paths, group

app = group()


@app.command()
def export(
    to: Annotated[str, typer.Option("--to", help="tensorboard, wandb or rocrate; each needs the extra of its name.")],
    results_dir: ResultsOption = Path("results"),
    out: Annotated[Path | None, typer.Option("--out", help="Default: export/<to> in the results.")] = None,
) -> None:
    """Write finished and running runs as TensorBoard events or offline runs of Weights & Biases.

    rocrate: the tables, figures and finished runs as a Workflow Run RO-Crate, to archive and cite.
    """
    from dfp.ops import export as exporter

    echo_paths(exporter.export(to, results_dir, out))
