"""It learns: every method on a problem whose answer is known, and the failures that a mistake must have.

One state, two coordinates, data N(0, 0.3^2) in each, and a critic that is known and does not learn: the mean of the two
coordinates. Training is :meth:`update` itself. What an actor should reach has a closed form:

* The mean of P_K (Eq. 15) lies above pi_old's by the mean of its K largest of N order statistics. If L_topK outweighs
  L_BC, the policy moves by this margin. A critic with the wrong sign moves it as far down, K = N does not move it.
* Best of N' executes the largest of N' samples of the policy.
* FQL's student stops where alpha times the slope of the distillation is the slope of Q: 1 / (2 alpha) above the flow.

The bounds are on the average of four seeds. Its standard deviation is half of the one beside the bound, which was
measured over 50 seeds. Every bound is more than four of these halves from the mean. For a normal distribution, less
than one run in 10,000 is outside. Measure them again with::

    python tests/paper/test_learning.py 50
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom, norm
from support.small_agents import make

from dfp.agents import bfn, dfp, fql, mvp
from dfp.agents.base.actor_critic import TopKConfig
from dfp.agents.base.batch import Batch
from dfp.spec import NetworkSpec, TrainingSpec

B, D, STD = 16, 2, 0.3
CLONING, IMPROVEMENT, MVP_STEPS, SAMPLES = 400, 400, 1000, 2000
N, K, OUTWEIGHS = 16, 4, 20.0
BEST_OF, ALPHA = 16, 2.0
NETWORK = NetworkSpec(width=32, depth=1, ensemble_size=1)
TRAINING = TrainingSpec(batch_size=B, discount=0.9, learning_rate=3e-3, target_update_rate=0.01, offline_steps=1)


def known(module, **settings):
    """An agent whose critic is the mean of the coordinates times a number, the critic's only parameter."""
    base = make(module, chunk=D, **settings)

    class Known(type(base)):
        def init_critic(self, key):
            return jnp.ones(())

        def values(self, critic, observation, action):
            return (critic * jnp.mean(action, axis=-1))[None]

        def critic_loss(self, critic, state, batch, key):
            return 0.0 * critic, {}

    return Known(network=NETWORK, training=TRAINING, observation_size=1, action_size=1, config=base.config)


def top_k(weight: float, positives: int) -> TopKConfig:
    """pi_old does not follow the policy here, so that Eq. 15 predicts one margin."""
    return TopKConfig(weight=weight, candidates=N, positives=positives, ema_rate=1e-9)


drifting = functools.partial(known, dfp, bandwidths=(0.2,), best_of=BEST_OF)
CLONES = drifting(top_k=top_k(0.0, K))  # lambda = 0


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, None))
def train(agent, state: Any, key: Any, steps: int) -> Any:
    """Updates, each on fresh data, for many seeds at once."""

    def one(index, state):
        data_key, update_key = jax.random.split(jax.random.fold_in(key, index))
        one_state, none = jnp.zeros((B, 1)), jnp.zeros(B)
        action = STD * jax.random.normal(data_key, (B, D))
        return agent.update(state, Batch(one_state, action, jnp.ones((B, D)), none, none, one_state), update_key)[0]

    return jax.lax.fori_loop(0, steps, one, state)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0))
def values(agent, state: Any, key: Any) -> Any:
    """Q of samples of the policy, by the right critic: ``[SAMPLES]``."""
    noise = jax.random.normal(key, (SAMPLES, D))
    return jnp.clip(agent.generate(state.actor, jnp.zeros((SAMPLES, 1)), noise), -1.0, 1.0).mean(axis=1)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0))
def executed(agent, state: Any, key: Any) -> Any:
    """Q of what the policy executes: ``[SAMPLES / 4]``."""
    count = SAMPLES // 4
    return agent.sample_actions(state, jnp.zeros((count, 1)), jax.random.split(key, count)).mean(axis=1)


# --------------------------------------------------------------------------- closed forms


def margin(q: np.ndarray, candidates: int, positives: int) -> float:
    """How far the mean of the best K of N draws lies above the mean of all, from a large sample.

    A draw at quantile ``u`` is among the best K if fewer than K of the other N - 1 are above it.
    """
    quantiles = (np.arange(len(q)) + 0.5) / len(q)
    chosen = binom.cdf(positives - 1, candidates - 1, 1.0 - quantiles)
    return float((chosen * np.sort(q)).sum() / chosen.sum() - q.mean())


def test_margin_of_a_normal_distribution():
    q = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    # Means of the largest of 2, 3 and 4 standard normals; the best 2 of 4; all of 4.
    literal = {(2, 1): 0.56419, (3, 1): 0.84628, (4, 1): 1.02938, (4, 2): (1.02938 + 0.29701) / 2, (4, 4): 0.0}
    for (candidates, positives), expected in literal.items():
        assert margin(q, candidates, positives) == pytest.approx(expected, abs=1e-3)


# --------------------------------------------------------------------------- what the methods reach


class Seeds:
    """What the methods reach, for many seeds at once: ``[seeds]`` or ``[seeds, samples]`` each."""

    def __init__(self, seeds: int) -> None:
        self.keys = jax.vmap(jax.random.key)(jnp.arange(seeds))

    def key(self, number: int) -> Any:
        return jax.vmap(lambda key: jax.random.fold_in(key, number))(self.keys)

    def values(self, agent, state: Any) -> np.ndarray:
        return np.asarray(values(agent, state, self.key(2)))

    def executed(self, agent, state: Any) -> np.ndarray:
        return np.asarray(executed(agent, state, self.key(3)))

    def pretrained(self, agent, steps: int = CLONING, sign: float = 1.0) -> Any:
        """After ``steps`` updates from the start; ``sign``: of the critic."""
        start = jax.vmap(agent.init)(self.key(0))
        return train(agent, start._replace(critic=sign * start.critic), self.key(1), steps)

    def improved(self, agent, state: Any, sign: float = 1.0) -> np.ndarray:
        """Values after the online phase."""
        state = agent.start_improving(state._replace(critic=sign * jnp.ones_like(state.critic)))
        return self.values(agent, train(agent, state, self.key(4), IMPROVEMENT))

    # -- quantities

    @functools.cached_property
    def cloned(self) -> tuple[Any, np.ndarray]:
        state = self.pretrained(CLONES)
        return state, self.values(CLONES, state)

    def margins(self, positives: int = K) -> np.ndarray:
        """What Eq. 15 predicts for the cloned policy."""
        return np.array([margin(q, N, positives) for q in self.cloned[1]])

    def cloning(self) -> dict[str, np.ndarray]:
        """DFP clones: mean and spread of the data, whose mean of two coordinates has 0.3 / sqrt 2 = 0.212."""
        q = self.cloned[1]
        return {"mean": q.mean(axis=1), "spread": q.std(axis=1)}

    def improvement(self) -> dict[str, np.ndarray]:
        """The way up over the predicted margin, with a right critic and with one of the wrong sign."""
        state, before = self.cloned
        agent = drifting(top_k=top_k(OUTWEIGHS, K))
        right, wrong = self.improved(agent, state), self.improved(agent, state, -1.0)
        return {
            "right": (right.mean(axis=1) - before.mean(axis=1)) / self.margins(),
            "wrong": (wrong.mean(axis=1) - before.mean(axis=1)) / self.margins(),
        }

    def no_choice(self) -> dict[str, np.ndarray]:
        """K = N: every candidate is a positive. In units of the margin of K = 4."""
        state, before = self.cloned
        after = self.improved(drifting(top_k=top_k(OUTWEIGHS, N)), state)
        return {"moved": (after.mean(axis=1) - before.mean(axis=1)) / self.margins()}

    def without_top_k(self) -> dict[str, np.ndarray]:
        """Lambda = 0: the policy stays with the data."""
        state, before = self.cloned
        after = self.improved(CLONES, state)
        return {"moved": (after.mean(axis=1) - before.mean(axis=1)) / self.margins(), "spread": after.std(axis=1)}

    def acting(self) -> dict[str, np.ndarray]:
        """DFP w/o top-K executes the best of N'."""
        state, q = self.cloned
        return self._best_of(CLONES, state, q)

    def _best_of(self, agent, state: Any, q: np.ndarray) -> dict[str, np.ndarray]:
        predicted = np.array([margin(row, BEST_OF, 1) for row in q])
        return {"ratio": (self.executed(agent, state).mean(axis=1) - q.mean(axis=1)) / predicted}

    def bfn(self) -> dict[str, np.ndarray]:
        """BFN clones the data and executes the best of N."""
        agent = known(bfn, best_of=BEST_OF)
        state = self.pretrained(agent)
        q = self.values(agent, state)
        return {"mean": q.mean(axis=1), "spread": q.std(axis=1), **self._best_of(agent, state, q)}

    def mvp(self) -> dict[str, np.ndarray]:
        """MVP has the data's mean and executes the best of N; with top-K it moves up. It loses spread."""
        agent = known(mvp, best_of=BEST_OF, top_k=None)
        state = self.pretrained(agent, MVP_STEPS)
        q = self.values(agent, state)
        after = self.improved(known(mvp, best_of=BEST_OF, top_k=top_k(OUTWEIGHS, K)), state)
        predicted = np.array([margin(row, N, K) for row in q])
        moved = (after.mean(axis=1) - q.mean(axis=1)) / predicted
        return {"mean": q.mean(axis=1), "spread": q.std(axis=1), **self._best_of(agent, state, q), "top-K": moved}

    def fql(self) -> dict[str, np.ndarray]:
        """QC-FQL: the student above the data by 1 / (2 alpha) = 0.25; it executes its own sample."""
        agent = known(fql, alpha=ALPHA)
        right, wrong = self.pretrained(agent), self.pretrained(agent, sign=-1.0)
        q = self.values(agent, right)
        return {
            "shift": q.mean(axis=1), "spread": q.std(axis=1), "executed": self.executed(agent, right).mean(axis=1),
            "wrong": self.values(agent, wrong).mean(axis=1),
        }  # fmt: skip


# Of each quantity: the lowest and the highest value allowed. Beside it: mean and standard deviation of one seed.
SEEDS = 4
BOUNDS = {
    "cloning": {
        "mean": (-0.045, 0.045),  # -0.000, 0.018
        "spread": (0.17, 0.26),  # 0.215, 0.018
    },
    "improvement": {
        "right": (0.86, 1.09),  # 0.976, 0.048
        "wrong": (-1.13, -0.84),  # -0.983, 0.059
    },
    "no_choice": {
        "moved": (-0.12, 0.13),  # 0.005, 0.049
    },
    "without_top_k": {
        "moved": (-0.24, 0.25),  # 0.008, 0.103
        "spread": (0.17, 0.265),  # 0.217, 0.019
    },
    "acting": {
        "ratio": (0.94, 1.07),  # 1.004, 0.026
    },
    "bfn": {
        "mean": (-0.050, 0.045),  # -0.004, 0.018
        "spread": (0.158, 0.206),  # 0.182, 0.010
        "ratio": (0.93, 1.07),  # 0.999, 0.029
    },
    "mvp": {
        "mean": (-0.075, 0.065),  # -0.005, 0.029
        "ratio": (0.94, 1.06),  # 1.000, 0.025
        "top-K": (0.30, 1.56),  # 0.928, 0.265
    },
    "fql": {
        "shift": (0.19, 0.30),  # 0.246, 0.023
        "spread": (0.15, 0.21),  # 0.180, 0.012
        "executed": (0.185, 0.305),  # 0.244, 0.025
        "wrong": (-0.310, -0.195),  # -0.251, 0.024
    },
}


@pytest.fixture(scope="module")
def seeds() -> Seeds:
    return Seeds(SEEDS)


@pytest.fixture(autouse=True)
def _double_precision() -> None:
    """Not here: what is tested is training as it runs, in single precision."""


@pytest.mark.parametrize("group", BOUNDS)
def test_reaches(group, seeds):
    found = getattr(seeds, group)()
    for quantity, (low, high) in BOUNDS[group].items():
        assert low < float(found[quantity].mean()) < high, quantity


if __name__ == "__main__":
    measured = Seeds(int(sys.argv[1]))
    for group in sys.argv[2:] or BOUNDS:
        for quantity, found in getattr(measured, group)().items():
            print(f"{group:14} {quantity:9} mean {found.mean():7.4f} sd {found.std(ddof=1):.4f} "
                  f"min {found.min():7.4f} max {found.max():7.4f}", flush=True)  # fmt: skip
