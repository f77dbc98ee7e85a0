"""Best of N from a flow policy (BFN, Ghasemipour et al. 2021), and with chunks of actions (QC-BFN, Li et al. 2025).

The flow only clones the data. The critic improves the policy: it chooses among N samples when the policy acts and in
the TD target. A chunk has one action in BFN and five in QC-BFN.
"""

import dataclasses

from pydantic import Field

from dfp.agents.base.actor_critic import BestOfN, BestOfNConfig
from dfp.agents.base.flow_policy import FlowPolicy, FlowPolicyConfig
from dfp.spec import PositiveInt


class Config(FlowPolicyConfig, BestOfNConfig):
    """QC-BFN's settings on OGBench. ``config/methods.yaml`` has those of BFN and those on Robomimic."""

    name: str = "bfn"
    best_of: PositiveInt = Field(
        default=32,
        description="N, candidates when acting and in the TD target. Q-chunking: BFN 4; QC-BFN 32, on Robomimic 16.",
    )


@dataclasses.dataclass(frozen=True)
class Agent(FlowPolicy, BestOfN):
    """BFN as pure functions of an :class:`AgentState`."""

    config: Config
