"""The matrix-multiply work that an update needs, counted from the shapes, and the machine's own rate for it.

This is the floor that `bench` compares with, and how a run is refused that a CPU would take days for. A product of
``[m, k]`` and ``[k, n]`` counts ``2 m k n``. Element-wise work is not counted: it is what the ratio to the floor shows.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dfp.spec import NetworkSpec


class MLPWork(NamedTuple):
    """Work of one row through an MLP, in FLOP."""

    first: float  # the first layer
    rest: float  # all other layers

    @property
    def forward(self) -> float:
        return self.first + self.rest

    @property
    def forward_and_backward(self) -> float:
        """Forward, gradients of the weights, and of the activations (not of the inputs)."""
        return 2.0 * self.first + 3.0 * self.rest


def mlp_work(inputs: int, outputs: int, network: NetworkSpec) -> MLPWork:
    """An MLP of ``depth`` hidden layers of ``width``."""
    hidden = (network.depth - 1) * network.width**2
    return MLPWork(2.0 * inputs * network.width, 2.0 * (hidden + network.width * outputs))


def gemm_rate(size: int = 2048, repeats: int = 5) -> float:
    """FLOP per second of a large float32 product on the default device, the best of ``repeats``."""
    matrix = jnp.ones((size, size))
    product = jax.jit(lambda a: a @ a)
    product(matrix).block_until_ready()
    fastest = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        product(matrix).block_until_ready()
        fastest = min(fastest, time.perf_counter() - started)
    return 2.0 * size**3 / fastest
