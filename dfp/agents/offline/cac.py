"""Consistency actor-critic (CAC, Ding & Jin 2024): a policy that takes noise to an action in two passes.

The actor is a consistency function. It clones the data by agreement with an average of itself, the teacher, at the next
lower noise level. It also follows the gradient of Q through both passes. It acts with one of many samples, drawn with
probability ``softmax(Q)``.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from dfp.agents.base.actor_critic import (
    ActorCritic,
    AgentState,
    Metrics,
    OneStepConfig,
    Params,
    in_blocks,
    per_step,
    take_candidates,
    td_loss,
    td_target,
)
from dfp.agents.base.batch import Batch
from dfp.agents.models.consistency import (
    SIGMA_MAX,
    Consistency,
    consistency_function,
    consistency_loss,
    draw_levels,
    karras_levels,
    level_weights,
    multistep,
)
from dfp.agents.models.networks import JointNetwork
from dfp.spec import PositiveInt

LAST_SIGMA = 2.0  # noise level of the last pass of a sample, as in the release


class Config(OneStepConfig):
    """CAC's settings; ``config/methods.yaml`` has the weight of Q by task."""

    name: str = "cac"
    eta: float = Field(ge=0.0, description="eta, weight of -Q / mean |Q|. No default: it is tuned for every task.")
    levels: int = Field(
        default=40, ge=2, description="Noise levels of the cloning. Our choice: 40. CAC's release: from 2 to 150."
    )
    sampling_steps: PositiveInt = Field(default=2, description="Passes from noise to an action. CAC's release: 2.")
    teacher_rate: float = Field(
        default=1e-3, gt=0.0, le=1.0, description="Rate of the teacher. CAC's release: 5e-3 at every fifth update."
    )
    samples: PositiveInt = Field(
        default=50, description="Samples when acting, of which one is drawn. CAC's release: 50."
    )
    backup_samples: PositiveInt = Field(
        default=10, description="Samples in the TD target, of which the best counts. FQL's authors, for OGBench: 10."
    )


@dataclasses.dataclass(frozen=True)
class Agent(ActorCritic):
    """CAC as pure functions of an :class:`AgentState`, whose anchor is the teacher."""

    config: Config
    pessimistic: ClassVar[bool] = True

    # -- losses

    def critic_loss(self, critic: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """TD loss with target ``y = r + gamma mask min_e max_i Q'_e(s', a'_i)``, ``a'_i`` samples of the teacher."""
        count = self.config.backup_samples
        observations = jnp.repeat(batch.next_observation, count, axis=0)
        noise = jax.random.normal(key, (observations.shape[0], self.noise_size))
        actions = jnp.clip(self.generate(state.anchor, observations, noise), -1.0, 1.0)
        next_values = self.values(state.target_critic, observations, actions)
        best = jnp.max(next_values.reshape(-1, batch.size, count), axis=-1)

        target = td_target(batch.return_, batch.discount, self.aggregate(best))
        values = self.values(critic, batch.observation, batch.action)
        loss = td_loss(values, target, batch.valid[:, -1])
        return loss, {"critic_loss": loss, "q_mean": jnp.mean(values), "target_mean": jnp.mean(target)}

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """``L_consistency + eta * (-mean Q(s, pi(s)) / mean |Q|)``."""
        levels_key, noise_key, action_key = jax.random.split(key, 3)

        # L_consistency: agree with the teacher at the next lower level.
        sigma, next_sigma = draw_levels(levels_key, karras_levels(self.config.levels), batch.size)
        noise = jax.random.normal(noise_key, batch.action.shape)
        weights = level_weights(sigma, next_sigma) * per_step(batch.valid, self.action_size)
        function = self.function(actor, batch.observation)
        teacher = self.function(state.anchor, batch.observation)
        bc_loss = consistency_loss(function, teacher, batch.action, noise, sigma, next_sigma, weights)

        # Q of the action as it would be executed; its gradient goes through all passes.
        z = jax.random.normal(action_key, (batch.size, self.noise_size))
        actions = jnp.clip(self.generate(actor, batch.observation, z), -1.0, 1.0)
        q = self.values(state.critic, batch.observation, actions)
        size = jax.lax.stop_gradient(jnp.mean(jnp.abs(q)))

        loss = bc_loss - self.config.eta * jnp.mean(q) / size
        return loss, {"bc_loss": bc_loss, "actor_q_mean": jnp.mean(q)}

    # -- policy

    @property
    def body(self) -> JointNetwork:
        """``F(s, c_in x, log(sigma) / 4)``: the actor body of Table 5."""
        return self.actor_body(self.observation_size, self.chunk_size, 1)

    def function(self, actor: Params, observation: Array) -> Consistency:
        """``f(x, sigma)`` at the states ``[..., S]``."""
        return consistency_function(functools.partial(self.body, actor, observation))

    @property
    def anchor_rate(self) -> float:
        return self.config.teacher_rate

    def init_actor(self, key: Array) -> Params:
        return self.body.init(key)

    @property
    def noise_size(self) -> int:
        return self.config.sampling_steps * self.chunk_size

    def generate(self, actor: Params, observation: Array, noise: Array) -> Array:
        """From the highest noise level to an action, in ``sampling_steps`` passes."""
        levels = jnp.linspace(SIGMA_MAX, LAST_SIGMA, self.config.sampling_steps)
        steps = noise.reshape(*noise.shape[:-1], self.config.sampling_steps, self.chunk_size)
        return multistep(self.function(actor, observation), steps, levels)

    # -- acting

    @property
    def best_of(self) -> int:
        return self.config.samples

    def acting(self, state: AgentState) -> tuple[Params, Params]:
        return state.actor, state.target_critic

    def sample_actions(self, state: AgentState, observation: Array, keys: Array) -> Array:
        """One of the samples, drawn by ``softmax(Q)``: ``[B, S], [B] keys -> [B, D]`` in [-1, 1]."""

        def draw(observation: Array, keys: Array) -> Array:
            noise_keys, draw_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
            actions, scores = self.scored_candidates(*self.acting(state), observation, noise_keys, self.best_of)
            chosen = jax.vmap(jax.random.categorical)(draw_keys, scores)
            return take_candidates(actions, chosen[:, None])[:, 0]

        return in_blocks(draw, observation, keys, count=self.best_of)
