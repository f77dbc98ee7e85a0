"""FBRAC (Park et al. 2025): behaviour-regularised actor-critic, Diffusion-QL with a flow policy.

The flow clones the data and follows the gradient of Q, which reaches the velocity field through all Euler steps. FQL
avoids this gradient; the rest is the same.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from dfp.agents.base.actor_critic import AgentState, Metrics, OneStepConfig, Params
from dfp.agents.base.batch import Batch
from dfp.agents.base.flow_policy import FlowPolicy, FlowPolicyConfig


class Config(OneStepConfig, FlowPolicyConfig):
    """FBRAC's settings; ``config/methods.yaml`` has the weight by task."""

    name: str = "fbrac"
    alpha: float = Field(ge=0.0, description="alpha, weight of the cloning. No default: it is tuned for every task.")


@dataclasses.dataclass(frozen=True)
class Agent(FlowPolicy):
    """FBRAC as pure functions of an :class:`AgentState`."""

    config: Config

    # -- loss

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """``alpha L_BC - mean Q(s, Euler(s, z))``."""
        flow_key, action_key = jax.random.split(key)

        bc_loss = self.cloning_loss(actor, batch, flow_key)

        # Q of the action as it would be executed; its gradient goes through every step of the flow.
        z = jax.random.normal(action_key, batch.action.shape)
        actions = jnp.clip(self.generate(actor, batch.observation, z), -1.0, 1.0)
        q = jnp.mean(self.values(state.critic, batch.observation, actions))

        return self.config.alpha * bc_loss - q, {"bc_loss": bc_loss, "actor_q_mean": q}
