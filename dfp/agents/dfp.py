"""Drifting Field Policy (Algorithm 1). A one-pass policy ``a = f(eps, s)``, trained with the drifting loss.

Offline ``L_BC`` (Eq. 18): the one positive of a state is its data action. Online ``L_BC + lambda L_topK`` (Eq. 16): the
same samples are also drawn to the K best of N candidates of pi_old. Without ``top_k`` this is DFP w/o top-K.
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from dfp.agents.actor_critic import AgentState, Metrics, Params, Positive, TopK, TopKPolicyConfig, per_step
from dfp.drift import Normalisation, drift_loss, drifting_field
from dfp.flops import MLPWork, mlp_work
from dfp.networks import MLP
from dfp.replay import Batch


class Config(TopKPolicyConfig):
    """Table 5, OGBench column; Robomimic's differences stand in ``config/methods.yaml``."""

    name: str = "dfp"
    samples: Positive = Field(default=8, description="G (N_gen), generated samples per state. Table 5: 8.")
    bandwidths: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(
        default=(0.05,),
        min_length=1,
        description="h, kernel bandwidths. Table 5: {0.05} / {0.005, 0.05}; the release: 0.1.",
    )
    normalisation: Normalisation = Field(
        default="joint", description="`joint`, the released algorithm, or `mean_shift`, Eq. 3 to the letter (drift.py)."
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

        # L_topK (Eq. 16): the positives are the critic's favourites among candidates of pi_old.
        favourites = self.top_candidates(state, batch.observation, candidates_key, self.config.top_k)
        top_k_loss, top_k_metrics = self.loss_towards(favourites, samples, weights)
        metrics |= {f"top_k_{name}": value for name, value in top_k_metrics.items()}
        return loss + self.config.top_k.weight * top_k_loss, metrics

    def loss_towards(self, positives: Array, samples: Array, weights: Array | None) -> tuple[Array, Metrics]:
        """The drifting loss of ``[B, G, D]`` samples with ``[B, K, D]`` positives."""
        field = drifting_field(
            samples, positives, bandwidths=self.config.bandwidths, normalisation=self.config.normalisation
        )
        loss = drift_loss(samples, field, weights)
        return loss, {"loss": loss, "field_strength": field.strength, "mean_distance": field.distance}

    # -- policy

    @property
    def actor_network(self) -> MLP:
        return MLP(self.network.width, self.network.depth, self.chunk_size)

    def init_actor(self, key: Array) -> Params:
        inputs = jnp.zeros((1, self.observation_size + self.chunk_size))
        return self.actor_network.init(key, inputs)

    def generate(self, actor: Params, observation: Array, noise: Array) -> Array:
        """``a = f(eps, s)`` (Eq. 9)."""
        return self.actor_network.apply(actor, jnp.concatenate([observation, noise], axis=-1))  # pyright: ignore

    def generated_samples(self, actor: Params, observation: Array, key: Array) -> Array:
        """G samples of each state, clipped to the action range, with gradient: ``[B, S] -> [B, G, D]``."""
        # One matrix of rows: contracting over two batch axes makes the weights' gradient 1.4 times slower on a CPU.
        repeated = jnp.repeat(observation, self.config.samples, axis=0)
        noise = jax.random.normal(key, (repeated.shape[0], self.chunk_size))
        samples = jnp.clip(self.generate(actor, repeated, noise), -1.0, 1.0)
        return samples.reshape(-1, self.config.samples, self.chunk_size)

    # -- work

    @property
    def actor_work(self) -> MLPWork:
        return mlp_work(self.observation_size + self.chunk_size, self.chunk_size, self.network)

    def actor_loss_work(self) -> float:
        candidates = self.candidate_work(self.config.top_k.candidates) if self.config.top_k else 0.0
        return candidates + self.config.samples * self.actor_work.forward_and_backward
