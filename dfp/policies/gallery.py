"""``dfp report gallery``: pictures of the tasks at the start of an episode, for Figure 2."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np

from dfp.files import csv_rows, write_atomically
from dfp.plan.catalogue import Catalogue, Config
from dfp.report.figures.gallery import FOLDER, HEADER, LIST
from dfp.tasks import open_view, suite_of

log = logging.getLogger("dfp")

SEED = 0  # of the episodes whose starts are shown


def render_gallery(config: Config, catalogue: Catalogue, results_dir: Path, size: tuple[int, int] | None) -> Path:
    """Write a picture per task of ``config`` and a list of them. Returns the path of the list.

    Args:
      size: width and height in pixels; None: as :func:`dfp.tasks.open_view`.

    Raises:
      ConfigError: as :func:`dfp.tasks.open_view`.
    """
    folder = results_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for key in config.tasks:
        entry = catalogue.tasks[key]
        picture = folder / f"{key}.png"
        with open_view(entry.spec, size=None if suite_of(entry.spec).draws_itself else size) as view:
            view.environment.reset(SEED)
            write_atomically(picture, _png(view.frame()))
        cells = (key, entry.title, entry.spec.environment, SEED, picture.name)
        rows.append(dict(zip(HEADER, cells, strict=True)))
        log.info(str(picture))
    return write_atomically(folder / LIST, csv_rows(HEADER, rows))


def _png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    unversioned: dict[str, Any] = {"Software": None}  # the same picture gives the same bytes
    matplotlib.image.imsave(buffer, frame, format="png", metadata=unversioned)
    return buffer.getvalue()
