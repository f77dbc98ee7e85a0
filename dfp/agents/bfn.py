"""Best of N from a flow policy (BFN, Ghasemipour et al. 2021), and with chunks of actions (QC-BFN, Li et al. 2025).

The flow clones the data and nothing else. The critic improves what it does: it picks among N samples when the policy
acts and in the TD target. BFN has chunks of one action, QC-BFN of five.
"""

import dataclasses

from jax import Array
from pydantic import Field

from dfp.agents.actor_critic import AgentState, BestOfN, BestOfNConfig, Metrics, Params, Positive, per_step
from dfp.flops import MLPWork
from dfp.flow import VelocityField, draw_start, flow_matching_loss, integrate
from dfp.replay import Batch


class Config(BestOfNConfig):
    """QC-BFN on OGBench's cubes; what differs for BFN, or on a task, stands in ``config/methods.yaml``."""

    name: str = "bfn"
    best_of: Positive = Field(
        default=32,
        description="N, candidates when acting and in the TD target. Q-chunking: BFN 4; QC-BFN 32, on Robomimic 16.",
    )
    flow_steps: Positive = Field(default=10, description="Euler steps from noise to action. Q-chunking, FQL: 10.")


@dataclasses.dataclass(frozen=True)
class Agent(BestOfN):
    """BFN as pure functions of an :class:`AgentState`."""

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
