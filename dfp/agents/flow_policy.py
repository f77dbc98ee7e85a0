"""A policy that is a flow: from one draw of noise along a learnt velocity field (BFN, IFQL, FAWAC, FBRAC)."""

import dataclasses

from jax import Array
from pydantic import Field

from dfp.agents.actor_critic import ActorCritic, Params, PolicyConfig, Positive, per_step
from dfp.flops import MLPWork
from dfp.flow import VelocityField, draw_start, flow_matching_loss, integrate
from dfp.replay import Batch


class FlowPolicyConfig(PolicyConfig):
    """What every such policy has."""

    flow_steps: Positive = Field(default=10, description="Euler steps from noise to action. Q-chunking, FQL: 10.")


@dataclasses.dataclass(frozen=True)
class FlowPolicy(ActorCritic):
    """Acts by where the flow takes a draw of noise. How many draws, and who picks, is the method's."""

    config: FlowPolicyConfig

    # -- loss

    def cloning_loss(self, actor: Params, batch: Batch, key: Array, weights: Array | None = None) -> Array:
        """Flow matching with the buffer's actions, ``weights`` ``[B]`` or ones; steps after an end do not count."""
        noise, t = draw_start(key, batch.action)
        valid = per_step(batch.valid, self.action_size)
        weights = valid if weights is None else weights[:, None] * valid
        return flow_matching_loss(self.flow.at(actor, batch.observation), batch.action, noise, t, weights)

    # -- policy

    @property
    def flow(self) -> VelocityField:
        return VelocityField(self.network, self.observation_size, self.chunk_size)

    def init_actor(self, key: Array) -> Params:
        return self.flow.init(key)

    def generate(self, actor: Params, observation: Array, noise: Array) -> Array:
        """Where the flow ends that starts at the noise."""
        return integrate(self.flow.at(actor, observation), noise, self.config.flow_steps)

    # -- work

    @property
    def actor_work(self) -> MLPWork:
        return self.flow.work

    @property
    def generate_work(self) -> float:
        return self.config.flow_steps * self.flow.work.forward
