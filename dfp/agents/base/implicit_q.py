"""IQL's critics (Kostrikov et al. 2022), which never evaluate an action outside the data.

``V(s)`` is an expectile of ``min_e Qtarget_e(s, a)`` over the actions ``a`` in the data. With ``expectile`` near 1, it
is close to the value of the best action in the data. ``Q`` bootstraps from ``V``, so the critics do not depend on the
policy. IQL, IFQL, IDQL and SRPO differ in the policy that they extract from these critics.

Shapes: ``B`` batch, ``S`` state, ``D`` flattened action chunk, ``E`` critics.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float
from pydantic import Field

from dfp.agents.base.actor_critic import ActorCritic, AgentState, Metrics, OneStepConfig, Params, td_loss, td_target
from dfp.agents.base.batch import Batch
from dfp.agents.models.networks import MLP

MAX_WEIGHT = 100.0


class ImplicitQConfig(OneStepConfig):
    """Settings of every method with these critics."""

    expectile: float = Field(
        default=0.9,
        gt=0.0,
        lt=1.0,
        description="kappa: V is this expectile of the values of the data's actions. FQL's release: 0.9 for IQL and "
        "IFQL; our choice for IDQL and SRPO, whose releases have 0.7 (SRPO on mazes 0.9).",
    )


# --------------------------------------------------------------------------- equations


def expectile_loss(
    value: Float[Array, " B"], target: Float[Array, " B"], expectile: float, valid: Float[Array, " B"]
) -> Float[Array, ""]:
    """``mean_b valid |kappa - 1(y < v)| (y - v)^2`` (IQL's Eq. 5). With expectile 0.5 it is half the squared error."""
    weight = jnp.where(target < value, 1.0 - expectile, expectile)
    return jnp.mean(valid * weight * jnp.square(target - value))


def advantage_weights(advantage: Float[Array, "*any"], inverse_temperature: float) -> Float[Array, "*any"]:
    """``min(exp(alpha A), 100)``, the weight of an action in the cloning loss (IQL's Eq. 7)."""
    # Clip before exp(): the exponential of a large advantage overflows.
    return jnp.exp(jnp.minimum(inverse_temperature * advantage, jnp.log(MAX_WEIGHT)))


# --------------------------------------------------------------------------- the critics


@dataclasses.dataclass(frozen=True)
class StateValue(ActorCritic):
    """An ensemble ``Q`` and a network ``V(s)``. Parameters: ``{"q": ..., "v": ...}``; only ``q`` has a target."""

    @property
    def value_network(self) -> MLP:
        return MLP(self.network.width, self.network.depth, 1, layer_norm=True)

    def init_critic(self, key: Array) -> Params:
        q_key, v_key = jax.random.split(key)
        value = self.value_network.init(v_key, jnp.zeros((1, self.observation_size)))
        return {"q": super().init_critic(q_key), "v": value}

    def targeted(self, critic: Params) -> Params:
        return critic["q"]

    def state_value(self, value: Params, observation: Array) -> Array:
        """``V(s)``: ``[..., S] -> [...]``."""
        return self.value_network.apply(value, observation)[..., 0]  # pyright: ignore

    def acting(self, state: AgentState) -> tuple[Params, Params]:
        return state.actor, state.critic["q"]


@dataclasses.dataclass(frozen=True)
class ImplicitQ(StateValue):
    """``V`` is an expectile, and ``Q`` bootstraps from it."""

    config: ImplicitQConfig
    pessimistic: ClassVar[bool] = True

    # -- losses

    def critic_loss(self, critic: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """``L_V + L_Q``. Each uses the other's parameters from before the update."""
        valid = batch.valid[:, -1]

        # L_V: towards the expectile of the target critics.
        pessimistic = self.aggregate(self.values(state.target_critic, batch.observation, batch.action))
        value = self.state_value(critic["v"], batch.observation)
        value_loss = expectile_loss(value, pessimistic, self.config.expectile, valid)

        # L_Q: y = r + gamma mask V(s').
        target = td_target(batch.return_, batch.discount, self.state_value(state.critic["v"], batch.next_observation))
        values = self.values(critic["q"], batch.observation, batch.action)
        critic_loss = td_loss(values, target, valid)

        metrics = {
            "value_loss": value_loss, "v_mean": jnp.mean(value), "critic_loss": critic_loss, "q_mean": jnp.mean(values),
            "target_mean": jnp.mean(target),
        }  # fmt: skip
        return value_loss + critic_loss, metrics

    def advantage(self, state: AgentState, observation: Array, action: Array) -> Array:
        """``A(s, a) = min_e Q_e(s, a) - V(s)`` of the online critics: ``[..., S], [..., D] -> [...]``."""
        q = self.aggregate(self.values(state.critic["q"], observation, action))
        return q - self.state_value(state.critic["v"], observation)
