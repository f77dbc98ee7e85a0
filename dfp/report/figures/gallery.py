"""Figure 2: the tasks at their start, from the pictures that ``dfp report gallery`` leaves in the results."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

from dfp.errors import one_line
from dfp.files import write_atomically
from dfp.plan.run_table import read_table
from dfp.report.figures.drawing import STYLE, csv_text, write_drawing
from dfp.spec import ConfigError

FOLDER = "gallery"  # below the results
LIST = "tasks.csv"
HEADER: tuple[str, ...] = ("task", "title", "environment", "seed", "picture")
TYPES = dict.fromkeys(HEADER, "str") | {"seed": "int64"}
COLUMNS = 4
REMEDY = "dfp report gallery --config <file>"


def write_gallery(results_dir: Path) -> list[Path]:
    """Write ``figure2.png``, ``.pdf`` and, with a row per task, ``.csv`` below ``results_dir`` and return their paths.

    It needs no run. Raises :class:`ConfigError` if the list of the pictures or a picture is missing or damaged.
    """
    folder = results_dir / FOLDER
    if not (folder / LIST).exists():
        raise ConfigError(f"{folder / LIST}: no such file; run `{REMEDY}`")
    tasks = read_table(folder / LIST, TYPES)
    pictures = [_picture(folder / name) for name in tasks.picture]
    stem = results_dir / "figure2"
    drawing = write_drawing(stem, draw(list(tasks.title), pictures))
    return [*drawing, write_atomically(stem.with_suffix(".csv"), csv_text(tasks))]


def _picture(path: Path) -> np.ndarray:
    try:
        return matplotlib.image.imread(path)
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for a damaged picture
        reason = one_line(error).removeprefix(f"{path}: ")
        raise ConfigError(f"{path}: {reason}; run `{REMEDY}`") from None


def draw(titles: list[str], pictures: list[np.ndarray]) -> Figure:
    """Pictures ``[height, width, 3 or 4]`` in rows of :data:`COLUMNS`, each under its title."""
    columns = min(COLUMNS, len(pictures))
    rows = ceil(len(pictures) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.4 * columns, 2.65 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, title, picture in zip(grid, titles, pictures, strict=False):
            axes.imshow(picture)
            axes.set_title(title, fontsize=10)
        for axes in grid:
            axes.axis("off")
    return figure
