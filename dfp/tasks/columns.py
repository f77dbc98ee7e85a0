"""Checks of a column that the readers of all file formats share. They are made after the conversion to float32.

``place`` is the file and the column, as an error names them.
"""

from __future__ import annotations

import numpy as np

from dfp.tasks.interface import ACTION_LIMIT, DataError

ACTION_TOLERANCE = 1e-4  # by which an action may lie outside [-1, 1], for rounding


def numbers(place: str, column: np.ndarray, shape: tuple[int | None, ...]) -> np.ndarray:
    """``column`` in float32.

    Args:
      column: numbers of any type: float64, float16, integers and booleans are converted.
      shape: the wanted shape; None allows any width.

    Raises:
      DataError: another shape, no numbers, or an entry that is not finite in float32.
    """
    matches = len(shape) == column.ndim and all(w in (None, s) for w, s in zip(shape, column.shape, strict=True))
    if not matches:
        raise DataError(f"{place} has shape {column.shape}, wanted {str(shape).replace('None', 'any')}")
    if column.dtype.kind not in "biuf":
        raise DataError(f"{place} has type {column.dtype}, wanted numbers")
    with np.errstate(over="ignore"):
        converted = column.astype(np.float32, copy=False)
    # Checks the extremes, which are NaN if any entry is, because a mask of 100M entries takes memory.
    if converted.size and not (np.isfinite(converted.min()) and np.isfinite(converted.max())):
        place_of = tuple(np.argwhere(~np.isfinite(converted))[0])
        raise DataError(f"{place} holds {column[place_of]} in row {place_of[0]}; wanted numbers finite in float32")
    return converted


def flags(place: str, column: np.ndarray) -> np.ndarray:
    """``column`` [N] as booleans. Raises ``DataError`` if it has another shape or holds anything but 0 and 1."""
    column = numbers(place, column, (None,))
    wrong = (column != 0) & (column != 1)
    if wrong.any():
        raise DataError(f"{place} holds {column[wrong.argmax()]:g} in row {wrong.argmax()}; allowed: 0 and 1")
    return column == 1


def actions(place: str, column: np.ndarray, allowed: str = "-1 to 1") -> np.ndarray:
    """``column`` [N, A] of float32 actions, clipped to :data:`ACTION_LIMIT` in place.

    Raises:
      DataError: an action is outside [-1, 1] by more than :data:`ACTION_TOLERANCE`: another scale, not rounding.
    """
    outside = (np.abs(column) > 1 + ACTION_TOLERANCE).any(axis=1)
    if outside.any():
        raise DataError(f"{place} leaves its range, {allowed}, first in row {outside.argmax()}; rescale the file")
    return np.clip(column, -ACTION_LIMIT, ACTION_LIMIT, out=column)
