"""What all figures share: the style, how each method's line looks, and files with the same bytes for the same data."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from dfp.files import write_atomically
from dfp.plan.catalogue import base_method

# One font that matplotlib itself brings, so that machines agree; Type 42 keeps the PDF's text selectable.
STYLE: dict[Any, Any] = sns.axes_style("ticks") | {"font.family": "DejaVu Sans", "pdf.fonttype": 42}
# A method has a dash and a marker besides its colour, so that the lines stay apart in grey. None is dotted: published
# curves are.
DASHES = ("-", "--", "-.", (0, (2, 1)), (0, (6, 1.5, 1, 1.5, 1, 1.5)))
MARKERS = "osD^vPX*"
OFFLINE = "0.91"


def pens(methods: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """How each method's line looks, from the columns ``method, label, color``.

    The last one, which in the paper is its own method, is the solid one. Variants of one method, which share its
    colour, are a scale from a light tint of it to a dark shade, in the order given.
    """
    methods = methods.drop_duplicates("method").reset_index(drop=True)
    variants = methods[methods.method.map(base_method) != methods.method]
    colors = methods.color.to_dict()
    for _, shared in variants.groupby(variants.method.map(base_method), sort=False):
        colors |= dict(zip(shared.index, scale(shared.color.iloc[0], len(shared)), strict=True))
    _, labels = short_labels(list(methods.label))
    return {
        row["method"]: {
            "label": labels[place],
            "color": colors[place],
            "linestyle": DASHES[(len(methods) - 1 - place) % len(DASHES)],
            "marker": MARKERS[(len(methods) - 1 - place) % len(MARKERS)],
            "markersize": 3.5,
            "linewidth": 1.4,
        }
        for place, row in enumerate(methods.to_dict("records"))
    }


def scale(color: str, count: int) -> list[str]:
    """``count`` colours from a light tint of ``color`` to a dark shade; one alone is the colour itself."""
    if count == 1:
        return [color]
    light, dark = (sns.blend_palette([end, color], 21) for end in ("white", "black"))
    ends = (light[12], color, dark[5])
    return [to_hex(shade) for shade in sns.blend_palette(ends, count)]


def short_labels(labels: list[str]) -> tuple[str, list[str]]:
    """The method that all labels ``method, setting`` share, and their settings; if none, ``""`` and the labels."""
    first = {label.partition(", ")[0] for label in labels}
    if len(first) != 1 or not all(", " in label for label in labels):
        return "", labels
    return first.pop(), [label.partition(", ")[2].replace("lambda=", "λ=") for label in labels]


def write_drawing(stem: Path, figure: Figure) -> list[Path]:
    """Write ``<stem>.png`` and ``<stem>.pdf`` and return their paths. The same figure gives the same bytes."""
    # Left to itself, matplotlib notes its version and the moment.
    contents = {
        "png": rendered(figure, "png", {"Software": None}),
        "pdf": rendered(figure, "pdf", {"CreationDate": None}),
    }
    return [write_atomically(stem.with_name(f"{stem.name}.{kind}"), content) for kind, content in contents.items()]


def csv_text(frame: pd.DataFrame) -> str:
    """A table as the text of a CSV file, six digits of each number."""
    return frame.to_csv(index=False, float_format="%.6g")


def rendered(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    """The figure as a file of this kind: png, pdf or svg."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()
