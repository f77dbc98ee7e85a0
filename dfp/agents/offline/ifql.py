"""Implicit flow Q-learning (IFQL, Park et al. 2025): IDQL with a flow in place of the diffusion.

The flow clones the data and nothing else. The critics of ``implicit_q.py`` never ask it for an action; when it acts,
they pick among its samples.
"""

import dataclasses

from jax import Array
from pydantic import Field

from dfp.agents.actor_critic import AgentState, BestOfN, BestOfNConfig, Metrics, Params, Positive, per_step
from dfp.agents.implicit_q import ImplicitQ, ImplicitQConfig
from dfp.flops import MLPWork
from dfp.flow import VelocityField, draw_start, flow_matching_loss, integrate
from dfp.replay import Batch


class Config(ImplicitQConfig, BestOfNConfig):
    """IFQL as in FQL's release."""

    name: str = "ifql"
    best_of: Positive = Field(default=32, description="N, samples of which the best is executed. FQL's release: 32.")
    flow_steps: Positive = Field(default=10, description="Euler steps from noise to action. FQL's release: 10.")


@dataclasses.dataclass(frozen=True)
class Agent(ImplicitQ, BestOfN):
    """IFQL as pure functions of an :class:`AgentState`."""

    config: Config

    # -- loss

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """Flow matching with the buffer's actions; steps after an episode's end do not count."""
        noise, t = draw_start(key, batch.action)
        velocity = self.flow.at(actor, batch.observation)
        loss = flow_matching_loss(velocity, batch.action, noise, t, per_step(batch.valid, self.action_size))
        return loss, {"bc_loss": loss}

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

    def actor_loss_work(self) -> float:
        return self.flow.work.forward_and_backward
