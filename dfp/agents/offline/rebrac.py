"""ReBRAC (Tarasov et al. 2023): TD3+BC with separate penalties for actor and critic, as in FQL's release.

The actor is deterministic, with a tanh. Its loss has two terms: the value, and ``alpha_1`` times the squared distance
to the action of the data. The next action of the TD target comes from a target actor, with noise. The target
subtracts ``alpha_2`` times the squared distance between this action and the next action of the data. The actor and
all targets move at every second update (TD3).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float
from pydantic import Field

from dfp.agents.base.actor_critic import (
    AgentState,
    Deterministic,
    Metrics,
    OneStepConfig,
    Params,
    per_step,
    td_loss,
    td_target,
)
from dfp.agents.base.batch import Batch

ACTOR_EVERY = 2  # critic updates per actor update
OUTPUT_SCALE = 0.1  # factor on the initial weights of the actor's last layer, which keeps tanh away from saturation


class Config(OneStepConfig):
    """ReBRAC's settings; ``config/methods.yaml`` has the two weights by task."""

    name: str = "rebrac"
    alpha_actor: float = Field(
        ge=0.0, description="alpha_1, weight of the actor's penalty. No default: it is tuned for every task."
    )
    alpha_critic: float = Field(
        ge=0.0, description="alpha_2, weight of the penalty in the TD target. No default: it is tuned for every task."
    )
    target_noise: float = Field(
        default=0.2, ge=0.0, description="Standard deviation of the target action's noise. TD3, FQL's release: 0.2."
    )
    target_noise_clip: float = Field(
        default=0.5, ge=0.0, description="That noise is clipped to plus or minus this. TD3, FQL's release: 0.5."
    )


# --------------------------------------------------------------------------- equations


def distance(
    action: Float[Array, "B D"], other: Float[Array, "B D"], weights: Float[Array, "B D"]
) -> Float[Array, " B"]:
    """``sum_d weights_d (a_d - a'_d)^2``."""
    return jnp.sum(weights * jnp.square(action - other), axis=-1)


def smoothed(
    action: Float[Array, "B D"], noise: Float[Array, "B D"], scale: float, bound: float
) -> Float[Array, "B D"]:
    """TD3's target action, ``clip(a + clip(scale * noise, -bound, bound), -1, 1)``."""
    return jnp.clip(action + jnp.clip(scale * noise, -bound, bound), -1.0, 1.0)


# --------------------------------------------------------------------------- the agent


@dataclasses.dataclass(frozen=True)
class Agent(Deterministic):
    """ReBRAC as pure functions of an :class:`AgentState`, whose anchor is the target actor."""

    config: Config
    pessimistic: ClassVar[bool] = True

    # -- losses

    def critic_loss(self, critic: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """TD loss with target ``y = r + gamma mask (min_e Q'_e(s', a') - alpha_2 |a' - a'_data|^2)``."""
        assert batch.next_action is not None
        assert batch.next_valid is not None

        # a': the target actor's action, with noise.
        noise = jax.random.normal(key, batch.action.shape)
        action = self.generate(state.anchor, batch.next_observation, noise)
        action = smoothed(action, noise, self.config.target_noise, self.config.target_noise_clip)

        # No penalty if the episode ends, because the data has no next action there.
        penalty = distance(action, batch.next_action, per_step(batch.next_valid, self.action_size))

        next_value = self.aggregate(self.values(state.target_critic, batch.next_observation, action))
        target = td_target(batch.return_, batch.discount, next_value - self.config.alpha_critic * penalty)
        values = self.values(critic, batch.observation, batch.action)
        loss = td_loss(values, target, batch.valid[:, -1])
        return loss, {
            "critic_loss": loss, "q_mean": jnp.mean(values), "target_mean": jnp.mean(target),
            "next_penalty": jnp.mean(penalty),
        }  # fmt: skip

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """``-mean Q(s, pi(s)) / mean |Q| + alpha_1 mean |pi(s) - a|^2``, with Q the smaller critic."""
        action = self.generate(actor, batch.observation, batch.action)
        q = self.aggregate(self.values(state.critic, batch.observation, action))
        size = jax.lax.stop_gradient(jnp.mean(jnp.abs(q)))
        penalty = jnp.mean(distance(action, batch.action, per_step(batch.valid, self.action_size)))
        loss = self.config.alpha_actor * penalty - jnp.mean(q) / size
        return loss, {"bc_loss": penalty, "actor_q_mean": jnp.mean(q)}

    # -- policy

    @property
    def reads_next_action(self) -> bool:
        return True

    @property
    def anchor_rate(self) -> float:
        return self.training.target_update_rate

    def init_actor(self, key: Array) -> Params:
        actor = super().init_actor(key)
        output = actor["params"][f"Dense_{self.network.depth}"]
        output["kernel"] = OUTPUT_SCALE * output["kernel"]
        return actor

    def generate(self, actor: Params, observation: Array, noise: Array) -> Array:
        """``pi(s)``, in (-1, 1). The noise is ignored."""
        return jnp.tanh(super().generate(actor, observation, noise))

    # -- learning

    @property
    def optimiser(self) -> optax.GradientTransformation:
        """One Adam each, so that the actor's Adam counts the actor's steps."""
        adam = optax.adam(self.training.learning_rate)
        return optax.partition({"actor": adam, "critic": adam}, {"actor": "actor", "critic": "critic"})

    def update(self, state: AgentState, batch: Batch, key: Array) -> tuple[AgentState, Metrics]:
        """A step of the critic; at updates 2, 4, ... also of the actor and the averages."""
        moved, metrics = super().update(state, batch, key)
        before: optax.PartitionState = state.optimiser  # pyright: ignore
        adams = moved.optimiser.inner_states | {"actor": before.inner_states["actor"]}  # pyright: ignore
        held = state._replace(critic=moved.critic, optimiser=before._replace(inner_states=adams))
        made = optax.tree.get(before.inner_states["critic"], "count")
        due = (made + 1) % ACTOR_EVERY == 0
        return jax.tree.map(lambda new, old: jnp.where(due, new, old), moved, held), metrics
