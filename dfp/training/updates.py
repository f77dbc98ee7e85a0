"""The programs that run on the device: many updates in one dispatch, and the choice of a chunk.

An update depends only on the state, its rows and its number. A loop of dynamic length makes any number of updates with
one compiled program. How many updates share a dispatch depends on the clock and does not change a result.
"""

from __future__ import annotations

import functools
import operator
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key

from dfp.agents.base.actor_critic import ActorCritic, AgentState, Metrics
from dfp.agents.base.batch import Batch
from dfp.training import replay
from dfp.training.replay import Buffer, Live, Rows


def stream(seed: int, name: str) -> Array:
    """The random stream of a name, such as ``data``. ``docs/reproducibility.md`` lists them."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


# A named function, so that callers that need its shapes and callers that run it share one trace.
@functools.partial(jax.jit, static_argnums=0)
def update(agent: ActorCritic, state: AgentState, batch: Batch, key: Array) -> tuple[AgentState, Metrics]:
    """See :meth:`ActorCritic.update`."""
    return agent.update(state, batch, key)


class Diagnostics(NamedTuple):
    """Sums of the logged terms since the last record, and the first update at which each was not finite."""

    count: Array  #: [] int32 updates
    total: Metrics
    first_bad: Metrics  #: int32 number of the first update at which the term was not finite; -1: none

    def add(self, metrics: Metrics, step: Array) -> Diagnostics:
        """Add the terms of update number ``step``."""
        total = jax.tree.map(jnp.add, self.total, metrics)
        first_bad = jax.tree.map(
            lambda seen, value: jnp.where((seen < 0) & ~jnp.isfinite(value), step, seen), self.first_bad, metrics
        )
        return Diagnostics(self.count + 1, total, first_bad)


@functools.partial(jax.jit, static_argnums=0)
def no_diagnostics(agent: ActorCritic, state: AgentState) -> Diagnostics:
    """The diagnostics before the first update."""
    _, terms = jax.eval_shape(functools.partial(update, agent), state, batch_shape(agent), jax.random.key(0))
    zero = {name: jnp.zeros(()) for name in terms}
    return Diagnostics(jnp.int32(0), zero, {name: jnp.int32(-1) for name in terms})


def batch_shape(agent: ActorCritic) -> Batch:
    """Shapes of the batch of an update, without values."""
    size = agent.training.batch_size

    def shaped(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *shape), jnp.float32)

    observation, scalar = shaped(agent.observation_size), shaped()
    action, valid = shaped(agent.chunk_size), shaped(agent.chunk)
    following = (action, valid) if agent.reads_next_action else ()
    return Batch(observation, action, valid, scalar, scalar, observation, *following)  # pyright: ignore


def draw_batch(agent: ActorCritic, buffer: Buffer, live: Live, key: Array) -> Batch:
    """The batch of one update of the agent."""
    training = agent.training
    return replay.sample_chunks(
        buffer, live, key, training.batch_size, agent.chunk, training.discount, agent.reads_next_action
    )


def update_loop(
    agent: ActorCritic, state: AgentState, diagnostics: Diagnostics, draw: Callable[[Array, Array], Batch],
    key: Array, first: Array, count: Array,
) -> tuple[AgentState, Diagnostics]:  # fmt: skip
    """Updates ``first`` to ``first + count - 1``. Each depends only on the state, ``draw`` and its number."""

    def one(step: Array, carry: tuple[AgentState, Diagnostics]) -> tuple[AgentState, Diagnostics]:
        state, diagnostics = carry
        data_key, update_key = jax.random.split(jax.random.fold_in(key, step))
        state, metrics = update(agent, state, draw(step, data_key), update_key)
        return state, diagnostics.add(metrics, step)

    return jax.lax.fori_loop(first, first + count, one, (state, diagnostics))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def offline_updates(
    agent: ActorCritic, state: AgentState, diagnostics: Diagnostics, buffer: Buffer, key: Array, first: Array,
    count: Array,
) -> tuple[AgentState, Diagnostics]:  # fmt: skip
    """Gradient steps on chunks of a fixed dataset, whose rows fill the buffer."""
    rows = buffer.reward.shape[0]
    live = replay.live_rows(rows, rows)

    def draw(_: Array, key: Array) -> Batch:
        return draw_batch(agent, buffer, live, key)

    return update_loop(agent, state, diagnostics, draw, key, first, count)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def offline_updates_of_seeds(
    agent: ActorCritic, seeds: list[tuple[AgentState, Diagnostics]], buffer: Buffer, keys: list[Array], first: Array,
    count: Array,
) -> list[tuple[AgentState, Diagnostics]]:  # fmt: skip
    """:func:`offline_updates` of several seeds on one dataset, in lockstep. Equal to them within rounding."""

    def updates(seed: tuple[AgentState, Diagnostics], key: Array) -> tuple[AgentState, Diagnostics]:
        return offline_updates(agent, *seed, buffer, key, first, count)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    updated = jax.vmap(updates)(stacked, jnp.stack(keys))
    return [jax.tree.map(operator.itemgetter(number), updated) for number in range(len(seeds))]


class Span(NamedTuple):
    """The place of new rows in a run."""

    end: Array | int  #: rows stored before them
    count: Array | int  #: number of new rows
    first: Array | int  #: number of the update of the first new row
    skip: Array | int  #: new rows, from the first on, without an update (warm-up)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3, 4))
def online_updates(
    agent: ActorCritic, capacity: int, state: AgentState, diagnostics: Diagnostics, buffer: Buffer, key: Array,
    rows: Rows, span: Span,
) -> tuple[AgentState, Diagnostics, Buffer]:  # fmt: skip
    """Store new rows and make one update for each, which draws only from the rows that existed at its step.

    The result is that of a serial loop, however many steps share a dispatch.

    Args:
      capacity: rows that may be sampled, at most.
      rows: padded to a fixed number; the first ``span.count`` are stored.
    """
    end, count, first, skip = (jnp.asarray(number, jnp.int32) for number in span)
    buffer = replay.append(buffer, rows, end, count)

    def draw(step: Array, key: Array) -> Batch:
        live = replay.live_rows(end + 1 + step - first, capacity)
        return draw_batch(agent, buffer, live, key)

    updates = jnp.maximum(count - skip, 0)
    state, diagnostics = update_loop(agent, state, diagnostics, draw, key, first + skip, updates)
    return state, diagnostics, buffer


@functools.partial(jax.jit, static_argnums=0)
def act(
    agent: ActorCritic,
    state: AgentState,
    observation: Float[Array, "n S"],
    episode: Int[Array, " n"],
    chunk: Int[Array, " n"],
    key: Key[Array, ""],
) -> Float[Array, "n H A"]:
    """Chunks for ``n`` states. The draw of a row depends on its episode and chunk numbers."""
    keys = jax.vmap(lambda e, c: jax.random.fold_in(jax.random.fold_in(key, e), c))(episode, chunk)
    actions = agent.sample_actions(state, observation, keys)
    return actions.reshape(-1, agent.chunk, agent.action_size)


@jax.jit
def parameters_are_finite(state: AgentState) -> Array:
    """Whether all parameters of the actor and the critics are finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((state.actor, state.critic))]))
