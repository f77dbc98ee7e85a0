"""GELU and layer normalisation of an update: counted in its traced program, timed on arrays of the same shapes.

Small networks spend a third of an update on them. The matrix products alone would be too low a floor there.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from dfp.agents.base.actor_critic import ActorCritic
from dfp.training.updates import batch_shape, update

# A GELU contains one tanh of each number, a layer normalisation one reciprocal root of each row.
MARKS = {"tanh": "gelu", "rsqrt": "layer norm"}


class Pass(NamedTuple):
    """One kind of element-wise work on arrays of one shape."""

    kind: str  #: a value of MARKS
    shape: tuple[int, ...]
    learnt: bool  #: a gradient goes back through it


def pointwise_passes(agent: ActorCritic) -> dict[Pass, int]:
    """How often each pass happens in one update. Bodies of loops count as often as they run."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    program = jax.make_jaxpr(lambda *arguments: update(agent, *arguments))(agent.state_shape(), batch_shape(agent), key)
    found: collections.Counter[Pass] = collections.Counter()
    needed, _ = partial_eval.dce_jaxpr(program.jaxpr, used_outputs=True)
    _count(needed, 1, agent.network.width, found)
    return dict(found)


def _count(program: Any, times: int, width: int, found: collections.Counter[Pass]) -> None:
    uses = collections.Counter(id(value) for equation in program.eqns for value in equation.invars)
    for equation in program.eqns:
        name, (result, *_) = equation.primitive.name, equation.outvars or [None]
        if name in MARKS and result is not None:
            shape = result.aval.shape if name == "tanh" else (*result.aval.shape[:-1], width)
            # Going forward reads the value once; a gradient reads it again.
            found[Pass(MARKS[name], shape, uses[id(result)] > 1)] += times
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        repeats = times * (equation.params.get("length", 1) if name == "scan" else 1)
        for part in inner:
            if hasattr(part, "eqns"):
                _count(part, repeats, width, found)


def pointwise_work(passes: dict[Pass, int]) -> Callable[[int], None]:
    """A function that makes all passes of ``count`` updates, on arrays of their shapes."""
    arrays = {one: jax.random.normal(jax.random.key(0), one.shape) for one in passes}

    @jax.jit
    def run(arrays: dict[Pass, jax.Array], count: jax.Array) -> dict[Pass, Any]:
        def again(_: Any, results: dict[Pass, Any]) -> dict[Pass, Any]:
            return {one: _repeated(one, times, arrays[one], results[one]) for one, times in passes.items()}

        return jax.lax.fori_loop(0, count, again, {one: _zeros(one) for one in passes})

    return lambda count: jax.block_until_ready(run(arrays, count))


def _zeros(one: Pass) -> tuple[jax.Array, ...]:
    return (jnp.zeros(one.shape),) * (2 if one.learnt else 1)


def _repeated(one: Pass, times: int, x: jax.Array, results: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    def step(_: Any, before: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        # Each pass depends on the one before, or the compiler would make it once.
        moved = x + 1e-9 * before[0].ravel()[0]
        if not one.learnt:
            return (_apply(one, moved),)
        value, backward = jax.vjp(lambda x: _apply(one, x), moved)
        value, backward = jax.lax.optimization_barrier((value, backward))
        return value, *backward(x)

    return jax.lax.fori_loop(0, times, step, results)


def _apply(one: Pass, x: jax.Array) -> jax.Array:
    if one.kind == "gelu":
        return nn.gelu(x)
    parameters = {"params": {"scale": jnp.ones(x.shape[-1]), "bias": jnp.zeros(x.shape[-1])}}
    return nn.LayerNorm().apply(parameters, x)  # pyright: ignore[reportReturnType]
