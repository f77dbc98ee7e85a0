"""The replay buffer on the device, and chunk sampling from it.

Rows are transitions in the order they were made, offline ones first; every observation is stored once. The next
observation of a row is the next row's observation, or, after an episode's last row, an entry of a small table.

Shapes: ``P`` physical rows, ``F`` finished episodes, ``B`` batch, ``H`` chunk length, ``S`` state, ``A`` action.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Buffer(NamedTuple):
    """A ring of transitions. Row number ``n`` (counted from the first ever stored) lies at ``n % P``."""

    observation: Array  # [P, S]
    action: Array  # [P, A]
    reward: Array  # [P]
    mask: Array  # [P] 0 where the task itself ended, else 1
    final: Array  # [P] int32: entry of `final_observation` where an episode ended for any reason, else -1
    final_observation: Array  # [F, S]


class Live(NamedTuple):
    """The rows that may be sampled: numbers ``end - size`` to ``end - 1``."""

    end: Array  # [] int32
    size: Array  # [] int32


class Batch(NamedTuple):
    """Chunks of ``H`` consecutive transitions."""

    observation: Array  # [B, S] s
    action: Array  # [B, H * A] the chunk, row-major
    valid: Array  # [B, H] 1 until the first episode end inside the chunk has passed
    return_: Array  # [B] sum_{j<H} gamma^j r_j
    discount: Array  # [B] gamma^H * min_j mask_j
    next_observation: Array  # [B, S] s' after the last step of the chunk
    # Only for an agent that `reads_next_action`, else None:
    next_action: Array | None = None  # [B, H * A] the chunk that follows it in the data
    next_valid: Array | None = None  # [B, H] 0 from the first step on that no longer belongs to its episode

    @property
    def size(self) -> int:
        return self.observation.shape[0]


class Rows(NamedTuple):
    """New transitions on the host, padded to a fixed number ``n``."""

    observation: np.ndarray  # [n, S]
    action: np.ndarray  # [n, A]
    reward: np.ndarray  # [n]
    mask: np.ndarray  # [n]
    final: np.ndarray  # [n] int32
    next_observation: np.ndarray  # [n, S]


def live_rows(end: Array | int, capacity: int) -> Live:
    """The newest ``capacity`` of ``end`` rows: once the buffer is full the oldest go."""
    end = jnp.asarray(end, jnp.int32)
    return Live(end, jnp.minimum(end, capacity))


def sample_chunks(
    buffer: Buffer, live: Live, key: Array, batch_size: int, chunk: int, discount: float, next_action: bool = False
) -> Batch:
    """``batch_size`` chunks whose first row is uniform over the live rows that have ``chunk - 1`` rows after them.

    Chunks may run over an episode's end; ``valid`` marks the steps up to it. The return is not cut there. With
    ``next_action`` the chunks after them come along: the same rows are drawn.
    """
    first = jax.random.randint(key, (batch_size, 1), 0, live.size - chunk + 1)
    first = live.end - live.size + first[:, 0]
    batch = chunks_at(buffer, first, chunk, discount)
    return with_next_action(batch, buffer, live, first + chunk, chunk) if next_action else batch


def chunks_at(buffer: Buffer, first: Array, chunk: int, discount: float) -> Batch:
    """The chunks that start at row numbers ``first`` ``[B]``."""
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


def with_next_action(batch: Batch, buffer: Buffer, live: Live, first: Array, chunk: int) -> Batch:
    """``batch`` with the actions of the rows ``first`` ``[B]`` and after, which follow its chunks.

    Nothing follows the last row of an episode, and nothing is known to follow the newest row.
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

    The ring has more places than may be sampled, so that rows stored ahead of the update that may
    first see them, and the newest row's next observation, overwrite nothing that is still live.
    """
    physical, finals = buffer.observation.shape[0], buffer.final_observation.shape[0]
    offsets = jnp.arange(rows.reward.shape[0])
    present = offsets < count
    # An index past the end is dropped: that is how rows beyond `count` are left out.
    place = jnp.where(present, (end + offsets) % physical, physical)
    after = jnp.where(present & (rows.final < 0), (end + offsets + 1) % physical, physical)
    final = jnp.where(present & (rows.final >= 0), rows.final, finals)
    return Buffer(
        # The next observation first: where the next row is among `rows`, it writes the same values again.
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
