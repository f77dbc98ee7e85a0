"""Diffusion: a network that predicts the noise in a noisy action, and the way from noise back to actions.

Variance preserving (Ho et al. 2020, Song et al. 2021): time runs from data (t = 0) to noise (t = 1),
``a_t = alpha_t a + sigma_t eps`` with ``eps ~ N(0, I)`` and ``alpha_t^2 + sigma_t^2 = 1``. IDQL cuts the way into five
steps, SRPO leaves it continuous; both have one schedule, of which DDPM's products of ``1 - beta_k`` are the values at
``t = k / T``.

Shapes: ``B`` batch, ``S`` state, ``D`` flattened action chunk; leading dimensions are free where ``...`` stands.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from dfp.flops import MLPWork
from dfp.networks import ResNet, resnet_work
from dfp.spec import NetworkSpec

# w(t) of SRPO: sigma_t^2, which listens to the blurred data most, or alpha_t / sigma_t, to the sharp
Weighting = Literal["variance", "score"]
# eps_hat(a_t, t) of given states: [..., D], [..., 1] -> [..., D]
NoisePrediction = Callable[[Array, Array], Array]

# --------------------------------------------------------------------------- the way to noise


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


def diffuse(schedule: VPSchedule, action: Array, noise: Array, t: Array) -> Array:
    """``a_t = alpha_t a + sigma_t eps``: ``[..., D], [..., D], [..., 1] -> [..., D]``."""
    return schedule.signal(t) * action + schedule.noise(t) * noise


# --------------------------------------------------------------------------- losses


def noise_prediction_loss(
    prediction: NoisePrediction, schedule: VPSchedule, action: Array, noise: Array, t: Array, weights: Array
) -> Array:
    """``mean of weights (eps_hat(a_t, t) - eps)^2`` over ``[B, D]``; ``weights`` is ``[B, D]`` or ``[B, 1]``."""
    error = prediction(diffuse(schedule, action, noise, t), t) - noise
    return jnp.mean(weights * jnp.square(error))


def score_regularisation(
    prediction: NoisePrediction, schedule: VPSchedule, action: Array, noise: Array, t: Array, weighting: Weighting
) -> Array:
    """``w(t) (eps_hat(a_t, t) - eps)``, ``[B, D]``: away from what the data makes likely.

    ``eps_hat`` is ``-sigma_t`` times the score of the smoothed data, so the mean over noise and times is a weighted
    gradient of its negative log-likelihood at ``action`` (SRPO, Eq. 10). The ``- eps`` has mean zero and takes variance
    off.
    """
    alpha, sigma = schedule.signal(t), schedule.noise(t)
    weight = {"variance": jnp.square(sigma), "score": alpha / sigma}[weighting]
    return weight * (prediction(diffuse(schedule, action, noise, t), t) - noise)


# --------------------------------------------------------------------------- the way back


def ancestral_step(
    prediction: NoisePrediction, schedule: VPSchedule, x: Array, t: Array, earlier: Array, noise: Array
) -> Array:
    """DDPM's step back, ``(x - beta_k eps_hat / sigma_t) / sqrt(1 - beta_k) + sqrt(beta_k) z``.

    Args:
      x: noisy actions at ``t``, ``[..., D]``.
      t, earlier: times ``k / T`` and ``(k - 1) / T``, ``[..., 1]``.
      noise: ``z``, ``[..., D]``; zeros in the last step.
    """
    variance = schedule.step_variance(t, earlier)
    mean = (x - variance / schedule.noise(t) * prediction(x, t)) / jnp.sqrt(1.0 - variance)
    return mean + jnp.sqrt(variance) * noise


def ancestral(prediction: NoisePrediction, schedule: VPSchedule, noise: Array) -> Array:
    """From noise to actions in T steps, held within [-1, 1] after each, as IDQL's sampler does.

    Args:
      noise: ``[..., T, D]``; it starts at ``noise[..., 0, :]``, and all steps but the last add another part.

    Returns:
      ``[..., D]``.
    """
    steps = noise.shape[-2]

    def step(done: Array, x: Array) -> Array:
        t = jnp.full((*x.shape[:-1], 1), (steps - done) / steps, x.dtype)
        fresh = jnp.take(noise, jnp.minimum(done + 1, steps - 1), axis=-2)
        x = ancestral_step(prediction, schedule, x, t, t - 1.0 / steps, jnp.where(done + 1 < steps, fresh, 0.0))
        return jnp.clip(x, -1.0, 1.0)

    return jax.lax.fori_loop(0, steps, step, noise[..., 0, :])


# --------------------------------------------------------------------------- the network


@dataclasses.dataclass(frozen=True)
class NoisePredictor:
    """``eps_hat(s, a_t, t)``: a layer-normalised residual body on state, noisy action and raw time, side by side."""

    network: NetworkSpec
    blocks: int
    observation_size: int
    chunk_size: int

    @property
    def body(self) -> ResNet:
        return ResNet(self.network.width, self.blocks, self.chunk_size)

    def init(self, key: Array) -> Any:
        """Fresh parameters."""
        return self.body.init(key, jnp.zeros((1, self.observation_size + self.chunk_size + 1)))

    def at(self, params: Any, observation: Array) -> NoisePrediction:
        """The prediction for the states ``[..., S]``, as a function of noisy action and time."""
        return lambda x, t: self.body.apply(params, jnp.concatenate([observation, x, t], axis=-1))  # pyright: ignore

    @property
    def work(self) -> MLPWork:
        """One prediction for one state."""
        return resnet_work(
            self.observation_size + self.chunk_size + 1, self.chunk_size, self.network.width, self.blocks
        )
