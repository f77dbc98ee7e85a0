"""Implicit diffusion Q-learning (IDQL, Hansen-Estruch et al. 2023): IQL's critics and a diffusion.

The diffusion model only clones the data. The critics (``implicit_q.py``) do not see its actions. The policy acts with
the best sample of an average of the model, by the target critics.
"""

import dataclasses
import functools

import jax
from jax import Array
from pydantic import Field

from dfp.agents.base.actor_critic import AgentState, BestOfN, BestOfNConfig, Metrics, Params, per_step
from dfp.agents.base.batch import Batch
from dfp.agents.base.implicit_q import ImplicitQ, ImplicitQConfig
from dfp.agents.models.diffusion import VPSchedule, ancestral, noise_prediction_loss
from dfp.agents.models.networks import JointNetwork, ResNet
from dfp.spec import PositiveInt

SCHEDULE = VPSchedule(beta_min=0.1, beta_max=10.0)  # IDQL's release


class Config(ImplicitQConfig, BestOfNConfig):
    """IDQL's settings. ``docs/methods/idql.md`` has the differences from its release."""

    name: str = "idql"
    best_of: PositiveInt = Field(
        default=32, description="N, samples of which the best is executed. The FQL paper: 32; IDQL's release: 64."
    )
    diffusion_steps: PositiveInt = Field(default=5, description="T, steps between action and noise. IDQL's release: 5.")
    blocks: PositiveInt = Field(default=3, description="Residual blocks of the noise prediction. The IDQL paper: 3.")
    ema_rate: float = Field(
        default=1e-3, gt=0.0, le=1.0, description="Rate of the average of the diffusion model. IDQL's release: 1e-3."
    )


@dataclasses.dataclass(frozen=True)
class Agent(ImplicitQ, BestOfN):
    """IDQL as pure functions of an :class:`AgentState`, whose anchor is the average of the actor."""

    config: Config

    # -- loss

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """Noise prediction on the buffer's actions at one of T times. Steps after an episode's end do not count."""
        noise_key, time_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, batch.action.shape)
        steps = self.config.diffusion_steps
        t = jax.random.randint(time_key, (batch.size, 1), 1, steps + 1) / steps
        prediction = functools.partial(self.diffusion, actor, batch.observation)
        weights = per_step(batch.valid, self.action_size)
        loss = noise_prediction_loss(prediction, SCHEDULE, batch.action, noise, t, weights)
        return loss, {"bc_loss": loss}

    # -- policy

    @property
    def diffusion(self) -> JointNetwork:
        """``eps_hat(s, a_t, t)``: IDQL's residual body on state, noisy action and raw time."""
        body = ResNet(self.network.width, self.config.blocks, self.chunk_size)
        return JointNetwork(body, (self.observation_size, self.chunk_size, 1))

    def init_actor(self, key: Array) -> Params:
        return self.diffusion.init(key)

    @property
    def anchor_rate(self) -> float:
        return self.config.ema_rate

    @property
    def noise_size(self) -> int:
        return self.config.diffusion_steps * self.chunk_size

    def generate(self, actor: Params, observation: Array, noise: Array) -> Array:
        """T steps of DDPM, each with its own part of the noise."""
        steps = noise.reshape(*noise.shape[:-1], self.config.diffusion_steps, self.chunk_size)
        return ancestral(functools.partial(self.diffusion, actor, observation), SCHEDULE, steps)

    def acting(self, state: AgentState) -> tuple[Params, Params]:
        return state.anchor, state.target_critic
