"""Consistency models: one network that takes a noisy action, however noisy, to the action it came from.

Song et al. 2023: ``x_sigma = a + sigma z`` with ``z ~ N(0, I)`` and noise levels ``sigma`` from ``epsilon = 0.002`` to
``T = 80``. A consistency function ``f`` has one value along every path from noise to data, ``f(x_sigma, sigma) =
f(x_sigma', sigma')``, and at the smallest level it is the identity.

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

# f(x, sigma) of given states: [..., D], [..., 1] -> [..., D]
Consistency = Callable[[Array, Array], Array]

SIGMA_MIN = 0.002  # epsilon
SIGMA_MAX = 80.0  # T
SIGMA_DATA = 0.5  # the actions' own spread, as the scalings assume it
RHO = 7.0
LOSS_SCALE = 100.0  # Ding & Jin's release, whose eta is measured against it

# --------------------------------------------------------------------------- noise levels and scalings


def karras_levels(count: int) -> Array:
    """``sigma_i = (epsilon^(1/rho) + i / (count - 1) (T^(1/rho) - epsilon^(1/rho)))^rho``, rising, ``[count]``."""
    low, high = SIGMA_MIN ** (1.0 / RHO), SIGMA_MAX ** (1.0 / RHO)
    return jnp.linspace(low, high, count) ** RHO


def skip_scale(sigma: Array) -> Array:
    """``c_skip = sigma_data^2 / ((sigma - epsilon)^2 + sigma_data^2)``: how much of ``x`` is kept; 1 at epsilon."""
    return SIGMA_DATA**2 / (jnp.square(sigma - SIGMA_MIN) + SIGMA_DATA**2)


def output_scale(sigma: Array) -> Array:
    """``c_out = sigma_data (sigma - epsilon) / sqrt(sigma^2 + sigma_data^2)``: the network's share; 0 at epsilon."""
    return SIGMA_DATA * (sigma - SIGMA_MIN) / jnp.sqrt(jnp.square(sigma) + SIGMA_DATA**2)


def input_scale(sigma: Array) -> Array:
    """``c_in = 1 / sqrt(sigma^2 + sigma_data^2)``: brings ``x`` to unit size (Karras et al. 2022)."""
    return 1.0 / jnp.sqrt(jnp.square(sigma) + SIGMA_DATA**2)


# --------------------------------------------------------------------------- loss and sampling


def consistency_loss(
    function: Consistency, teacher: Consistency, action: Array, noise: Array, sigma: Array, next_sigma: Array,
    weights: Array,
) -> Array:  # fmt: skip
    """``mean of weights (f(a + sigma' z, sigma') - sg f_teacher(a + sigma z, sigma))^2`` over ``[B, D]``.

    Args:
      function, teacher: ``f``, and the older one that it learns from.
      action, noise: ``a`` and ``z``, ``[B, D]``.
      sigma, next_sigma: neighbouring levels, the larger second, ``[B, 1]``.
      weights: ``[B, D]`` or ``[B, 1]``.
    """
    target = jax.lax.stop_gradient(teacher(action + sigma * noise, sigma))
    error = function(action + next_sigma * noise, next_sigma) - target
    return jnp.mean(weights * jnp.square(error))


def level_weights(sigma: Array, next_sigma: Array) -> Array:
    """``100 / (sigma' - sigma)``, any shape: close levels have close values, and would hardly count otherwise."""
    return LOSS_SCALE / (next_sigma - sigma)


def draw_levels(key: Array, levels: Array, count: int) -> tuple[Array, Array]:
    """``count`` pairs of neighbouring levels, uniform over the pairs: each ``[B, 1]``, the smaller first."""
    index = jax.random.randint(key, (count, 1), 0, levels.shape[0] - 1)
    return levels[index], levels[index + 1]


def multistep(function: Consistency, noise: Array, levels: Array) -> Array:
    """Song et al.'s Algorithm 1: noise is taken to an action, noised again and taken back: ``[..., K, D] -> [..., D]``.

    Args:
      noise: one ``z`` for each step; the first, times ``levels[0]``, is where it starts.
      levels: falling noise levels above ``epsilon``, ``[K]``.
    """
    x = function(levels[0] * noise[..., 0, :], _at(levels[0], noise))
    for step in range(1, noise.shape[-2]):
        noisy = x + jnp.sqrt(jnp.square(levels[step]) - SIGMA_MIN**2) * noise[..., step, :]
        x = function(noisy, _at(levels[step], noise))
    return x


def _at(level: Array, noise: Array) -> Array:
    return jnp.full((*noise.shape[:-2], 1), level)


# --------------------------------------------------------------------------- the network


@dataclasses.dataclass(frozen=True)
class ConsistencyFunction:
    """``f(s, x, sigma) = c_skip x + c_out F(s, c_in x, log(sigma) / 4)``, with ``F`` the actor body of Table 5."""

    network: NetworkSpec
    observation_size: int
    chunk_size: int

    @property
    def body(self) -> MLP:
        return MLP(self.network.width, self.network.depth, self.chunk_size)

    def init(self, key: Array) -> Any:
        """Fresh parameters."""
        return self.body.init(key, jnp.zeros((1, self.observation_size + self.chunk_size + 1)))

    def at(self, params: Any, observation: Array) -> Consistency:
        """The function of the states ``[..., S]``, of noisy action and noise level."""

        def function(x: Array, sigma: Array) -> Array:
            inputs = jnp.concatenate([observation, input_scale(sigma) * x, 0.25 * jnp.log(sigma)], axis=-1)
            return skip_scale(sigma) * x + output_scale(sigma) * self.body.apply(params, inputs)  # pyright: ignore

        return function

    @property
    def work(self) -> MLPWork:
        """One value for one state."""
        return mlp_work(self.observation_size + self.chunk_size + 1, self.chunk_size, self.network)
