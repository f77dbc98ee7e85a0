"""Mean Velocity Policy: a one-step MeanFlow policy with an instantaneous-velocity constraint (Zhan et al. 2026).

Time runs from data (t = 0) to noise (t = 1): ``z_t = (1 - t) a + t eps``, velocity ``v = eps - a``. The network
``u(s, z, r, t)`` is the mean velocity over [r, t], so one step takes noise to an action: ``a = eps - u(s, eps, 0, 1)``.
With ``top_k`` the same loss also applies to the K best candidates of pi_old (MVP w/ top-K, Table 2).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float
from pydantic import Field

from dfp.agents.base.actor_critic import AgentState, Metrics, Params, TopK, TopKPolicyConfig, per_step
from dfp.agents.base.batch import Batch
from dfp.agents.models.networks import JointNetwork


class Config(TopKPolicyConfig):
    """The settings of the authors' release for MVP."""

    name: str = "mvp"
    ivc_weight: float = Field(
        default=1.0, ge=0.0, description="Weight of the instantaneous-velocity constraint. Release: 1."
    )
    time_mean: float = Field(default=-0.4, description="Times are sigmoids of a normal of this mean. MeanFlow: -0.4.")
    time_std: float = Field(default=1.0, gt=0.0, description="Standard deviation of that normal. MeanFlow: 1.")


@dataclasses.dataclass(frozen=True)
class Agent(TopK):
    """MVP as pure functions of an :class:`AgentState`."""

    config: Config

    # -- losses

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """``L_MVP(data action)`` plus, online, ``weight * mean over K of L_MVP(positive)``."""
        data_key, candidates_key, positives_key = jax.random.split(key, 3)

        loss, metrics = self.imitation_loss(actor, batch.observation, batch.action, batch.valid, data_key)
        metrics = {f"bc_{name}": value for name, value in metrics.items()}
        if self.config.top_k is None or self.config.top_k.weight == 0.0:
            return loss, metrics

        # Each positive is a separate regression target, with its own noise and times.
        favourites = self.top_candidates(state, batch.observation, candidates_key, self.config.top_k)
        count = self.config.top_k.positives
        observation = jnp.repeat(batch.observation, count, axis=0)
        actions = favourites.reshape(-1, favourites.shape[-1])
        top_k_loss, top_k_metrics = self.imitation_loss(
            actor, observation, actions, jnp.ones((actions.shape[0], self.chunk)), positives_key
        )
        metrics |= {f"top_k_{name}": value for name, value in top_k_metrics.items()}
        return loss + self.config.top_k.weight * top_k_loss, metrics

    def imitation_loss(
        self,
        actor: Params,
        observation: Float[Array, "B S"],
        action: Float[Array, "B D"],
        valid: Float[Array, "B H"],
        key: Array,
    ) -> tuple[Float[Array, ""], Metrics]:
        """``L_MF + lambda_IVC L_IVC`` of states and actions. ``valid`` is the weight of each step."""
        noise_key, time_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, action.shape)
        r, t = self.sample_times(time_key, action.shape[0])
        velocity = noise - action
        weights = per_step(valid, self.action_size)

        def mean_velocity(z: Array, r: Array, t: Array) -> Array:
            return self.mean_velocity(actor, observation, z, r, t)

        # L_MF: the MeanFlow identity u = v - (t - r) du/dt.
        u, target = mean_flow_target(mean_velocity, interpolate(action, noise, t), velocity, r, t)
        mean_flow = jnp.mean(weights * jnp.square(u - target))
        if self.config.ivc_weight == 0.0:
            return mean_flow, {"loss": mean_flow}

        # L_IVC: over an interval of length 0 the mean velocity is the velocity.
        instantaneous = mean_velocity(interpolate(action, noise, r), r, r)
        constraint = jnp.mean(weights * jnp.square(instantaneous - velocity))
        loss = mean_flow + self.config.ivc_weight * constraint
        return loss, {"loss": loss, "mean_flow_loss": mean_flow, "ivc_loss": constraint}

    def sample_times(self, key: Array, count: int) -> tuple[Float[Array, "{count} 1"], Float[Array, "{count} 1"]]:
        """Two draws of ``sigmoid(N(mean, std))`` for each of ``count`` rows, the smaller first: ``r <= t``."""
        draws = self.config.time_mean + self.config.time_std * jax.random.normal(key, (2, count, 1))
        times = jax.nn.sigmoid(draws)
        return jnp.min(times, axis=0), jnp.max(times, axis=0)

    # -- policy

    @property
    def velocity_network(self) -> JointNetwork:
        return self.actor_body(self.observation_size, self.chunk_size, 1, 1)

    def init_actor(self, key: Array) -> Params:
        return self.velocity_network.init(key)

    def mean_velocity(
        self,
        actor: Params,
        observation: Float[Array, "*rows S"],
        z: Float[Array, "*rows D"],
        r: Float[Array, "*rows 1"],
        t: Float[Array, "*rows 1"],
    ) -> Float[Array, "*rows D"]:
        """``u(s, z, r, t)``, the mean velocity over [r, t]."""
        return self.velocity_network(actor, observation, z, r, t)

    def generate(self, actor: Params, observation: Array, noise: Array) -> Array:
        """``a = eps - u(s, eps, 0, 1)``."""
        zero = jnp.zeros((*noise.shape[:-1], 1))
        return noise - self.mean_velocity(actor, observation, noise, zero, zero + 1.0)


def interpolate(action: Float[Array, "B D"], noise: Float[Array, "B D"], t: Float[Array, "B 1"]) -> Float[Array, "B D"]:
    """``z_t = (1 - t) a + t eps``."""
    return (1.0 - t) * action + t * noise


def mean_flow_target(
    mean_velocity: Callable[[Array, Array, Array], Array],
    z: Float[Array, "B D"],
    velocity: Float[Array, "B D"],
    r: Float[Array, "B 1"],
    t: Float[Array, "B 1"],
) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
    """``u(z, r, t)`` and its target ``sg[v - (t - r) du/dt]``. Along the path ``dz/dt = v`` and ``r`` is constant.

    Args:
      mean_velocity: ``u`` as a function of ``z``, ``r`` and ``t``.
      z: point on the path at ``t``.
      velocity: ``v``.
      r, t: interval.
    """
    tangents = (velocity, jnp.zeros_like(r), jnp.ones_like(t))
    u, du_dt = jax.jvp(mean_velocity, (z, r, t), tangents)
    return u, jax.lax.stop_gradient(velocity - (t - r) * du_dt)
