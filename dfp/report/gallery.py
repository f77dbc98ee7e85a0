"""Figure 2: the tasks at their start, from the pictures that ``python -m dfp gallery`` leaves in the results."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dfp.spec import ConfigError

FOLDER = "gallery"  # below the results
LIST = "tasks.csv"
HEADER: tuple[str, ...] = ("task", "title", "environment", "seed", "picture")
COLUMNS = 4


def gallery(results_dir: Path, style: dict) -> tuple[pd.DataFrame, Figure]:
    """The list of the pictures, a row per task in its order, and all of them in a grid.

    Raises :class:`ConfigError` where the list or a picture is missing.
    """
    folder = results_dir / FOLDER
    try:
        tasks = pd.read_csv(folder / LIST)
        pictures = [matplotlib.image.imread(folder / name) for name in tasks.picture]
    except FileNotFoundError as error:
        raise ConfigError(f"{error.filename}: no such file; run `python -m dfp gallery --config <file>`") from None
    return tasks, draw(list(tasks.title), pictures, style)


def draw(titles: list[str], pictures: list[np.ndarray], style: dict) -> Figure:
    """Pictures ``[height, width, 3 or 4]`` in rows of :data:`COLUMNS`, each under its title."""
    columns = min(COLUMNS, len(pictures))
    rows = ceil(len(pictures) / columns)
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(2.4 * columns, 2.65 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, title, picture in zip(grid, titles, pictures, strict=False):
            axes.imshow(picture)
            axes.set_title(title, fontsize=10)
        for axes in grid:
            axes.axis("off")
    return figure
