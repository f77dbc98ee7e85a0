"""Sections 2 and 3.1: the field, and its split into Q ascent and a trust region if its target is ``pi+``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import minimize

from dfp import drift
from dfp.studies.theory.check import Check
from dfp.studies.theory.example import (
    ALPHA,
    BEST_ACTION,
    IMPROVED,
    OLD,
    POLICY,
    Gaussian,
    attraction,
    field,
    q_value,
    quantiles_of,
)


def _cloud(seed: int, count: int) -> Array:
    return jax.random.normal(jax.random.key(seed), (count, 2))


# --------------------------------------------------------------------------- Section 2: the field itself


def anti_symmetry() -> Check:
    """``V_{p,q} = -V_{q,p}`` at points that belong to neither."""
    x, p, q = _cloud(0, 64), _cloud(1, 40), _cloud(2, 30) + 1.0
    largest = jnp.max(jnp.abs(field(x, p, q, 0.7) + field(x, q, p, 0.7)))
    return Check("the field is anti-symmetric", "Sec. 2.2", "=", 0.0, float(largest), 1e-5)


def zero_at_the_target() -> Check:
    """``p = q`` gives ``V = 0``: with the samples themselves as positives, and each its own negative too."""
    samples = _cloud(3, 64)[None]
    still = drift.mean_shift_field(samples, samples, samples[:, :0], (0.5,), exclude_self=False).velocity
    return Check("no drift where q = p", "Sec. 2.2", "=", 0.0, float(jnp.max(jnp.abs(still))), 1e-5)


def _log_kde(point: Array, targets: Array, bandwidth: float) -> Array:
    return jax.nn.logsumexp(-jnp.sum((point[None] - targets) ** 2, axis=-1) / (2.0 * bandwidth**2))


def _kde_score(points: Array, targets: Array, bandwidth: float) -> Array:
    return jax.vmap(lambda point: jax.grad(_log_kde)(point, targets, bandwidth))(points)


def score_identity() -> Check:
    """Eq. 7: the mean shift is ``h^2`` times the gradient of the log-KDE, by automatic differentiation."""
    x, p, h = _cloud(4, 64), _cloud(5, 40), 0.6
    error = jnp.max(jnp.abs(h**2 * _kde_score(x, p, h) - attraction(x, p, h)))
    return Check("mean shift = h² ∇ log KDE", "Eq. 7", "=", 0.0, float(error), 2e-5)


def field_identity() -> Check:
    """Eq. 8: the field is ``h^2`` times the difference of the two scores."""
    x, p, q, h = _cloud(6, 64), _cloud(7, 40), _cloud(8, 30) + 1.0, 0.6
    error = jnp.max(jnp.abs(h**2 * (_kde_score(x, p, h) - _kde_score(x, q, h)) - field(x, p, q, h)))
    return Check("field = h² (∇ log p − ∇ log q), both KDE", "Eqs. 8, 13", "=", 0.0, float(error), 2e-5)


# --------------------------------------------------------------------------- Section 3.1: Q ascent and trust region


def improved_score() -> Check:
    """Eq. 11 is the maximiser of Eq. 10, here found by search among normal policies; its score at a = 0.3 is 1.1."""

    def loss(policy: np.ndarray) -> float:
        mean, variance = policy[0], np.exp(policy[1])
        expected_q = -0.5 * (variance + (mean - BEST_ACTION) ** 2)
        return ALPHA * Gaussian(mean, variance).kl(OLD) - expected_q

    mean, log_variance = minimize(loss, np.zeros(2), tol=1e-8).x
    score = float(Gaussian(mean, np.exp(log_variance)).score(0.3))
    return Check("score of π⁺ at a = 0.3", "Eqs. 10, 11", "=", float(IMPROVED.score(0.3)), score, 1e-3)


def decomposition(a: float = 0.3) -> float:
    """Right-hand side of Eq. 14 over ``h^2``: Q ascent + trust region; at a = 0.3, 1.4 + (-0.3 + 3.2) = 4.3."""
    ascent = jax.grad(q_value)(a) / ALPHA
    return float(ascent + OLD.score(a) - POLICY.score(a))


def scaled_field(bandwidth: float, a: float = 0.3) -> float:
    """The field of Eq. 3 at ``a``, on 5,001 samples each of pi+ and pi_theta, over ``h^2``."""
    samples = (quantiles_of(IMPROVED, 5_001), quantiles_of(POLICY, 5_001))
    return float(field(jnp.array([a], jnp.float32), *samples, bandwidth)[0]) / bandwidth**2


def decomposition_error(bandwidth: float, a: float = 0.3) -> float:
    """How far :func:`scaled_field` is from Eq. 14 at ``a``."""
    return abs(scaled_field(bandwidth, a) - decomposition(a))


def smoothed_error(bandwidth: float, a: float = 0.3) -> float:
    """:func:`decomposition_error` in closed form: the KDE of infinitely many samples of a normal one is also normal."""
    exact = float(IMPROVED.smoothed(bandwidth).score(a) - POLICY.smoothed(bandwidth).score(a))
    return abs(exact - decomposition(a))


def field_of_gaussians() -> Check:
    """Eq. 13 at h = 0.5 and a = 0.3, where both KDEs are normal: 0.25 (0.36667 / 0.58333 + 0.8 / 0.5) = 0.557143."""
    h, a = 0.5, 0.3
    exact = h**2 * float(IMPROVED.smoothed(h).score(a) - POLICY.smoothed(h).score(a))
    measured = h**2 * scaled_field(h, a)
    return Check("field between π⁺ and πθ at a = 0.3, h = 0.5", "Eq. 13", "=", exact, measured, 2e-4)


def decomposition_limit() -> Check:
    """Eq. 14 as h -> 0: the field over ``h^2`` is the sum of its terms, 4.3.

    Its error is of order ``h^2``; Richardson's extrapolation from h = 0.1 and 0.05 leaves order ``h^4``.
    """
    coarse, fine = (scaled_field(h) for h in (0.1, 0.05))
    return Check("Q ascent 1.4 + trust region 2.9, h → 0", "Eq. 14", "=", 4.3, (4.0 * fine - coarse) / 3.0, 5e-3)


def decomposition_order() -> Check:
    """Eq. 14 is the limit of small bandwidths: its error falls with ``h^2``."""
    order = np.log2(decomposition_error(0.1) / decomposition_error(0.05))
    return Check("order in h of the error of Eq. 14", "Eq. 14", "=", 2.0, float(order), 0.1)
