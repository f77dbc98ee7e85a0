"""Implicit flow Q-learning (IFQL, Park et al. 2025): IDQL with a flow in place of the diffusion.

The flow only clones the data. The critics (``implicit_q.py``) do not see its actions. The policy acts with the best
sample of the flow by the critics.
"""

import dataclasses

from pydantic import Field

from dfp.agents.base.actor_critic import BestOfN, BestOfNConfig
from dfp.agents.base.flow_policy import FlowPolicy, FlowPolicyConfig
from dfp.agents.base.implicit_q import ImplicitQ, ImplicitQConfig
from dfp.spec import PositiveInt


class Config(ImplicitQConfig, FlowPolicyConfig, BestOfNConfig):
    """IFQL as in FQL's release."""

    name: str = "ifql"
    best_of: PositiveInt = Field(default=32, description="N, samples of which the best is executed. FQL's release: 32.")


@dataclasses.dataclass(frozen=True)
class Agent(ImplicitQ, FlowPolicy, BestOfN):
    """IFQL as pure functions of an :class:`AgentState`."""

    config: Config
