"""The replay buffer on the device, and chunk sampling from it.

Rows are transitions in the order in which they were made, offline ones first. Each observation is stored once. The next
observation of a row is the observation of the next row. For the last row of an episode it is in a table of its own.

Shapes: ``P`` places for rows, ``F`` places for final observations, ``B`` batch, ``H`` chunk length, ``S`` state,
``A`` action.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from dfp.agents.base.batch import Batch
from dfp.runs.online_rows import OnlineRows
from dfp.tasks import Dataset


class Buffer(NamedTuple):
    """A ring of transitions. Row number ``n`` (counted from the first row ever stored) is at ``n % P``."""

    observation: Float[Array, "P S"]
    action: Float[Array, "P A"]
    reward: Float[Array, " P"]
    mask: Float[Array, " P"]  #: 0 if the task itself ended, else 1
    final: Int[Array, " P"]  #: int32: entry of ``final_observation`` if an episode ended for any reason, else -1
    final_observation: Float[Array, "F S"]


class Live(NamedTuple):
    """The rows that may be sampled: numbers ``end - size`` to ``end - 1``."""

    end: Int[Array, ""]
    size: Int[Array, ""]


class Rows(NamedTuple):
    """New transitions on the host, padded to a fixed number ``n``."""

    observation: np.ndarray  #: [n, S]
    action: np.ndarray  #: [n, A]
    reward: np.ndarray  #: [n]
    mask: np.ndarray  #: [n]
    final: np.ndarray  #: [n] int32
    next_observation: np.ndarray  #: [n, S]


def live_rows(end: Array | int, capacity: int) -> Live:
    """The newest ``capacity`` of ``end`` rows. When the buffer is full, the oldest rows are no longer sampled."""
    end = jnp.asarray(end, jnp.int32)
    return Live(end, jnp.minimum(end, capacity))


def sample_chunks(
    buffer: Buffer, live: Live, key: Array, batch_size: int, chunk: int, discount: float, next_action: bool = False
) -> Batch:
    """``batch_size`` chunks whose first row is uniform over the live rows that have ``chunk - 1`` rows after them.

    Chunks may run over an episode's end. ``valid`` marks the steps up to it, and the return is not cut there. With
    ``next_action`` the batch also has the chunks that follow; the same rows are drawn.
    """
    first = jax.random.randint(key, (batch_size, 1), 0, live.size - chunk + 1)
    first = live.end - live.size + first[:, 0]
    batch = chunks_at(buffer, first, chunk, discount)
    return with_next_action(batch, buffer, live, first + chunk, chunk) if next_action else batch


def chunks_at(buffer: Buffer, first: Int[Array, " B"], chunk: int, discount: float) -> Batch:
    """The chunks of ``chunk`` steps that start at row numbers ``first``."""
    physical = buffer.observation.shape[0]
    rows = (first[:, None] + jnp.arange(chunk)[None]) % physical
    ended = buffer.final[rows] >= 0
    ended_before = jnp.cumsum(ended, axis=1) - ended
    last = rows[:, -1]
    final = buffer.final[last]
    next_observation = jnp.where(
        (final >= 0)[:, None],
        buffer.final_observation[jnp.maximum(final, 0)],
        buffer.observation[(last + 1) % physical],
    )
    return Batch(
        observation=buffer.observation[rows[:, 0]],
        action=buffer.action[rows].reshape(first.shape[0], -1),
        valid=(ended_before == 0).astype(jnp.float32),
        return_=buffer.reward[rows] @ (discount ** jnp.arange(chunk)),
        discount=discount**chunk * jnp.min(buffer.mask[rows], axis=1),
        next_observation=next_observation,
    )


def with_next_action(batch: Batch, buffer: Buffer, live: Live, first: Int[Array, " B"], chunk: int) -> Batch:
    """``batch`` with the chunks that follow: the actions of the rows from ``first`` on.

    ``next_valid`` is 0 after the last row of an episode and after the newest row.
    """
    physical = buffer.observation.shape[0]
    rows = first[:, None] + jnp.arange(chunk)[None]
    ended = jnp.cumsum(buffer.final[(rows - 1) % physical] >= 0, axis=1) > 0
    return batch._replace(
        next_action=buffer.action[rows % physical].reshape(first.shape[0], -1),
        next_valid=(~ended & (rows < live.end)).astype(jnp.float32),
    )


def append(buffer: Buffer, rows: Rows, end: Array, count: Array) -> Buffer:
    """Store the first ``count`` of ``rows`` as row numbers ``end``, ``end + 1``, ...

    The ring has more places than rows that may be sampled. Rows stored ahead of their updates, and the next observation
    of the newest row, therefore overwrite no live row.
    """
    physical, finals = buffer.observation.shape[0], buffer.final_observation.shape[0]
    offsets = jnp.arange(rows.reward.shape[0])
    present = offsets < count
    # JAX drops a write at an index past the end, so rows beyond `count` are not written.
    place = jnp.where(present, (end + offsets) % physical, physical)
    after = jnp.where(present & (rows.final < 0), (end + offsets + 1) % physical, physical)
    final = jnp.where(present & (rows.final >= 0), rows.final, finals)
    return Buffer(
        # The next observation first: if the next row is among `rows`, it writes the same values again.
        observation=buffer.observation.at[after]
        .set(rows.next_observation, mode="drop")
        .at[place]
        .set(rows.observation, mode="drop"),
        action=buffer.action.at[place].set(rows.action, mode="drop"),
        reward=buffer.reward.at[place].set(rows.reward, mode="drop"),
        mask=buffer.mask.at[place].set(rows.mask, mode="drop"),
        final=buffer.final.at[place].set(rows.final, mode="drop"),
        final_observation=buffer.final_observation.at[final].set(rows.next_observation, mode="drop"),
    )


# --------------------------------------------------------------------------- the ring on the device


def make_buffer(dataset: Dataset, physical: int, online: OnlineRows | None = None) -> Buffer:
    """Put the offline rows, then the online ones of an earlier attempt, into a ring of ``physical`` places.

    The fields are copied one by one, so that at most one of them is in memory twice.
    """
    finals = dataset.final_observations
    stored = {} if online is None else online.read()
    if online is not None:
        stored["final"] = np.where(stored["final"] >= 0, stored["final"] + len(finals), -1).astype(np.int32)
        spare = np.zeros((_spare_finals(len(finals) + online.episodes), finals.shape[1]), np.float32)
        finals = np.concatenate([finals, stored["final_observation"], spare])
    ended = np.where(dataset.terminals, np.cumsum(dataset.terminals, dtype=np.int32) - 1, -1).astype(np.int32)
    return Buffer(
        observation=_ring(dataset.observations, stored.get("observation"), physical),
        action=_ring(dataset.actions, stored.get("action"), physical),
        reward=_ring(dataset.rewards, stored.get("reward"), physical),
        mask=_ring(dataset.masks, stored.get("mask"), physical),
        final=_ring(ended, stored.get("final"), physical),
        final_observation=jnp.asarray(finals),
    )


def grow_finals(buffer: Buffer) -> Buffer:
    """Double the room for final observations."""
    finals = buffer.final_observation
    return buffer._replace(final_observation=jnp.concatenate([finals, jnp.zeros_like(finals)]))


def _ring(offline: np.ndarray, online: np.ndarray | None, physical: int) -> Array:
    """Rows in the order in which they were made, each at its number modulo ``physical``; newer rows replace older."""
    if len(offline) == physical and online is None:
        return jnp.asarray(offline)
    ring = np.zeros((physical, *offline.shape[1:]), offline.dtype)
    ring[: len(offline)] = offline
    if online is not None:
        newest = online[-physical:]
        first = len(offline) + len(online) - len(newest)
        ring[(first + np.arange(len(newest))) % physical] = newest
    return jnp.asarray(ring)


def _spare_finals(used: int) -> int:
    """Room for more finished episodes than most runs need, because growing means compiling again."""
    return max(1 << 15, 1 << used.bit_length()) - used
