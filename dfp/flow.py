"""Flow matching: a velocity field, learnt on the straight lines from noise to data, that carries noise to actions.

Time runs from noise (t = 0) to data (t = 1): ``x_t = (1 - t) x_0 + t a`` with ``x_0 ~ N(0, I)``, and the velocity along
a line is ``a - x_0`` (Lipman et al. 2023). MVP's clock runs the other way.

Shapes: ``B`` batch, ``S`` state, ``D`` flattened action chunk; leading dimensions are free where ``...`` stands.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dfp.flops import MLPWork, mlp_work
from dfp.networks import MLP
from dfp.spec import NetworkSpec

# v(x, t) of given states: [..., D], [..., 1] -> [..., D]
Velocity = Callable[[Array, Array], Array]


def interpolate(noise: Array, action: Array, t: Array) -> Array:
    """``x_t = (1 - t) x_0 + t a``."""
    return (1.0 - t) * noise + t * action


def draw_start(key: Array, action: Array) -> tuple[Array, Array]:
    """``x_0 ~ N(0, I)``, ``[B, D]``, and ``t ~ U(0, 1)``, ``[B, 1]``, for every ``action`` ``[B, D]``."""
    noise_key, time_key = jax.random.split(key)
    return jax.random.normal(noise_key, action.shape), jax.random.uniform(time_key, (action.shape[0], 1))


def flow_matching_loss(velocity: Velocity, action: Array, noise: Array, t: Array, weights: Array) -> Array:
    """``mean of weights (v(x_t, t) - (a - x_0))^2`` over ``[B, D]``; ``weights`` is ``[B, D]`` or ``[B, 1]``."""
    error = velocity(interpolate(noise, action, t), t) - (action - noise)
    return jnp.mean(weights * jnp.square(error))


def integrate(velocity: Velocity, noise: Array, steps: int) -> Array:
    """Euler from t = 0 to 1, ``x += v(x, k / steps) / steps``: ``[..., D] -> [..., D]``, not clipped."""

    def step(k: Array, x: Array) -> Array:
        t = jnp.full((*x.shape[:-1], 1), k / steps, x.dtype)
        return x + velocity(x, t) / steps

    # A loop: unrolled it is 4 % slower on a CPU, and compiles longer.
    return jax.lax.fori_loop(0, steps, step, noise)


@dataclasses.dataclass(frozen=True)
class VelocityField:
    """``v(s, x, t)``: the actor body of Table 5 on state, point and raw time, side by side."""

    network: NetworkSpec
    observation_size: int
    chunk_size: int

    @property
    def body(self) -> MLP:
        return MLP(self.network.width, self.network.depth, self.chunk_size)

    def init(self, key: Array) -> Any:
        """Fresh parameters."""
        return self.body.init(key, jnp.zeros((1, self.observation_size + self.chunk_size + 1)))

    def at(self, params: Any, observation: Array) -> Velocity:
        """The field of the states ``[..., S]``, as a function of point and time."""
        return lambda x, t: self.body.apply(params, jnp.concatenate([observation, x, t], axis=-1))  # pyright: ignore

    @property
    def work(self) -> MLPWork:
        """One velocity of one state."""
        return mlp_work(self.observation_size + self.chunk_size + 1, self.chunk_size, self.network)
