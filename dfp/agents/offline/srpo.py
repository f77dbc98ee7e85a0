"""Score regularized policy optimization (SRPO, Chen et al. 2024): a policy regularised by the score of a diffusion.

A diffusion model clones the data. Nothing samples from it. A deterministic policy ascends the critics of
``implicit_q.py``, and the score of the diffusion keeps its actions likely under the data. The original trains the
model, the critics and the policy one after the other. Here all three take a step in every update.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from dfp.agents.base.actor_critic import AgentState, Deterministic, Metrics, Params, per_step
from dfp.agents.base.batch import Batch
from dfp.agents.base.implicit_q import ImplicitQ, ImplicitQConfig
from dfp.agents.models.diffusion import (
    VPSchedule,
    Weighting,
    noise_prediction_loss,
    score_regularisation,
)
from dfp.agents.models.networks import JointNetwork, ResNet
from dfp.spec import PositiveInt

# As in SRPO's release:
SCHEDULE = VPSchedule(beta_min=0.1, beta_max=20.0)
CLONING_TIMES = (1e-3, 1.0)
POLICY_TIMES = (0.02, 0.98)


class Config(ImplicitQConfig):
    """SRPO's settings."""

    name: str = "srpo"
    beta: float = Field(
        default=0.1,
        ge=0.0,
        description="beta, weight of the critics' gradient. The FQL paper's Table 6: 0.1, on cube-single 0.03.",
    )
    weighting: Weighting = Field(
        default="variance",
        description="w(t). `variance`: sigma^2, the default of SRPO's release (VDS); `score`: alpha / sigma.",
    )
    blocks: PositiveInt = Field(default=3, description="Residual blocks of the noise prediction. SRPO's release: 3.")


@dataclasses.dataclass(frozen=True)
class Agent(ImplicitQ, Deterministic):
    """SRPO as pure functions of an :class:`AgentState`, whose actor is ``{"behaviour": ..., "policy": ...}``."""

    config: Config

    # -- losses

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """``L_BC(behaviour) + L(policy)``. Each has a gradient in its own parameters only."""
        cloning_key, policy_key = jax.random.split(key)
        bc_loss = self.cloning_loss(actor["behaviour"], batch, cloning_key)
        policy_loss, metrics = self.policy_loss(actor, state, batch, policy_key)
        return bc_loss + policy_loss, {"bc_loss": bc_loss, **metrics}

    def cloning_loss(self, behaviour: Params, batch: Batch, key: Array) -> Array:
        """Noise prediction on the buffer's actions; steps after an episode's end do not count."""
        noise, t = draw_noise(key, batch.action, CLONING_TIMES)
        prediction = functools.partial(self.behaviour, behaviour, batch.observation)
        weights = per_step(batch.valid, self.action_size)
        return noise_prediction_loss(prediction, SCHEDULE, batch.action, noise, t, weights)

    def policy_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """``mean_b <w(t) (eps_hat(a_t, t) - eps) - beta dQ/da, a>`` with ``a = mu(s)``.

        A surrogate loss: its gradient in ``a`` is the bracket, a constant, and its value has no meaning. It uses the
        live behaviour model, not an average, and the mean of the target critics.
        """
        action = self.action(actor, batch.observation)
        point = jax.lax.stop_gradient(action)

        # Descent on this keeps the action where the data is likely.
        behaviour = functools.partial(self.behaviour, jax.lax.stop_gradient(actor["behaviour"]), batch.observation)
        noise, t = draw_noise(key, point, POLICY_TIMES)
        regularisation = score_regularisation(behaviour, SCHEDULE, point, noise, t, self.config.weighting)

        # Ascent of the critics.
        def value(action: Array) -> tuple[Array, Array]:
            q = jnp.mean(self.values(state.target_critic, batch.observation, action), axis=0)
            return jnp.sum(q), jnp.mean(q)

        guidance, q_mean = jax.grad(value, has_aux=True)(point)

        loss = jnp.mean(jnp.sum((regularisation - self.config.beta * guidance) * action, axis=-1))
        metrics = {
            "policy_q_mean": q_mean, "regularisation_size": mean_length(regularisation),
            "guidance_size": self.config.beta * mean_length(guidance),
        }  # fmt: skip
        return loss, metrics

    # -- policy

    @property
    def behaviour(self) -> JointNetwork:
        """``eps_hat(s, a_t, t)``: IDQL's residual body on state, noisy action and raw time."""
        body = ResNet(self.network.width, self.config.blocks, self.chunk_size)
        return JointNetwork(body, (self.observation_size, self.chunk_size, 1))

    def init_actor(self, key: Array) -> Params:
        behaviour_key, policy_key = jax.random.split(key)
        return {"behaviour": self.behaviour.init(behaviour_key), "policy": super().init_actor(policy_key)}

    def action(self, actor: Params, observation: Array) -> Array:
        """``mu(s)``, within (-1, 1) by a tanh."""
        return jnp.tanh(super().action(actor["policy"], observation))


def draw_noise(key: Array, action: Array, times: tuple[float, float]) -> tuple[Array, Array]:
    """``eps ~ N(0, I)``, ``[B, D]``, and ``t`` uniform between ``times``, ``[B, 1]``, for ``[B, D]`` actions."""
    noise_key, time_key = jax.random.split(key)
    t = jax.random.uniform(time_key, (action.shape[0], 1), minval=times[0], maxval=times[1])
    return jax.random.normal(noise_key, action.shape), t


def mean_length(vectors: Array) -> Array:
    """``mean_b |v_b|``: ``[B, D] -> []``."""
    return jnp.mean(jnp.linalg.norm(vectors, axis=-1))
