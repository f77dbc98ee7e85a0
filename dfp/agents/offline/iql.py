"""Implicit Q-learning (IQL, Kostrikov et al. 2022): the critics of ``implicit_q.py``, and advantage-weighted cloning.

The policy is a Gaussian of unit variance, as in BC. The weight of an action grows with its advantage, so the policy
stays near the data and prefers the better actions.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array
from pydantic import Field

from dfp.agents.base.actor_critic import AgentState, Deterministic, Metrics, Params, per_step
from dfp.agents.base.batch import Batch
from dfp.agents.base.implicit_q import ImplicitQ, ImplicitQConfig, advantage_weights


class Config(ImplicitQConfig):
    """IQL as in FQL's release; ``config/methods.yaml`` has ``alpha`` by task."""

    name: str = "iql"
    alpha: float = Field(
        ge=0.0, description="alpha, inverse temperature of the weights. No default: it is tuned for every task."
    )


@dataclasses.dataclass(frozen=True)
class Agent(ImplicitQ, Deterministic):
    """IQL as pure functions of an :class:`AgentState`."""

    config: Config

    # -- loss

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """``mean min(exp(alpha A(s, a)), 100) (mu(s) - a)^2``; steps after an episode's end do not count."""
        advantage = self.advantage(state, batch.observation, batch.action)
        weights = advantage_weights(advantage, self.config.alpha)
        error = jnp.square(self.action(actor, batch.observation) - batch.action)
        loss = jnp.mean(weights[:, None] * per_step(batch.valid, self.action_size) * error)
        return loss, {"actor_loss": loss, "advantage_mean": jnp.mean(advantage), "weight_mean": jnp.mean(weights)}
