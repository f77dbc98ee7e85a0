"""ReBRAC, CAC, FAWAC and FBRAC at small size, and a batch that they learn from."""

import jax
import jax.numpy as jnp
import numpy as np
from support.small_agents import A, B, H, batch, make

from dfp.agents.base.batch import Batch
from dfp.agents.offline import cac, fawac, fbrac, rebrac

D = H * A
AGENTS = [
    (rebrac, {"alpha_actor": 0.1, "alpha_critic": 0.01}),
    (cac, {"eta": 0.3, "levels": 10}),
    (fawac, {"inverse_temperature": 1.0}),
    (fbrac, {"alpha": 3.0}),
]
SETTINGS = dict(AGENTS)


def chunks() -> Batch:
    """A batch with the next chunk of the data; the episode of the last row ends with its chunk."""
    following = jax.random.uniform(jax.random.key(9), (B, D), minval=-1.0)
    return batch()._replace(next_action=following, next_valid=jnp.ones((B, H)).at[-1].set(0.0))


def small(module, **settings):
    return make(module, chunk=H, **{**SETTINGS[module], **settings})


def known(base, **methods):
    """The agent with known functions in place of some of its own."""
    kind = type("Known", (type(base),), methods)
    return kind(base.network, base.training, base.observation_size, base.action_size, base.config)


def close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
