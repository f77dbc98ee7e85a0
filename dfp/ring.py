"""The ring of rows on the device, made of the dataset and of an earlier attempt's online rows."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from dfp.online_rows import OnlineRows
from dfp.replay import Buffer
from dfp.tasks import Dataset


def make_buffer(dataset: Dataset, physical: int, online: OnlineRows | None = None) -> Buffer:
    """Put the offline rows, then the online ones of an earlier attempt, into a ring of ``physical`` places.

    Field by field, so that no more than one of them is in memory twice.
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
    """Twice the room for finished episodes."""
    finals = buffer.final_observation
    return buffer._replace(final_observation=jnp.concatenate([finals, jnp.zeros_like(finals)]))


def _ring(offline: np.ndarray, online: np.ndarray | None, physical: int) -> Array:
    """Rows in the order they were made, each at its number modulo ``physical``; of a place's rows the newest stays."""
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
    """Room for more finished episodes: growing means compiling again, so there is more than most runs need."""
    return max(1 << 15, 1 << used.bit_length()) - used
