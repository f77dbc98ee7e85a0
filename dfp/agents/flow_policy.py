"""A policy that is a flow: what FAWAC and FBRAC share, and what FQL's authors keep equal between them."""

import dataclasses

from jax import Array
from pydantic import Field

from dfp.agents.actor_critic import ActorCritic, OneStepConfig, Params, Positive
from dfp.flops import MLPWork
from dfp.flow import VelocityField, integrate


class FlowPolicyConfig(OneStepConfig):
    """What every such policy has."""

    flow_steps: Positive = Field(default=10, description="Euler steps from noise to action. FQL: 10.")


@dataclasses.dataclass(frozen=True)
class FlowPolicy(ActorCritic):
    """Acts, and bootstraps, by where the flow takes one draw of noise."""

    config: FlowPolicyConfig

    @property
    def flow(self) -> VelocityField:
        return VelocityField(self.network, self.observation_size, self.chunk_size)

    def init_actor(self, key: Array) -> Params:
        return self.flow.init(key)

    def generate(self, actor: Params, observation: Array, noise: Array) -> Array:
        """Where the flow ends that starts at the noise."""
        return integrate(self.flow.at(actor, observation), noise, self.config.flow_steps)

    @property
    def actor_work(self) -> MLPWork:
        return self.flow.work

    @property
    def generate_work(self) -> float:
        return self.config.flow_steps * self.flow.work.forward
