"""Drifting Field Policy (Algorithm 1). A one-pass policy ``a = f(eps, s)``, trained with the drifting loss.

The offline phase minimises ``L_BC`` (Eq. 18), in which the data action is the only positive of a state. The online
phase adds ``lambda L_topK`` (Eq. 16), in which the positives are the K best of N candidates of pi_old. Both terms use
the same samples. Without ``top_k`` this is DFP w/o top-K.

The lines of Algorithm 1 are ``ActorCritic.start_improving`` (pi_old := pi), ``ActorCritic.sample_actions`` (best of
N'), ``ActorCritic.top_candidates`` (Eq. 15), ``Agent.actor_loss`` (Eqs. 16, 18), ``ActorCritic.critic_loss`` (Eq. 1)
and ``ActorCritic.update`` (the averages).
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float
from pydantic import Field

from dfp.agents.base.actor_critic import AgentState, Metrics, Params, TopK, TopKPolicyConfig, per_step
from dfp.agents.base.batch import Batch
from dfp.drift import Normalisation, drift_loss, drifting_field
from dfp.spec import PositiveInt


class Config(TopKPolicyConfig):
    """Table 5's values for OGBench; ``config/methods.yaml`` has those for Robomimic."""

    name: str = "dfp"
    samples: PositiveInt = Field(default=8, description="G (N_gen), generated samples per state. Table 5: 8.")
    bandwidths: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(
        default=(0.05,),
        min_length=1,
        description="h, kernel bandwidths. Table 5: {0.05}, on Robomimic {0.005, 0.05}; the release: 0.1.",
    )
    normalisation: Normalisation = Field(
        default="joint", description="`joint`: the released algorithm; `mean_shift`: Eq. 3 (`dfp/drift.py`)."
    )
    mask_invalid: bool = Field(
        default=False, description="Leave steps after an episode's end out of the drift loss. The release does not."
    )


@dataclasses.dataclass(frozen=True)
class Agent(TopK):
    """DFP as pure functions of an :class:`AgentState`."""

    config: Config

    # -- losses

    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """``L_BC + lambda L_topK``: one set of samples, two sets of positives."""
        samples_key, candidates_key = jax.random.split(key)
        samples = self.generated_samples(actor, batch.observation, samples_key)
        weights = per_step(batch.valid, self.action_size) if self.config.mask_invalid else None

        # L_BC (Eq. 18): the positive is the action in the data.
        loss, metrics = self.loss_towards(batch.action[:, None, :], samples, weights)
        metrics = {f"bc_{name}": value for name, value in metrics.items()}
        if self.config.top_k is None or self.config.top_k.weight == 0.0:
            return loss, metrics

        # L_topK (Eq. 16): the positives are the best candidates of pi_old by the critic.
        favourites = self.top_candidates(state, batch.observation, candidates_key, self.config.top_k)
        top_k_loss, top_k_metrics = self.loss_towards(favourites, samples, weights)
        metrics |= {f"top_k_{name}": value for name, value in top_k_metrics.items()}
        return loss + self.config.top_k.weight * top_k_loss, metrics

    def loss_towards(
        self,
        positives: Float[Array, "B K D"],
        samples: Float[Array, "B G D"],
        weights: Float[Array, "B D"] | None,
    ) -> tuple[Float[Array, ""], Metrics]:
        """The drifting loss (Eq. 4) of the samples with these positives."""
        field = drifting_field(
            samples, positives, bandwidths=self.config.bandwidths, normalisation=self.config.normalisation
        )
        loss = drift_loss(samples, field, weights)
        return loss, {"loss": loss, "field_strength": field.strength, "mean_distance": field.distance}

    # -- policy

    def init_actor(self, key: Array) -> Params:
        return self.generator.init(key)

    def generate(self, actor: Params, observation: Array, noise: Array) -> Array:
        """``a = f(eps, s)`` (Eq. 9)."""
        return self.generator(actor, observation, noise)

    def generated_samples(self, actor: Params, observation: Float[Array, "B S"], key: Array) -> Float[Array, "B G D"]:
        """G samples of each state, clipped to the action range, with gradient."""
        # One matrix of B * G rows: with two batch axes the gradient of the weights takes 1.4 times as long on a CPU.
        repeated = jnp.repeat(observation, self.config.samples, axis=0)
        noise = jax.random.normal(key, (repeated.shape[0], self.chunk_size))
        samples = jnp.clip(self.generate(actor, repeated, noise), -1.0, 1.0)
        return samples.reshape(-1, self.config.samples, self.chunk_size)
