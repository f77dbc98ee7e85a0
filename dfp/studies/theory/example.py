"""The one example that serves all checks, in one action dimension, and samples and fields on it.

``pi_old = N(0, 1)``, ``Q(a) = -(a - 1)^2 / 2``, ``alpha = 1/2``, so that ``pi+ = N(2/3, 1/3)`` (Eq. 11), and
``pi_theta = N(-1/2, 1/4)``. Proposition 1 needs a bounded action space: there everything is cut to ``[-1, 1]``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import ndtri

from dfp import drift

ALPHA, BEST_ACTION = 0.5, 1.0  # the temperature, and where Q is largest
ACTIONS = np.linspace(-1.0, 1.0, 401)  # the bounded action space of Proposition 1


class Gaussian(NamedTuple):
    """A normal distribution of one action."""

    mean: float
    variance: float

    def score(self, a: Array | np.ndarray | float) -> Array:
        """``d/da log density``."""
        return -(jnp.asarray(a) - self.mean) / self.variance

    def smoothed(self, bandwidth: float) -> Gaussian:
        """Its KDE with infinitely many samples: the convolution with ``N(0, h^2)``."""
        return Gaussian(self.mean, self.variance + bandwidth**2)

    def kl(self, other: Gaussian) -> float:
        """``KL(self || other)``."""
        ratio = self.variance / other.variance
        return 0.5 * (ratio - 1.0 - np.log(ratio) + (self.mean - other.mean) ** 2 / other.variance)


OLD, POLICY = Gaussian(0.0, 1.0), Gaussian(-0.5, 0.25)
IMPROVED = Gaussian(2.0 / 3.0, 1.0 / 3.0)  # precision 1 + 1/alpha = 3, mean (0 * 1 + 1 / alpha) / 3


def q_value(a: Array | np.ndarray | float) -> Array:
    """The critic of the example."""
    return -0.5 * (jnp.asarray(a) - BEST_ACTION) ** 2


# --------------------------------------------------------------------------- samples and fields


def quantiles_of(distribution: Gaussian, count: int) -> Array:
    """``count`` samples that represent a normal distribution: its quantiles at ``(i + 1/2) / count``, ``[count]``."""
    levels = (np.arange(count) + 0.5) / count
    return jnp.asarray(distribution.mean + distribution.variance**0.5 * ndtri(levels), jnp.float32)


def grid_quantiles(density: np.ndarray, count: int) -> Array:
    """:func:`quantiles_of` for a density on :data:`ACTIONS`, which need not be normalised, ``[count]``."""
    levels = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return jnp.asarray(np.interp((np.arange(count) + 0.5) / count, levels / levels[-1], ACTIONS), jnp.float32)


def attraction(points: Array, targets: Array, bandwidth: float) -> Array:
    """``V+`` of Eq. 3 at ``[P]`` points, of ``[n]`` samples; ``[P, D]`` and ``[n, D]`` likewise."""
    if points.ndim == 1:
        return attraction(points[:, None], targets[:, None], bandwidth)[:, 0]
    return drift.mean_shift(points[None], targets[None], bandwidth)[0]


def field(points: Array, positives: Array, negatives: Array, bandwidth: float) -> Array:
    """Eq. 3, ``V_{p,q}`` at points that belong to neither: each is a separate state with one generated sample."""
    if points.ndim == 1:
        return field(points[:, None], positives[:, None], negatives[:, None], bandwidth)[:, 0]

    def everywhere(samples: Array) -> Array:
        return jnp.broadcast_to(samples, (len(points), *samples.shape))

    found = drift.mean_shift_field(points[:, None], everywhere(positives), everywhere(negatives), (bandwidth,))
    return found.velocity[:, 0]


def field_loss(points: Array, positives: Array, repulsion: Array, bandwidth: float) -> Array:
    """Eq. 4 in expectation over ``points ~ q``: ``mean |V+ - V-|^2``, with ``V-`` given."""
    return jnp.mean((attraction(points, positives, bandwidth) - repulsion) ** 2)
