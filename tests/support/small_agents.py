"""What the tests of the agents share: agents of toy size, a batch, and a bandit with two modes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dfp.agents.base.actor_critic import AgentState
from dfp.agents.base.batch import Batch
from dfp.spec import NetworkSpec, TrainingSpec

S, A, H, B = 3, 2, 2, 8
NETWORK = NetworkSpec(width=16, depth=2, ensemble_size=2)
TRAINING = TrainingSpec(batch_size=B, discount=0.9, learning_rate=1e-3, target_update_rate=0.01, offline_steps=1)
SMALL = {"chunk": H, "best_of": 4}


def make(module, **settings):
    small = {key: value for key, value in SMALL.items() if key in module.Config.model_fields}
    config = module.Config(**{**small, **settings})
    return module.Agent(network=NETWORK, training=TRAINING, observation_size=S, action_size=A, config=config)


def start(agent) -> AgentState:
    return jax.jit(agent.init)(jax.random.key(0))


def batch(seed: int = 0, size: int = B) -> Batch:
    keys = jax.random.split(jax.random.key(seed), 4)
    return Batch(
        observation=jax.random.normal(keys[0], (size, S)),
        action=jax.random.uniform(keys[1], (size, H * A), minval=-1.0),
        valid=jnp.ones((size, H)).at[0, 1].set(0.0),
        return_=jax.random.normal(keys[2], (size,)),
        discount=jnp.full((size,), 0.81).at[1].set(0.0),
        next_observation=jax.random.normal(keys[3], (size, S)),
    )


def changed(before, after) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))


def bandit(agent, data: Batch, steps: int) -> AgentState:
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 2})
    def train(current):
        def step(index, current):
            return agent.update(current, data, jax.random.fold_in(jax.random.key(1), index))[0]

        return jax.lax.fori_loop(0, steps, step, current)

    return train(start(agent))


def two_modes(size: int = 64, chunk: int = H, action_size: int = A) -> Batch:
    """One state, actions at -0.6 and +0.6; the positive one pays 1, the other 0."""
    sign = jnp.where(jnp.arange(size) % 2 == 0, 1.0, -1.0)
    return Batch(
        observation=jnp.zeros((size, S)),
        action=jnp.tile(0.6 * sign[:, None], (1, chunk * action_size)),
        valid=jnp.ones((size, chunk)),
        return_=(sign + 1.0) / 2.0,
        discount=jnp.zeros((size,)),
        next_observation=jnp.zeros((size, S)),
    )
