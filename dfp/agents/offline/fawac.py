"""FAWAC (Park et al. 2025): advantage-weighted actor-critic (AWAC, Nair et al. 2020) with a flow policy.

The flow clones the data. The weight of an action grows with its advantage over ``V(s)``, by default the value of the
policy's own action. Critic and flow are those of FQL.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from dfp.agents.base.actor_critic import ActorCritic, AgentState, Metrics, OneStepConfig, Params, td_loss
from dfp.agents.base.batch import Batch
from dfp.agents.base.flow_policy import FlowPolicy, FlowPolicyConfig
from dfp.agents.base.implicit_q import MAX_WEIGHT, StateValue, advantage_weights


class Config(OneStepConfig, FlowPolicyConfig):
    """FAWAC's settings; ``config/methods.yaml`` has the temperature by task."""

    name: str = "fawac"
    inverse_temperature: float = Field(
        ge=0.0, description="beta of the weights exp(beta A). No default: it is tuned for every task."
    )
    value: Literal["policy", "regression"] = Field(
        default="policy",
        description="V of the advantage. `policy`: the critics' value of one action of the policy, as in AWAC. "
        "`regression`: a network, trained on the target critics' values of the data's actions (ColinQiyangLi/qam).",
    )


@dataclasses.dataclass(frozen=True)
class Agent(StateValue, FlowPolicy):
    """FAWAC as pure functions of an :class:`AgentState`."""

    config: Config

    # -- losses

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """Flow matching, weighted by ``min(exp(beta (Q(s, a) - V(s))), 100)``."""
        flow_key, value_key = jax.random.split(key)

        advantage = self.advantage(state, batch, value_key)
        weights = advantage_weights(advantage, self.config.inverse_temperature)

        loss = self.cloning_loss(actor, batch, flow_key, weights)
        return loss, {
            "bc_loss": loss, "advantage_mean": jnp.mean(advantage), "weight_mean": jnp.mean(weights),
            "clipped_share": jnp.mean(weights > 0.999 * MAX_WEIGHT),
        }  # fmt: skip

    def advantage(self, state: AgentState, batch: Batch, key: Array) -> Array:
        """``A(s, a) = Q(s, a) - V(s)``, ``[B]``, of the online critics."""
        if self.learns_value:
            q, value = state.critic["q"], self.state_value(state.critic["v"], batch.observation)
        else:  # V(s) = E_pi Q(s, .), by one action of the policy
            own = self.sample_actions(state, batch.observation, jax.random.split(key, batch.size))
            q, value = state.critic, self.aggregate(self.values(state.critic, batch.observation, own))
        return self.aggregate(self.values(q, batch.observation, batch.action)) - value

    def critic_loss(self, critic: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """The TD loss of FQL; with V by regression plus ``mean_{e,b} valid (Qtarget_e(s, a) - V(s))^2``."""
        if not self.learns_value:
            return super().critic_loss(critic, state, batch, key)
        loss, metrics = super().critic_loss(critic["q"], state, batch, key)
        value = self.state_value(critic["v"], batch.observation)
        targets = self.values(state.target_critic, batch.observation, batch.action)
        value_loss = td_loss(targets, value, batch.valid[:, -1])
        return loss + value_loss, {**metrics, "value_loss": value_loss, "v_mean": jnp.mean(value)}

    # -- networks

    @property
    def learns_value(self) -> bool:
        """Whether V is a network. Critic parameters are then ``{"q": ..., "v": ...}``."""
        return self.config.value == "regression"

    def init_critic(self, key: Array) -> Params:
        return super().init_critic(key) if self.learns_value else ActorCritic.init_critic(self, key)

    def targeted(self, critic: Params) -> Params:
        return super().targeted(critic) if self.learns_value else critic

    def acting(self, state: AgentState) -> tuple[Params, Params]:
        return super().acting(state) if self.learns_value else ActorCritic.acting(self, state)
