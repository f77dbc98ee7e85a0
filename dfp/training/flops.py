"""The matrix products of an update, counted from the traced program, and the rate at which this machine makes them.

Count over rate is the floor of `dfp ops bench`, and the estimate by which a long run on a CPU is refused. A product of
``[m, k]`` and ``[k, n]`` counts ``2 m k n``. Element-wise work is not counted.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from dfp.agents.base.actor_critic import ActorCritic
from dfp.training.updates import act, batch_shape, update

UNKNOWN_COUNT = ("while", "cond")  # the program does not say how often their bodies run


def update_flop(agent: ActorCritic) -> float:
    """Matrix-multiply FLOP of one update: losses, gradients, and the samples that they draw."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return matrix_flop(lambda *arguments: update(agent, *arguments), agent.state_shape(), batch_shape(agent), key)


def act_flop(agent: ActorCritic) -> float:
    """Matrix-multiply FLOP of choosing a chunk for one state."""
    observation = jax.ShapeDtypeStruct((1, agent.observation_size), jnp.float32)
    number, key = jax.ShapeDtypeStruct((1,), jnp.int32), jax.eval_shape(lambda: jax.random.key(0))
    return matrix_flop(lambda *arguments: act(agent, *arguments), agent.state_shape(), observation, number, number, key)


def matrix_flop(function: Callable[..., Any], *arguments: Any) -> float:
    """Matrix-multiply FLOP of ``function(*arguments)``, without running it.

    Products on which no output depends are left out, as in the compiled program. Autodiff traces some, such as the
    gradient of a critic with respect to the state.

    Args:
      arguments: arrays, or their shapes and dtypes.

    Raises:
      ValueError: the program has a loop or a branch that runs an unknown number of times.
    """
    program, _ = partial_eval.dce_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr, used_outputs=True)
    return _count(program)


def _count(program: Any) -> float:
    """FLOP of a jaxpr, the body of a scan once for each of its steps."""
    total = 0.0
    for equation in program.eqns:
        name = equation.primitive.name
        if name in UNKNOWN_COUNT:
            raise ValueError(f"{name!r} runs an unknown number of times; give the loop a fixed length")
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2.0 * depth * equation.outvars[0].aval.size
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        times = equation.params.get("length", 1) if name == "scan" else 1
        total += times * sum(_count(part) for part in inner if hasattr(part, "eqns"))
    return total


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
