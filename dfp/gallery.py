"""``python -m dfp gallery``: the tasks at the start of an episode, as the pictures that Figure 2 is made of."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np

from dfp.catalogue import Catalogue, Config
from dfp.files import write_atomically
from dfp.report.gallery import FOLDER, HEADER, LIST
from dfp.tasks.rendering import open_view

SEED = 0  # of the episodes whose starts are shown


def render_gallery(
    config: Config, catalogue: Catalogue, results_dir: Path, size: tuple[int, int] | None, report: Callable[[str], None]
) -> Path:
    """Write a picture per task of ``config``, in its order, and the list of them; the list's path.

    Args:
      size: width and height in pixels; None: as :func:`~dfp.tasks.rendering.open_view`.
      report: called with one line per task.

    Raises:
      ConfigError: as :func:`~dfp.tasks.rendering.open_view`.
    """
    folder = results_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, lineterminator="\n")
    writer.writeheader()
    for key in config.tasks:
        entry = catalogue.tasks[key]
        picture = folder / f"{key}.png"
        with open_view(entry.spec, size=None if entry.spec.suite == "gymnasium" else size) as view:
            view.environment.reset(SEED)
            write_atomically(picture, _png(view.frame()))
        writer.writerow(
            {
                "task": key,
                "title": entry.title,
                "environment": entry.spec.environment,
                "seed": SEED,
                "picture": picture.name,
            }
        )
        report(str(picture))
    return write_atomically(folder / LIST, text.getvalue())


def _png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    unversioned: dict[str, Any] = {"Software": None}  # the same picture gives the same bytes
    matplotlib.image.imsave(buffer, frame, format="png", metadata=unversioned)
    return buffer.getvalue()
