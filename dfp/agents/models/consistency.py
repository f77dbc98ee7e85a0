"""Consistency models: one network that takes an action with any amount of noise back to the action.

Song et al. 2023: ``x_sigma = a + sigma z`` with ``z ~ N(0, I)`` and noise levels ``sigma`` from ``epsilon = 0.002`` to
``T = 80``. A consistency function ``f`` has one value along every path from noise to data, ``f(x_sigma, sigma) =
f(x_sigma', sigma')``, and at the smallest level it is the identity.

Shapes: ``B`` batch, ``S`` state, ``D`` flattened action chunk; leading dimensions (``*rows``) are free.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PRNGKeyArray

# f(x, sigma) for fixed states: [..., D], [..., 1] -> [..., D]
Consistency = Callable[[Array, Array], Array]

SIGMA_MIN = 0.002  # epsilon
SIGMA_MAX = 80.0  # T
SIGMA_DATA = 0.5  # the spread of the actions that the scalings assume
RHO = 7.0
LOSS_SCALE = 100.0  # as in Ding & Jin's release: CAC's eta is the weight of Q relative to it

# --------------------------------------------------------------------------- noise levels and scalings


def karras_levels(count: int) -> Float[Array, " {count}"]:
    """``sigma_i = (epsilon^(1/rho) + i / (count - 1) (T^(1/rho) - epsilon^(1/rho)))^rho``, rising."""
    low, high = SIGMA_MIN ** (1.0 / RHO), SIGMA_MAX ** (1.0 / RHO)
    return jnp.linspace(low, high, count) ** RHO


def skip_scale(sigma: Array) -> Array:
    """``c_skip = sigma_data^2 / ((sigma - epsilon)^2 + sigma_data^2)``: the share of ``x``; 1 at epsilon."""
    return SIGMA_DATA**2 / (jnp.square(sigma - SIGMA_MIN) + SIGMA_DATA**2)


def output_scale(sigma: Array) -> Array:
    """``c_out = sigma_data (sigma - epsilon) / sqrt(sigma^2 + sigma_data^2)``: the network's share; 0 at epsilon."""
    return SIGMA_DATA * (sigma - SIGMA_MIN) / jnp.sqrt(jnp.square(sigma) + SIGMA_DATA**2)


def input_scale(sigma: Array) -> Array:
    """``c_in = 1 / sqrt(sigma^2 + sigma_data^2)``: brings ``x`` to unit size (Karras et al. 2022)."""
    return 1.0 / jnp.sqrt(jnp.square(sigma) + SIGMA_DATA**2)


# --------------------------------------------------------------------------- loss and sampling


def consistency_loss(
    function: Consistency,
    teacher: Consistency,
    action: Float[Array, "B D"],
    noise: Float[Array, "B D"],
    sigma: Float[Array, "B 1"],
    next_sigma: Float[Array, "B 1"],
    weights: Float[Array, " B #D"],
) -> Float[Array, ""]:
    """The mean of ``weights (f(a + sigma' z, sigma') - sg f_teacher(a + sigma z, sigma))^2``.

    Args:
      function, teacher: ``f``, and the average of ``f`` from which it learns.
      action, noise: ``a`` and ``z``.
      sigma, next_sigma: neighbouring levels, ``sigma < sigma'``.
      weights: weight of each coordinate, or of each state.
    """
    target = jax.lax.stop_gradient(teacher(action + sigma * noise, sigma))
    error = function(action + next_sigma * noise, next_sigma) - target
    return jnp.mean(weights * jnp.square(error))


def level_weights(sigma: Float[Array, "*any"], next_sigma: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """``100 / (sigma' - sigma)``. Without it, close levels would hardly count, because their values are close."""
    return LOSS_SCALE / (next_sigma - sigma)


def draw_levels(
    key: PRNGKeyArray, levels: Float[Array, " L"], count: int
) -> tuple[Float[Array, "{count} 1"], Float[Array, "{count} 1"]]:
    """``count`` pairs of neighbouring levels, uniform over the pairs, the smaller first."""
    index = jax.random.randint(key, (count, 1), 0, levels.shape[0] - 1)
    return levels[index], levels[index + 1]


def multistep(
    function: Consistency, noise: Float[Array, "*rows K D"], levels: Float[Array, " K"]
) -> Float[Array, "*rows D"]:
    """Song et al.'s Algorithm 1: ``f`` maps noise to an action, then noise is added and ``f`` applied again.

    Args:
      noise: one ``z`` for each step. The start is the first, times ``levels[0]``.
      levels: falling noise levels above ``epsilon``.
    """
    x = function(levels[0] * noise[..., 0, :], _at(levels[0], noise))
    for step in range(1, noise.shape[-2]):
        noisy = x + jnp.sqrt(jnp.square(levels[step]) - SIGMA_MIN**2) * noise[..., step, :]
        x = function(noisy, _at(levels[step], noise))
    return x


def _at(level: Array, noise: Array) -> Array:
    return jnp.full((*noise.shape[:-2], 1), level)


# --------------------------------------------------------------------------- the function


def consistency_function(network: Callable[[Array, Array], Array]) -> Consistency:
    """``f(x, sigma) = c_skip x + c_out F(c_in x, log(sigma) / 4)`` for a network ``F`` at fixed states."""

    def function(x: Array, sigma: Array) -> Array:
        return skip_scale(sigma) * x + output_scale(sigma) * network(input_scale(sigma) * x, 0.25 * jnp.log(sigma))

    return function
