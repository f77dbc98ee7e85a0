"""What both files of tests share: agents of a size that NumPy loops can follow, their rows, and their random numbers.

One update of an agent takes one key. The functions below say which numbers come of it, and that no two of them come of
the same key.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from paper import reference
from support.small_agents import make

from dfp.agents import bfn, dfp, fql, mvp
from dfp.agents.base.actor_critic import TopKConfig
from dfp.agents.base.batch import Batch
from dfp.spec import NetworkSpec, TrainingSpec

S, A, B, E = 2, 1, 4, 2
GAMMA, RATE, POLYAK, EMA = 0.9, 1e-2, 0.05, 0.1
G, N, K, BEST_OF, LAMBDA = 3, 5, 2, 3, 0.5

TOP_K = TopKConfig(weight=LAMBDA, candidates=N, positives=K, ema_rate=EMA)
NETWORK = NetworkSpec(width=4, depth=1, ensemble_size=E)
TRAINING = TrainingSpec(batch_size=B, discount=GAMMA, learning_rate=RATE, target_update_rate=POLYAK, offline_steps=10)
# Narrow enough and wide enough that every pair of a sample and a target has some weight.
BANDWIDTHS = (0.4, 1.5)


def agent(module, chunk: int = 2, **settings):
    """An agent of ``D = chunk`` coordinates."""
    return dataclasses.replace(
        make(module, chunk=chunk, **settings), network=NETWORK, training=TRAINING, observation_size=S, action_size=A
    )


def drifting(**settings):
    return agent(dfp, **{"samples": G, "best_of": BEST_OF, "bandwidths": BANDWIDTHS, "top_k": TOP_K} | settings)


def mean_velocity(**settings):
    return agent(mvp, **{"best_of": BEST_OF, "top_k": None} | settings)


def best_of_flow(chunk: int = 2):
    return agent(bfn, chunk, best_of=BEST_OF)


def flow_q(chunk: int = 2):
    return agent(fql, chunk, alpha=3.0)


# --------------------------------------------------------------------------- parameters and rows


def initial(agent, seed: int = 0):
    """A state in double precision, before the first update, whose sets of parameters all differ."""
    stream = np.random.default_rng(seed)
    shapes = jax.eval_shape(agent.init, jax.random.key(0))
    drawn = jax.tree.map(lambda leaf: jnp.asarray(stream.normal(0.0, 0.5, leaf.shape)), shapes)
    return drawn._replace(optimiser=agent.optimiser.init({"actor": drawn.actor, "critic": drawn.critic}))


def tree(params: Any) -> Any:
    """Parameters as nested dicts of NumPy arrays."""
    return jax.tree.map(np.asarray, params)


def episodes() -> list[reference.Row]:
    """Ten rows: an episode of four that ends in success, one of three that is cut off, and another one of three."""
    stream = np.random.default_rng(3)
    places = stream.normal(size=(10, S))
    rows = []
    for number in range(10):
        ended = number in (3, 6, 9)
        after = stream.normal(size=S) if ended else places[number + 1]
        action, reward = stream.uniform(-1.0, 1.0, A), float(stream.normal())
        rows.append(reference.Row(places[number], action, reward, number == 3, ended, after))
    return rows


def to_batch(chunks: reference.Chunks) -> Batch:
    return Batch(*map(jnp.asarray, chunks))


def chunks(size: int = 2) -> reference.Chunks:
    """A batch of four: a plain chunk, one that ends in success, one across an episode's end, one after a cut-off."""
    return reference.cut(episodes(), [0, 3, 6, 5] if size > 1 else [0, 3, 6, 8], size, GAMMA)


# --------------------------------------------------------------------------- random numbers


class Draws(NamedTuple):
    """What an update of an agent is made from besides its batch: standard normals, and uniform numbers for a flow."""

    next_action: np.ndarray  # [B, N', D] candidates of the TD target
    actor: tuple[np.ndarray, ...]  # of the loss on the data
    candidates: np.ndarray | None = None  # [B, N, D] of pi_old
    positives: tuple[np.ndarray, ...] = ()  # of the loss on the top K, if it has its own


def normal(key, *shape: int) -> np.ndarray:
    return np.asarray(jax.random.normal(key, shape))


def per_state(key, count: int, size: int) -> np.ndarray:
    """``[B, count, D]``: every state has a key of its own."""
    return np.stack([normal(row, count, size) for row in jax.random.split(key, B)])


def dfp_draws(key, chunk: int = 2) -> Draws:
    critic, actor = jax.random.split(key)
    samples, candidates = jax.random.split(actor)
    size = chunk * A
    noise = normal(samples, B * G, size).reshape(B, G, size)
    return Draws(per_state(critic, BEST_OF, size), (noise,), per_state(candidates, N, size))


def mvp_draws(key, chunk: int = 2) -> Draws:
    critic, actor = jax.random.split(key)
    data, candidates, positives = jax.random.split(actor, 3)
    size = chunk * A

    def noise_and_times(key, count: int) -> tuple[np.ndarray, ...]:
        noise, times = jax.random.split(key)
        return normal(noise, count, size), normal(times, 2, count, 1)

    return Draws(
        per_state(critic, BEST_OF, size), noise_and_times(data, B), per_state(candidates, N, size),
        noise_and_times(positives, B * K),
    )  # fmt: skip


def flow_start(key, size: int) -> tuple[np.ndarray, np.ndarray]:
    noise, time = jax.random.split(key)
    return normal(noise, B, size), np.asarray(jax.random.uniform(time, (B, 1)))


def bfn_draws(key, chunk: int = 2) -> Draws:
    critic, actor = jax.random.split(key)
    return Draws(per_state(critic, BEST_OF, chunk * A), flow_start(actor, chunk * A))


def fql_draws(key, chunk: int = 2) -> Draws:
    critic, actor = jax.random.split(key)
    flow, student = jax.random.split(actor)
    size = chunk * A
    return Draws(per_state(critic, 1, size), (*flow_start(flow, size), normal(student, B, size)))


# --------------------------------------------------------------------------- comparing


def close(found: Any, expected: Any, rtol: float = 1e-6, atol: float = 1e-9) -> None:
    """Two trees of numbers, to a millionth."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), tree(found), expected)
