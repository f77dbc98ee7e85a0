"""Implicit flow Q-learning (IFQL, Park et al. 2025): IDQL with a flow in place of the diffusion.

The flow clones the data and nothing else. The critics of ``implicit_q.py`` never ask it for an action; when it acts,
they pick among its samples.
"""

import dataclasses

from jax import Array
from pydantic import Field

from dfp.agents.actor_critic import AgentState, BestOfN, BestOfNConfig, Metrics, Params, Positive
from dfp.agents.flow_policy import FlowPolicy, FlowPolicyConfig
from dfp.agents.implicit_q import ImplicitQ, ImplicitQConfig
from dfp.replay import Batch


class Config(ImplicitQConfig, FlowPolicyConfig, BestOfNConfig):
    """IFQL as in FQL's release."""

    name: str = "ifql"
    best_of: Positive = Field(default=32, description="N, samples of which the best is executed. FQL's release: 32.")


@dataclasses.dataclass(frozen=True)
class Agent(ImplicitQ, FlowPolicy, BestOfN):
    """IFQL as pure functions of an :class:`AgentState`."""

    config: Config

    # -- loss

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """Flow matching with the buffer's actions, and nothing else."""
        loss = self.cloning_loss(actor, batch, key)
        return loss, {"bc_loss": loss}

    # -- work

    def actor_loss_work(self) -> float:
        return self.flow.work.forward_and_backward
