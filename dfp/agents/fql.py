"""Flow Q-learning (FQL, Park et al. 2025), and with chunks of actions (QC-FQL, Li et al. 2025).

A flow clones the data. A student ``mu(s, z)`` of one pass is drawn to where the flow carries the same noise, and by the
critic's gradient to actions of higher value. The student alone acts. FQL has chunks of one action, QC-FQL of five.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from dfp.agents.actor_critic import ActorCritic, AgentState, Metrics, Params, PolicyConfig, Positive, per_step
from dfp.flops import MLPWork, mlp_work
from dfp.flow import VelocityField, draw_start, flow_matching_loss, integrate
from dfp.networks import MLP
from dfp.replay import Batch


class Config(PolicyConfig):
    """FQL's settings; what differs by task stands in ``config/methods.yaml``."""

    name: str = "fql"
    alpha: float = Field(
        ge=0.0, description="alpha, weight of the distillation. No default: it is tuned for every task."
    )
    flow_steps: Positive = Field(default=10, description="Euler steps from noise to action. Q-chunking, FQL: 10.")


@dataclasses.dataclass(frozen=True)
class Agent(ActorCritic):
    """FQL as pure functions of an :class:`AgentState`, whose actor is ``{"flow": ..., "student": ...}``."""

    config: Config

    # -- losses

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """``L_BC(flow) + alpha L_distillation(student) - mean Q(student)``."""
        flow_key, student_key = jax.random.split(key)

        # L_BC: flow matching with the buffer's actions; steps after an episode's end do not count.
        noise, t = draw_start(flow_key, batch.action)
        velocity = self.flow.at(actor["flow"], batch.observation)
        bc_loss = flow_matching_loss(velocity, batch.action, noise, t, per_step(batch.valid, self.action_size))

        # L_distillation: towards where the flow ends from the same noise. What is frozen is the flow, not its result:
        # else every step would keep what its gradient needs.
        z = jax.random.normal(student_key, batch.action.shape)
        target = self.flow_actions(jax.lax.stop_gradient(actor["flow"]), batch.observation, z)
        actions = self.generate(actor, batch.observation, z)
        distillation_loss = jnp.mean(jnp.square(actions - target))

        # Q: of the action as it would be executed.
        q = jnp.mean(self.values(state.critic, batch.observation, jnp.clip(actions, -1.0, 1.0)))

        loss = bc_loss + self.config.alpha * distillation_loss - q
        return loss, {"bc_loss": bc_loss, "distillation_loss": distillation_loss, "student_q_mean": q}

    # -- policy

    @property
    def flow(self) -> VelocityField:
        return VelocityField(self.network, self.observation_size, self.chunk_size)

    @property
    def student(self) -> MLP:
        return MLP(self.network.width, self.network.depth, self.chunk_size)

    def init_actor(self, key: Array) -> Params:
        flow_key, student_key = jax.random.split(key)
        inputs = jnp.zeros((1, self.observation_size + self.chunk_size))
        return {"flow": self.flow.init(flow_key), "student": self.student.init(student_key, inputs)}

    def generate(self, actor: Params, observation: Array, noise: Array) -> Array:
        """``mu(s, z)``."""
        inputs = jnp.concatenate([observation, noise], axis=-1)
        return self.student.apply(actor["student"], inputs)  # pyright: ignore[reportReturnType]

    def flow_actions(self, flow: Params, observation: Array, noise: Array) -> Array:
        """What the student imitates, in [-1, 1]: ``[..., S], [..., D] -> [..., D]``."""
        return jnp.clip(integrate(self.flow.at(flow, observation), noise, self.config.flow_steps), -1.0, 1.0)

    # -- work

    @property
    def actor_work(self) -> MLPWork:
        return mlp_work(self.observation_size + self.chunk_size, self.chunk_size, self.network)

    def actor_loss_work(self) -> float:
        cloning = self.flow.work.forward_and_backward
        distillation = self.config.flow_steps * self.flow.work.forward + self.actor_work.forward_and_backward
        return cloning + distillation + self.action_gradient_work
