"""The drifting field and its loss. This module can be read without the others.

A policy is a one-pass map ``a = f(eps, s)``. For every state it generates ``G`` samples. The *drifting field* pulls
each sample towards positives ``y+`` and pushes it away from negatives ``y-``, the policy's own samples (Eq. 3).
Training regresses a sample onto the point to which the field moves it (Eq. 4). Behaviour cloning (Eq. 18) and policy
improvement (Eq. 16) use this loss with different positives: the data action, and the K best candidates by the critic.

Shapes: ``B`` states, ``G`` generated samples of a state, ``K`` positives, ``M`` extra negatives, ``N`` targets in all,
``D`` coordinates of a flattened action chunk.

Two normalisations of the same field:

* :func:`mean_shift_field`, Eq. 3: a Gaussian kernel on raw actions.
* :func:`joint_field`, the released drifting algorithm: distances in units of their batch mean, weights normalised
  over targets and over samples, the force of each bandwidth scaled to unit RMS. The default for training.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

Normalisation = Literal["joint", "mean_shift"]

SELF_DISTANCE = 100.0  # added to the normalised distance of a sample to itself, so that its weight is the least
MIN_SCALE = 1e-3
MIN_WEIGHT = 1e-6
MIN_FORCE = 1e-4


class Field(NamedTuple):
    """A drifting field at the samples. :func:`drifting_field` makes it a constant for differentiation."""

    velocity: Float[Array, "B G D"]  #: displacement of each sample, in units of ``scale``
    scale: Float[Array, ""]  #: length of one unit in action coordinates
    strength: Float[Array, ""]  #: RMS of the velocity; under ``joint`` of the forces before they are scaled
    distance: Float[Array, ""]  #: mean distance between samples and targets, self pairs included, in action coordinates


def drifting_field(
    samples: Float[Array, "B G D"],
    positives: Float[Array, "B K D"],
    extra_negatives: Float[Array, "B M D"] | None = None,
    *,
    bandwidths: Sequence[float],
    normalisation: Normalisation = "joint",
) -> Field:
    """The field ``V_{p,q}`` at each sample; ``q`` is the policy that drew the samples.

    Args:
      samples: generated actions. ``mean_shift`` needs two per state, or extra negatives; otherwise the field is NaN.
      positives: samples of the target ``p``.
      extra_negatives: further samples of ``q``, or none.
      bandwidths: kernel bandwidths ``h > 0``, in units of the mean distance (``joint``) or in action coordinates
        (``mean_shift``). Their fields are added (``joint``) or averaged (``mean_shift``).
      normalisation: ``joint`` or ``mean_shift``, described at the top of this module.
    """
    if extra_negatives is None:
        extra_negatives = jnp.zeros_like(samples[:, :0])
    samples, positives, extra_negatives = jax.lax.stop_gradient((samples, positives, extra_negatives))
    field = {"joint": joint_field, "mean_shift": mean_shift_field}[normalisation]
    return field(samples, positives, extra_negatives, bandwidths)


def drift_loss(
    samples: Float[Array, "B G D"], field: Field, weights: Float[Array, "B D"] | None = None
) -> Float[Array, ""]:
    """Eq. 4: ``mean |x - sg(x + V)|^2`` per coordinate, in the field's own units.

    Under ``joint`` with one bandwidth the value is 1 by construction. Watch ``field.strength`` instead.

    Args:
      samples: the actions that the field was computed for, with gradient.
      field: their drifting field.
      weights: weight of each coordinate, or none for ones.
    """
    drifted = jax.lax.stop_gradient(samples / field.scale + field.velocity)
    errors = jnp.square(samples / field.scale - drifted)
    return jnp.mean(errors if weights is None else errors * weights[:, None, :])


# --------------------------------------------------------------------------- Eq. 3


def mean_shift_field(
    samples: Float[Array, "B G D"],
    positives: Float[Array, "B K D"],
    extra_negatives: Float[Array, "B M D"],
    bandwidths: Sequence[float],
    *,
    exclude_self: bool = True,
) -> Field:
    """Eq. 3: attraction to the positives minus attraction to the state's other samples, averaged over bandwidths.

    A sample is not a negative of itself. At a small bandwidth ``k(x, x) = 1`` would outweigh all other samples and
    switch the repulsion off. With ``exclude_self=False`` and one bandwidth, Eqs. 7 and 8 hold exactly.
    """
    negatives = jnp.concatenate([samples, extra_negatives], axis=1)
    own = _own(samples, negatives) if exclude_self else None
    shifts = [mean_shift(samples, positives, h) - mean_shift(samples, negatives, h, own) for h in bandwidths]
    velocity = sum(shifts[1:], start=shifts[0]) / len(shifts)
    distance = jnp.mean(_distances(samples, jnp.concatenate([negatives, positives], axis=1)))
    return Field(velocity, jnp.ones(()), _rms(velocity), distance)


def mean_shift(
    points: Float[Array, "B G D"],
    targets: Float[Array, "B N D"],
    bandwidth: float,
    excluded: Bool[Array, "#B G N"] | None = None,
) -> Float[Array, "B G D"]:
    """One half of Eq. 3: ``sum_j softmax_j(log k(x, y_j)) y_j - x`` with ``k = exp(-|x - y|^2 / 2 h^2)``.

    Args:
      points: at which to evaluate.
      targets: samples of the attracting distribution.
      bandwidth: ``h > 0``, in action coordinates.
      excluded: true for a pair that does not count, or none.
    """
    log_kernel = -jnp.square(_distances(points, targets)) / (2.0 * bandwidth**2)
    if excluded is not None:
        log_kernel = jnp.where(excluded, -jnp.inf, log_kernel)
    return jax.nn.softmax(log_kernel, axis=-1) @ targets - points


# --------------------------------------------------------------------------- the released algorithm


def joint_field(
    samples: Float[Array, "B G D"],
    positives: Float[Array, "B K D"],
    extra_negatives: Float[Array, "B M D"],
    bandwidths: Sequence[float],
) -> Field:
    """The field that the drifting-models release trains with: the sum of :func:`joint_force` over bandwidths.

    Each force is scaled to unit RMS over the batch. The unit of length is the mean distance over the WHOLE batch. The
    target of a state therefore depends on the other states of the batch.
    """
    negatives = jnp.concatenate([samples, extra_negatives], axis=1)
    targets = jnp.concatenate([negatives, positives], axis=1)
    distances = _distances(samples, targets)
    mean_distance = jnp.mean(distances)
    scale = jnp.maximum(mean_distance / jnp.sqrt(samples.shape[-1]), MIN_SCALE)
    distances = distances / jnp.maximum(mean_distance, MIN_SCALE) + SELF_DISTANCE * _own(samples, targets)
    forces = [joint_force(distances, targets / scale, samples / scale, negatives.shape[1], h) for h in bandwidths]
    strengths = [_rms(force) for force in forces]
    velocity = sum(force / jnp.maximum(rms, MIN_FORCE) for force, rms in zip(forces, strengths, strict=True))
    return Field(jnp.asarray(velocity), scale, jnp.mean(jnp.stack(strengths)), mean_distance)


def joint_force(
    distances: Float[Array, "B G N"],
    targets: Float[Array, "B N D"],
    points: Float[Array, "B G D"],
    num_negatives: int,
    bandwidth: float,
) -> Float[Array, "B G D"]:
    """``M_i sum_pos W_ij y_j - P_i sum_neg W_ij y_j``: Eq. 3 with the weights ``W``, times ``P_i M_i``.

    ``P_i`` and ``M_i`` are the sums of ``W_ij`` over positives and over negatives. The weights are
    ``W = sqrt(softmax over targets * softmax over samples)`` of ``-d / h``, a Laplacian kernel.

    Args:
      distances: normalised distances to the negatives, then to the positives.
      targets: normalised coordinates of the same targets.
      points: normalised coordinates of the samples.
      num_negatives: how many of the ``N`` targets are negatives.
      bandwidth: ``h > 0``, in units of the mean distance.
    """
    logits = -distances / bandwidth
    product = jax.nn.softmax(logits, axis=-1) * jax.nn.softmax(logits, axis=-2)
    weights = jnp.sqrt(jnp.maximum(product, MIN_WEIGHT))
    negative, positive = weights[..., :num_negatives], weights[..., num_negatives:]
    attraction = positive * jnp.sum(negative, axis=-1, keepdims=True)
    repulsion = negative * jnp.sum(positive, axis=-1, keepdims=True)
    coefficients = jnp.concatenate([-repulsion, attraction], axis=-1)
    # The coefficients add up to zero. Subtracting their rounding error makes the force independent of the origin.
    return coefficients @ targets - jnp.sum(coefficients, axis=-1, keepdims=True) * points


# --------------------------------------------------------------------------- pieces


def _distances(points: Float[Array, "B G D"], targets: Float[Array, "B N D"]) -> Float[Array, "B G N"]:
    return jnp.sqrt(jnp.sum(jnp.square(points[:, :, None, :] - targets[:, None, :, :]), axis=-1))


def _own(samples: Float[Array, "B G D"], targets: Float[Array, "B N D"]) -> Bool[Array, "1 G N"]:
    """True if a target is the sample itself. The samples are the first targets."""
    return jnp.eye(samples.shape[1], targets.shape[1], dtype=bool)[None]


def _rms(vectors: Float[Array, "B G D"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.mean(jnp.square(vectors)))
