"""What the theory's figure draws: convergence, bound and dissipation, each with its closed form beside it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np

from dfp.studies.theory.flow import TIMES, flow_of_gaussians, flow_to_two_modes, mass_divergence
from dfp.studies.theory.identities import decomposition_error, smoothed_error
from dfp.studies.theory.proposition import error_interval, gaps, relative_error, top_k_losses


class Point(NamedTuple):
    """A point of the figure."""

    panel: Literal["decomposition", "candidates", "bound", "flow"]
    series: str
    x: float
    y: float


def points() -> Iterator[Point]:
    """All points, one panel after another."""
    return chain(_decomposition(), _candidates(), _bound(), _flow())


def _decomposition() -> Iterator[Point]:
    for h in (0.4, 0.2, 0.1, 0.05):
        yield Point("decomposition", "measured", h, decomposition_error(h))
    for h in np.geomspace(0.04, 0.5, 41):
        yield Point("decomposition", "closed form", float(h), smoothed_error(float(h)))


def _candidates() -> Iterator[Point]:
    for n in (16, 64, 256, 1024, 4096):
        losses = top_k_losses(n, 256)
        yield Point("candidates", "measured", n, relative_error(losses))
        for series, value in zip(("low", "high"), error_interval(losses), strict=True):
            yield Point("candidates", series, n, value)


def _bound() -> Iterator[Point]:
    for entry in gaps():
        yield Point("bound", "measured", entry.variation, entry.loss)
        yield Point("bound", "bound", entry.variation, entry.loss_bound)


def _flow() -> Iterator[Point]:
    two_modes, share = flow_to_two_modes()
    masses = np.full_like(TIMES, mass_divergence(share))
    for series, values in zip(
        ("measured", "closed form", "two modes", "masses"), (*flow_of_gaussians(), two_modes, masses), strict=True
    ):
        for time, value in zip(TIMES, values, strict=True):
            yield Point("flow", series, float(time), float(value))
