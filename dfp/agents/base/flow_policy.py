"""A policy that follows a learnt velocity field from noise to an action (BFN, FQL, IFQL, FAWAC, FBRAC)."""

import dataclasses
import functools

from jax import Array
from pydantic import Field

from dfp.agents.base.actor_critic import ActorCritic, AgentState, Metrics, Params, PolicyConfig, per_step
from dfp.agents.base.batch import Batch
from dfp.agents.models.flow import Velocity, draw_start, flow_matching_loss, integrate
from dfp.agents.models.networks import JointNetwork
from dfp.spec import PositiveInt


class FlowPolicyConfig(PolicyConfig):
    """Settings of every flow policy."""

    flow_steps: PositiveInt = Field(default=10, description="Euler steps from noise to action. Q-chunking, FQL: 10.")


@dataclasses.dataclass(frozen=True)
class FlowPolicy(ActorCritic):
    """An action is the point to which the flow takes a draw of noise."""

    config: FlowPolicyConfig

    # -- losses

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """Flow matching with the buffer's actions alone."""
        loss = self.cloning_loss(actor, batch, key)
        return loss, {"bc_loss": loss}

    def cloning_loss(self, flow: Params, batch: Batch, key: Array, weights: Array | None = None) -> Array:
        """Flow matching with the buffer's actions. Steps after an episode's end do not count.

        Args:
          weights: weight of each row, ``[B]``, or none for ones.
        """
        noise, t = draw_start(key, batch.action)
        valid = per_step(batch.valid, self.action_size)
        weights = valid if weights is None else weights[:, None] * valid
        return flow_matching_loss(self.velocity(flow, batch.observation), batch.action, noise, t, weights)

    # -- policy

    @property
    def velocity_network(self) -> JointNetwork:
        """``v(s, x, t)``: the actor body of Table 5 on state, point and raw time."""
        return self.actor_body(self.observation_size, self.chunk_size, 1)

    def velocity(self, flow: Params, observation: Array) -> Velocity:
        """The field ``v(x, t)`` at the states ``[..., S]``."""
        return functools.partial(self.velocity_network, flow, observation)

    def init_actor(self, key: Array) -> Params:
        return self.velocity_network.init(key)

    def generate(self, actor: Params, observation: Array, noise: Array) -> Array:
        """The end of the flow, after ``flow_steps`` Euler steps."""
        return integrate(self.velocity(actor, observation), noise, self.config.flow_steps)
