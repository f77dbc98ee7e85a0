"""Diffusion: a network that predicts the noise in a noisy action, and the sampler that turns noise into actions.

Variance preserving (Ho et al. 2020, Song et al. 2021): time runs from data (t = 0) to noise (t = 1),
``a_t = alpha_t a + sigma_t eps`` with ``eps ~ N(0, I)`` and ``alpha_t^2 + sigma_t^2 = 1``. SRPO draws ``t`` from an
interval. IDQL draws it from ``k / T``, and there ``alpha_t^2`` is DDPM's product of the ``1 - beta_k`` so far.

Shapes: ``B`` batch, ``S`` state, ``D`` flattened action chunk; leading dimensions (``*rows``) are free.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

# w(t) of SRPO: sigma_t^2 gives most weight to large t (much noise), alpha_t / sigma_t to small t
Weighting = Literal["variance", "score"]
# eps_hat(a_t, t) for fixed states: [..., D], [..., 1] -> [..., D]
NoisePrediction = Callable[[Array, Array], Array]

# --------------------------------------------------------------------------- from action to noise


@dataclasses.dataclass(frozen=True)
class VPSchedule:
    """``beta(t) = beta_min + t (beta_max - beta_min)``, the rate at which an action turns into noise."""

    beta_min: float
    beta_max: float

    def log_signal(self, t: Array | float) -> Array:
        """``log alpha_t = -1/2 int_0^t beta = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2``."""
        return jnp.asarray(-0.25 * (self.beta_max - self.beta_min) * t**2 - 0.5 * self.beta_min * t)

    def signal(self, t: Array | float) -> Array:
        """``alpha_t``, the factor of the action in ``a_t``; 1 at t = 0."""
        return jnp.exp(self.log_signal(t))

    def noise(self, t: Array | float) -> Array:
        """``sigma_t = sqrt(1 - alpha_t^2)``, the factor of the noise in ``a_t``; 0 at t = 0."""
        return jnp.sqrt(-jnp.expm1(2.0 * self.log_signal(t)))

    def step_variance(self, t: Array | float, earlier: Array | float) -> Array:
        """``beta_k = 1 - alpha_t^2 / alpha_earlier^2``, the noise that the step from ``earlier`` to ``t`` adds."""
        return -jnp.expm1(2.0 * (self.log_signal(t) - self.log_signal(earlier)))


def diffuse(
    schedule: VPSchedule, action: Float[Array, "*rows D"], noise: Float[Array, "*rows D"], t: Float[Array, "*rows 1"]
) -> Float[Array, "*rows D"]:
    """``a_t = alpha_t a + sigma_t eps``."""
    return schedule.signal(t) * action + schedule.noise(t) * noise


# --------------------------------------------------------------------------- losses


def noise_prediction_loss(
    prediction: NoisePrediction,
    schedule: VPSchedule,
    action: Float[Array, "B D"],
    noise: Float[Array, "B D"],
    t: Float[Array, "B 1"],
    weights: Float[Array, " B #D"],
) -> Float[Array, ""]:
    """The mean of ``weights (eps_hat(a_t, t) - eps)^2`` over states and coordinates."""
    error = prediction(diffuse(schedule, action, noise, t), t) - noise
    return jnp.mean(weights * jnp.square(error))


def score_regularisation(
    prediction: NoisePrediction,
    schedule: VPSchedule,
    action: Float[Array, "B D"],
    noise: Float[Array, "B D"],
    t: Float[Array, "B 1"],
    weighting: Weighting,
) -> Float[Array, "B D"]:
    """``w(t) (eps_hat(a_t, t) - eps)``, which points away from actions that are likely under the data.

    ``eps_hat`` is ``-sigma_t`` times the score of the smoothed data. The mean over noise and times is therefore a
    weighted gradient of the negative log-likelihood at ``action`` (SRPO, Eq. 10). Subtracting ``eps``, which has mean
    zero, reduces the variance.
    """
    alpha, sigma = schedule.signal(t), schedule.noise(t)
    weight = {"variance": jnp.square(sigma), "score": alpha / sigma}[weighting]
    return weight * (prediction(diffuse(schedule, action, noise, t), t) - noise)


# --------------------------------------------------------------------------- from noise to action


def ancestral_step(
    prediction: NoisePrediction,
    schedule: VPSchedule,
    x: Float[Array, "*rows D"],
    t: Float[Array, "*rows 1"],
    earlier: Float[Array, "*rows 1"],
    noise: Float[Array, "*rows D"],
) -> Float[Array, "*rows D"]:
    """DDPM's step back, ``(x - beta_k eps_hat / sigma_t) / sqrt(1 - beta_k) + sqrt(beta_k) z``.

    Args:
      x: noisy actions at ``t``.
      t, earlier: times ``k / T`` and ``(k - 1) / T``.
      noise: ``z``; zeros in the last step.
    """
    variance = schedule.step_variance(t, earlier)
    mean = (x - variance / schedule.noise(t) * prediction(x, t)) / jnp.sqrt(1.0 - variance)
    return mean + jnp.sqrt(variance) * noise


def ancestral(
    prediction: NoisePrediction, schedule: VPSchedule, noise: Float[Array, "*rows T D"]
) -> Float[Array, "*rows D"]:
    """From noise to actions in T steps, clipped to [-1, 1] after each step, as in IDQL's sampler.

    Args:
      noise: ``T`` draws. The sampler starts at the first; every step but the last adds the next one.
    """
    steps = noise.shape[-2]

    def step(done: Array, x: Array) -> Array:
        t = jnp.full((*x.shape[:-1], 1), (steps - done) / steps, x.dtype)
        fresh = jnp.take(noise, jnp.minimum(done + 1, steps - 1), axis=-2)
        x = ancestral_step(prediction, schedule, x, t, t - 1.0 / steps, jnp.where(done + 1 < steps, fresh, 0.0))
        return jnp.clip(x, -1.0, 1.0)

    return jax.lax.fori_loop(0, steps, step, noise[..., 0, :])
