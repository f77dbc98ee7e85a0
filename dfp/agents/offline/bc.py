"""Behavioural cloning (BC) by a Gaussian policy of unit variance, without a critic.

The log-likelihood of such a policy is, up to a constant, minus half the squared distance to its mean, so training
is regression. The policy acts at the mean. If the data has two modes, the mean lies between them.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array

from dfp.agents.base.actor_critic import AgentState, Deterministic, Metrics, OneStepConfig, Params, per_step
from dfp.agents.base.batch import Batch


class Config(OneStepConfig):
    """BC's settings."""

    name: str = "bc"


@dataclasses.dataclass(frozen=True)
class Agent(Deterministic):
    """BC as pure functions of an :class:`AgentState`, whose critic is empty."""

    config: Config

    # -- losses

    def critic_loss(self, critic: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """Zero: BC has no critic."""
        return jnp.zeros(()), {}

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """``mean (mu(s) - a)^2``; steps after an episode's end do not count."""
        weights = per_step(batch.valid, self.action_size)
        loss = jnp.mean(weights * jnp.square(self.action(actor, batch.observation) - batch.action))
        return loss, {"bc_loss": loss}

    # -- policy

    def init_critic(self, key: Array) -> Params:
        return {}
