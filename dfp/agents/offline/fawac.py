"""FAWAC (Park et al. 2025): advantage-weighted actor-critic (AWAC, Nair et al. 2020) with a flow policy.

The flow clones the data, an action the more the better the critic finds it than the policy's own. Critic and flow are
FQL's; the way from one to the other is all that differs.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from dfp.agents.actor_critic import AgentState, Metrics, OneStepConfig, Params
from dfp.agents.flow_policy import FlowPolicy, FlowPolicyConfig
from dfp.agents.implicit_q import MAX_WEIGHT, advantage_weights
from dfp.replay import Batch


class Config(OneStepConfig, FlowPolicyConfig):
    """FAWAC's settings; the temperature stands by task in ``config/methods.yaml``."""

    name: str = "fawac"
    inverse_temperature: float = Field(
        ge=0.0, description="beta of the weights exp(beta A). No default: it is tuned for every task."
    )


@dataclasses.dataclass(frozen=True)
class Agent(FlowPolicy):
    """FAWAC as pure functions of an :class:`AgentState`."""

    config: Config

    # -- loss

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """Flow matching, weighted by ``min(exp(beta (Q(s, a) - V(s))), 100)``."""
        flow_key, value_key = jax.random.split(key)

        # The weight of each action of the data, a constant.
        advantage = self.advantage(state, batch, value_key)
        weights = advantage_weights(advantage, self.config.inverse_temperature)

        loss = self.cloning_loss(actor, batch, flow_key, weights)
        return loss, {
            "bc_loss": loss, "advantage_mean": jnp.mean(advantage), "weight_mean": jnp.mean(weights),
            "clipped_share": jnp.mean(weights > 0.999 * MAX_WEIGHT),
        }  # fmt: skip

    def advantage(self, state: AgentState, batch: Batch, key: Array) -> Array:
        """``A(s, a) = Q(s, a) - V(s)``, ``[B]``; ``V(s) = E_pi Q(s, .)`` by one action of the policy, as AWAC does."""
        own = self.sample_actions(state, batch.observation, jax.random.split(key, batch.size))
        value = self.aggregate(self.values(state.critic, batch.observation, own))
        return self.aggregate(self.values(state.critic, batch.observation, batch.action)) - value

    # -- work

    def actor_loss_work(self) -> float:
        advantage = self.generate_work + 2 * self.critic_work.forward
        return advantage + self.flow.work.forward_and_backward
