"""Best of N from a flow policy (BFN, Ghasemipour et al. 2021), and with chunks of actions (QC-BFN, Li et al. 2025).

The flow clones the data and nothing else. The critic improves what it does: it picks among N samples when the policy
acts and in the TD target. BFN has chunks of one action, QC-BFN of five.
"""

import dataclasses

from jax import Array
from pydantic import Field

from dfp.agents.actor_critic import AgentState, BestOfN, BestOfNConfig, Metrics, Params, Positive
from dfp.agents.flow_policy import FlowPolicy, FlowPolicyConfig
from dfp.replay import Batch


class Config(FlowPolicyConfig, BestOfNConfig):
    """QC-BFN on OGBench's cubes; what differs for BFN, or on a task, stands in ``config/methods.yaml``."""

    name: str = "bfn"
    best_of: Positive = Field(
        default=32,
        description="N, candidates when acting and in the TD target. Q-chunking: BFN 4; QC-BFN 32, on Robomimic 16.",
    )


@dataclasses.dataclass(frozen=True)
class Agent(FlowPolicy, BestOfN):
    """BFN as pure functions of an :class:`AgentState`."""

    config: Config

    # -- loss

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """Flow matching with the buffer's actions, and nothing else."""
        loss = self.cloning_loss(actor, batch, key)
        return loss, {"bc_loss": loss}

    # -- work

    def actor_loss_work(self) -> float:
        return self.flow.work.forward_and_backward
