"""Flow Q-learning (FQL, Park et al. 2025), and with chunks of actions (QC-FQL, Li et al. 2025).

A flow clones the data. A one-pass student ``mu(s, z)`` imitates the action that the flow makes from the same noise. It
also follows the critic's gradient to actions of higher value. Only the student acts. A chunk has one action in FQL and
five in QC-FQL.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from dfp.agents.base.actor_critic import AgentState, Metrics, Params
from dfp.agents.base.batch import Batch
from dfp.agents.base.flow_policy import FlowPolicy, FlowPolicyConfig


class Config(FlowPolicyConfig):
    """FQL's settings. ``config/methods.yaml`` has the differences by task."""

    name: str = "fql"
    alpha: float = Field(
        ge=0.0, description="alpha, weight of the distillation. No default: it is tuned for every task."
    )


@dataclasses.dataclass(frozen=True)
class Agent(FlowPolicy):
    """FQL as pure functions of an :class:`AgentState`, whose actor is ``{"flow": ..., "student": ...}``."""

    config: Config

    # -- losses

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """``L_BC(flow) + alpha L_distillation(student) - mean Q(student)``."""
        flow_key, student_key = jax.random.split(key)

        bc_loss = self.cloning_loss(actor["flow"], batch, flow_key)

        # L_distillation: towards the flow's action for the same noise. Stop the gradient at the flow's parameters, not
        # at its result: otherwise autodiff stores the activations of every Euler step.
        z = jax.random.normal(student_key, batch.action.shape)
        target = self.flow_actions(jax.lax.stop_gradient(actor["flow"]), batch.observation, z)
        actions = self.generate(actor, batch.observation, z)
        distillation_loss = jnp.mean(jnp.square(actions - target))

        # Q: of the action as it would be executed.
        q = jnp.mean(self.values(state.critic, batch.observation, jnp.clip(actions, -1.0, 1.0)))

        loss = bc_loss + self.config.alpha * distillation_loss - q
        return loss, {"bc_loss": bc_loss, "distillation_loss": distillation_loss, "student_q_mean": q}

    # -- policy

    def init_actor(self, key: Array) -> Params:
        flow_key, student_key = jax.random.split(key)
        return {"flow": self.velocity_network.init(flow_key), "student": self.generator.init(student_key)}

    def generate(self, actor: Params, observation: Array, noise: Array) -> Array:
        """``mu(s, z)``, the student."""
        return self.generator(actor["student"], observation, noise)

    def flow_actions(self, flow: Params, observation: Array, noise: Array) -> Array:
        """What the student imitates, in [-1, 1]: ``[..., S], [..., D] -> [..., D]``."""
        return jnp.clip(super().generate(flow, observation, noise), -1.0, 1.0)
