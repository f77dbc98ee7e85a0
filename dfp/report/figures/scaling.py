"""The figure of ``dfp ops bench --scaling``: what an update costs as one quantity grows."""

from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dfp.files import write_atomically
from dfp.report.figures.drawing import STYLE, rendered

LABELS = {
    "batch": "batch size",
    "width": "width of the networks",
    "N": "candidates N (= N')",
    "K": "positives K",
    "G": "generated samples G",
    "rows": "rows in the buffer",
}


def write_scaling(lines: list[dict[str, Any]], folder: Path) -> list[Path]:
    """``scaling.csv`` and ``scaling.png`` in ``folder`` from the lines of ``bench``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(lines)
    return [
        write_atomically(folder / "scaling.csv", frame.to_csv(index=False)),
        write_atomically(folder / "scaling.png", rendered(draw_scaling(frame), "png", {"Software": None})),
    ]


def draw_scaling(frame: pd.DataFrame) -> Figure:
    """A panel per ``quantity``: ``ms`` and its two floors against ``value``, both axes logarithmic."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 5.2), layout="constrained")
        panels = figure.subplots(2, 3, sharey=True)
        for axes, (quantity, label) in zip(panels.flat, LABELS.items(), strict=True):
            part = frame[frame.quantity == quantity]
            axes.loglog(part.value, part.ms, "o-", color="#D55E00", label="measured")
            axes.loglog(part.value, part.full_floor_ms, "^:", color="0.35", label="products, GELU and layer norm alone")
            axes.loglog(part.value, part.floor_ms, "s--", color="0.35", label="matrix products alone")
            axes.set_xticks(part.value, [EngFormatter(sep="").format_eng(value) for value in part.value])
            axes.minorticks_off()
            axes.set_xlabel(label)
            axes.grid(axis="y", alpha=0.3)
        for axes in panels[:, 0]:
            axes.set_ylabel("ms per online update")
        panels[0, 0].legend(frameon=False, fontsize="small")
        first = frame.iloc[0]
        others = f"{first.method}, {first.depth} layers, otherwise width {frame.width.mode()[0]}"
        figure.suptitle(
            f"{others}, batch {frame.batch.mode()[0]} ({first.device}, cores: {first.cores})", fontsize="medium"
        )
        return figure
