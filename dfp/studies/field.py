"""The drifting field on a toy: one state, two action coordinates, data with two modes, a critic that is known.

A small network is trained as DFP is: first ``L_BC`` (Eq. 18), then ``L_BC + lambda L_topK`` (Eq. 16), with the field of
Eq. 3 as written (``mean_shift``), which has a value at every point, so that what is drawn is what trains.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jax import Array

from dfp.agents.base.actor_critic import Params, TopKConfig, polyak
from dfp.agents.models.networks import MLP
from dfp.drift import drift_loss, drifting_field, mean_shift

MODES = np.array([[-0.6, -0.2], [0.6, 0.2]])
MODE_STD = 0.1
BEST = MODES[1]  # Q(a) = -|a - BEST|^2: the right mode is worth more
BANDWIDTH = 0.2
SAMPLES = 128  # generated, and positives, per update
TOP_K = TopKConfig(candidates=128, positives=32, ema_rate=1e-3)  # K / N as in Table 5
STAGES = (("before training", 0), ("during L_BC", 60), ("after L_BC", 1500), ("after L_BC + λ L_topK", 3000))
SWITCH = 1500  # the update at which the top-K term comes in
LEARNING_RATE = 1e-3
SHOWN = 256  # samples and positives in the figure
GRID = 17  # arrows per side

NETWORK = MLP(width=64, depth=2, outputs=2)
OPTIMISER = optax.adam(LEARNING_RATE)


class Learner(NamedTuple):
    """What an update changes."""

    actor: Params
    anchor: Params  #: pi_old
    optimiser: optax.OptState


def q_value(action: Array) -> Array:
    """The known critic, ``[..., 2] -> [...]``."""
    return -((action[..., 0] - BEST[0]) ** 2 + (action[..., 1] - BEST[1]) ** 2)


def data(key: Array, count: int) -> Array:
    """Actions of the data: either mode, with a normal error, ``[count, 2]``."""
    mode_key, error_key = jax.random.split(key)
    modes = jnp.asarray(MODES)[jax.random.bernoulli(mode_key, 0.5, (count,)).astype(int)]
    return modes + MODE_STD * jax.random.normal(error_key, (count, 2))


def generate(actor: Params, key: Array, count: int) -> Array:
    """Eq. 9 without a state: ``count`` actions, ``[count, 2]``."""
    return NETWORK.apply(actor, jax.random.normal(key, (count, 2)))  # pyright: ignore[reportReturnType]


def favourites(anchor: Params, key: Array, count: int, top_k: TopKConfig = TOP_K) -> Array:
    """Eq. 15: the best K / N of ``count`` candidates of pi_old, ``[count K / N, 2]``."""
    candidates = generate(anchor, key, count)
    chosen = jax.lax.top_k(q_value(candidates), count * top_k.positives // top_k.candidates)[1]
    return candidates[chosen]


def update(learner: Learner, key: Array, improving: Array) -> Learner:
    """One Adam step on ``L_BC``, and if ``improving`` on ``lambda L_topK``. Then pi_old follows pi; else it is pi."""
    data_key, sample_key, candidate_key = jax.random.split(key, 3)
    imitated, improved = data(data_key, SAMPLES), favourites(learner.anchor, candidate_key, TOP_K.candidates)

    def loss_towards(samples: Array, positives: Array) -> Array:
        field = drifting_field(samples[None], positives[None], bandwidths=(BANDWIDTH,), normalisation="mean_shift")
        return drift_loss(samples[None], field)

    def loss(actor: Params) -> Array:
        samples = generate(actor, sample_key, SAMPLES)
        weight = jnp.where(improving, TOP_K.weight, 0.0)
        return loss_towards(samples, imitated) + weight * loss_towards(samples, improved)

    changes, optimiser = OPTIMISER.update(jax.grad(loss)(learner.actor), learner.optimiser)
    actor: Params = optax.apply_updates(learner.actor, changes)
    followed = polyak(actor, learner.anchor, TOP_K.ema_rate)
    anchor = jax.tree.map(lambda new, old: jnp.where(improving, new, old), followed, actor)
    return Learner(actor, anchor, optimiser)


@jax.jit
def train(learner: Learner, key: Array, first: Array, last: Array) -> Learner:
    """Updates number ``first`` to ``last - 1``."""

    def one(step: Array, learner: Learner) -> Learner:
        return update(learner, jax.random.fold_in(key, step), step >= SWITCH)

    return jax.lax.fori_loop(first, last, one, learner)


def field_rows(seed: int = 0) -> pd.DataFrame:
    """What the figure draws. A row is a positive, a sample or an arrow of a stage.

    Columns: ``stage, step, kind`` (``data``, ``top-K``, ``sample``, ``arrow``), ``x, y``, of an arrow ``dx, dy``, of a
    sample ``q``.
    """
    init_key, train_key, show_key = jax.random.split(jax.random.key(seed), 3)
    actor = NETWORK.init(init_key, jnp.zeros((1, 2)))
    learner, step = Learner(actor, actor, OPTIMISER.init(actor)), 0
    frames = []
    for stage, last in STAGES:
        learner, step = train(learner, train_key, jnp.int32(step), jnp.int32(last)), last
        frames += [frame.assign(stage=stage, step=step) for frame in _shown(learner, show_key, step > SWITCH)]
    columns = ["stage", "step", "kind", "x", "y", "dx", "dy", "q"]
    return pd.concat(frames, ignore_index=True).reindex(columns=columns)


def _shown(learner: Learner, key: Array, improving: bool) -> Iterator[pd.DataFrame]:
    data_key, sample_key, candidate_key = jax.random.split(key, 3)
    imitated, samples = data(data_key, SHOWN), generate(learner.actor, sample_key, SHOWN)
    improved = favourites(learner.anchor, candidate_key, SHOWN)
    axis = jnp.linspace(-1.0, 1.0, GRID)
    grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)

    def field(positives: Array) -> Array:
        return (mean_shift(grid[None], positives[None], BANDWIDTH) - mean_shift(grid[None], samples[None], BANDWIDTH))[
            0
        ]

    arrows = field(imitated) + (TOP_K.weight * field(improved) if improving else 0.0)
    yield _points("data", imitated)
    if improving:
        yield _points("top-K", improved)
    yield _points("sample", samples).assign(q=np.asarray(q_value(samples)))
    yield _points("arrow", grid).assign(dx=np.asarray(arrows[:, 0]), dy=np.asarray(arrows[:, 1]))


def _points(kind: str, points: Array) -> pd.DataFrame:
    return pd.DataFrame({"kind": kind, "x": np.asarray(points[:, 0]), "y": np.asarray(points[:, 1])})
