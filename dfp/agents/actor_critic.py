"""What every method shares: its state, the TD target, Polyak averaging, best-of-N and the top-K candidates.

Shapes: ``B`` batch, ``H`` chunk length, ``A`` action dimension, ``D = H * A`` flattened chunk (row-major), ``S`` state,
``N`` candidates, ``K`` positives, ``E`` critics.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax
from jax import Array
from pydantic import Field

from dfp.flops import MLPWork, mlp_work
from dfp.networks import MLP, EnsembleCritic
from dfp.replay import Batch
from dfp.spec import AgentConfig, Closed, NetworkSpec, TrainingSpec

Params = Any
Metrics = dict[str, Array]
Positive = Annotated[int, Field(gt=0)]

# Candidates per block in which they are drawn and scored on a CPU: fewer make slow products, more leave the cache.
CPU_BLOCK = 1024


class TopKConfig(Closed):
    """Policy improvement by imitation of the best candidates of an EMA policy (Eqs. 15, 16; Algorithm 1)."""

    weight: float = Field(default=0.5, ge=0.0, description="lambda, weight of the top-K term. Table 5: 0.5.")
    candidates: Positive = Field(default=16, description="N, candidates drawn per state. Table 5: 16.")
    positives: Positive = Field(
        default=4, description="K, best candidates that become positives. Table 5: 4 on OGBench, 2 on Robomimic."
    )
    ema_rate: float = Field(
        default=1e-4, gt=0.0, le=1.0, description="tau_EMA of the policy that draws them. Table 5: 1e-4."
    )

    def model_post_init(self, _: Any) -> None:
        if self.positives > self.candidates:
            raise ValueError(f"'positives' ({self.positives}) is larger than 'candidates' ({self.candidates})")


class PolicyConfig(AgentConfig):
    """What every policy here has."""

    chunk: Positive = Field(default=5, description="H, actions per chunk. Table 5: 5; 1 for FQL and BFN.")


class OneStepConfig(PolicyConfig):
    """A policy of the offline table: one action at a time."""

    chunk: Positive = Field(default=1, description="H, actions per chunk. Table 7: 1.")


class BestOfNConfig(PolicyConfig):
    """A policy that acts by the critic's favourite among its own samples."""

    best_of: Positive = Field(
        default=16,
        description="N', candidates when acting and in the TD target. Table 5: 16 on OGBench, 4 on Robomimic.",
    )


class TopKPolicyConfig(BestOfNConfig):
    """A policy that also improves by imitation of its best candidates."""

    top_k: TopKConfig | None = Field(default=TopKConfig(), description="Policy improvement online; null: none.")

    def offline_phase(self) -> Self:
        """The offline loss imitates the data alone, whatever K, N and lambda are."""
        return self.model_copy(update={"top_k": None})


class AgentState(NamedTuple):
    """Everything an update changes."""

    actor: Params
    critic: Params
    target_critic: Params  # of the part of the critic that has a target
    anchor: Params | None  # pi_old, an average of the policy, only where the method has one
    optimiser: optax.OptState


# --------------------------------------------------------------------------- equations


def td_target(return_: Array, discount: Array, next_value: Array) -> Array:
    """``y = sum_{j<H} gamma^j r_{t+j} + gamma^H mask Q'(s', a')``, Eq. 1 over a chunk; ``discount = gamma^H mask``."""
    return return_ + discount * next_value


def td_loss(values: Array, target: Array, valid: Array) -> Array:
    """``mean_{e,b} valid (Q_e - y)^2``: ``[E, B], [B], [B] -> []``; a chunk that ran past its episode is no sample."""
    return jnp.mean(valid[None] * jnp.square(values - target[None]))


def polyak(new: Params, old: Params, rate: float) -> Params:
    """``rate * new + (1 - rate) * old``, leaf by leaf."""
    return optax.incremental_update(new, old, rate)


def per_step(valid: Array, action_size: int) -> Array:
    """Repeat a per-step mask over action coordinates: ``[B, H] -> [B, D]``."""
    return jnp.repeat(valid, action_size, axis=-1)


def take_candidates(actions: Array, chosen: Array) -> Array:
    """Candidates by number: ``[B, N, D], [B, K] -> [B, K, D]``."""
    return jnp.take_along_axis(actions, chosen[..., None], axis=1)


def in_blocks(function: Callable[..., Any], *arrays: Array, count: int) -> Any:
    """``function(*arrays)`` of independent rows with ``count`` candidates each; on a CPU in blocks of rows."""
    rows, size = arrays[0].shape[0], max(CPU_BLOCK // count, 1)
    if jax.default_backend() != "cpu" or rows % size:
        return function(*arrays)
    blocks = [array.reshape(-1, size, *array.shape[1:]) for array in arrays]
    results = jax.lax.map(lambda block: function(*block), blocks)
    return jax.tree.map(lambda result: result.reshape(rows, *result.shape[2:]), results)


# --------------------------------------------------------------------------- the agent


@dataclasses.dataclass(frozen=True)
class ActorCritic(abc.ABC):
    """A policy with an ensemble critic. A method adds ``config``, the policy and its loss."""

    network: NetworkSpec
    training: TrainingSpec
    observation_size: int
    action_size: int
    config: PolicyConfig

    @property
    def chunk(self) -> int:
        """H, actions per chunk."""
        return self.config.chunk

    @property
    def chunk_size(self) -> int:
        """D = H * A, the width of a flattened chunk."""
        return self.config.chunk * self.action_size

    @property
    def best_of(self) -> int:
        """N', candidates when acting and in the TD target; 1: the policy's own sample."""
        return 1

    @property
    def top_k(self) -> TopKConfig | None:
        """Policy improvement by the best candidates of pi_old; None: there is none."""
        return None

    @property
    def anchor_rate(self) -> float | None:
        """Rate per update at which pi_old follows the policy; None: there is no pi_old."""
        return None if self.top_k is None else self.top_k.ema_rate

    @property
    def reads_next_action(self) -> bool:
        """Whether a loss reads the data's own next action, ``batch.next_action`` and ``batch.next_valid``."""
        return False

    # -- what a method brings

    @abc.abstractmethod
    def init_actor(self, key: Array) -> Params:
        """Fresh actor parameters."""

    @abc.abstractmethod
    def generate(self, actor: Params, observation: Array, noise: Array) -> Array:
        """The policy: ``[..., S], [..., noise_size] -> [..., D]``, not clipped."""

    @abc.abstractmethod
    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """The method's loss; the critic inside it is frozen."""

    @property
    @abc.abstractmethod
    def actor_work(self) -> MLPWork:
        """One pass of the network that acts."""

    @abc.abstractmethod
    def actor_loss_work(self) -> float:
        """Matrix-multiply FLOP of the actor loss and its gradient, per row of the batch."""

    # -- critic

    @property
    def critic_network(self) -> EnsembleCritic:
        return EnsembleCritic(self.network.width, self.network.depth, self.network.ensemble_size)

    def init_critic(self, key: Array) -> Params:
        """Fresh critic parameters, whatever the critic loss trains."""
        observation = jnp.zeros((1, self.observation_size))
        action = jnp.zeros((1, self.chunk_size))
        return self.critic_network.init(key, observation, action)

    def targeted(self, critic: Params) -> Params:
        """The part of the critic that has a target."""
        return critic

    def values(self, critic: Params, observation: Array, action: Array) -> Array:
        """``Q_e(s, a)``: ``[..., S], [..., D] -> [E, ...]``."""
        return self.critic_network.apply(critic, observation, action)  # pyright: ignore[reportReturnType]

    def aggregate(self, values: Array) -> Array:
        """The ensemble's one value, ``[E, ...] -> [...]``: the mean (Table 5)."""
        return jnp.mean(values, axis=0)

    def critic_loss(self, critic: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """Eq. 1 over a chunk; the next action comes from the routine that acts, the target critic values it."""
        next_action = self.sample_actions(state, batch.next_observation, jax.random.split(key, batch.size))
        next_value = self.aggregate(self.values(state.target_critic, batch.next_observation, next_action))
        target = jax.lax.stop_gradient(td_target(batch.return_, batch.discount, next_value))
        values = self.values(critic, batch.observation, batch.action)
        loss = td_loss(values, target, batch.valid[:, -1])
        return loss, {"critic_loss": loss, "q_mean": jnp.mean(values), "target_mean": jnp.mean(target)}

    # -- acting

    @property
    def noise_size(self) -> int:
        """Gaussian numbers that a sample of the policy is made from."""
        return self.chunk_size

    def acting(self, state: AgentState) -> tuple[Params, Params]:
        """The actor that proposes and the ensemble that ranks, when the policy acts: the live ones."""
        return state.actor, state.critic

    def sample_actions(self, state: AgentState, observation: Array, keys: Array) -> Array:
        """Chunks to execute, best of N': ``[B, S], [B] keys -> [B, D]`` in [-1, 1].

        A row's result depends on its own state and key alone.
        """

        def best(observation: Array, keys: Array) -> Array:
            actions, scores = self.scored_candidates(*self.acting(state), observation, keys, self.best_of)
            return take_candidates(actions, jnp.argmax(scores, axis=1, keepdims=True))[:, 0]

        return in_blocks(best, observation, keys, count=self.best_of)

    def top_candidates(self, state: AgentState, observation: Array, key: Array, top_k: TopKConfig) -> Array:
        """Eq. 15: the K best of N candidates of pi_old, ``[B, S] -> [B, K, D]``, in [-1, 1], best first."""

        def best(observation: Array, keys: Array) -> Array:
            actions, scores = self.scored_candidates(state.anchor, state.critic, observation, keys, top_k.candidates)
            return take_candidates(actions, jax.lax.top_k(scores, top_k.positives)[1])

        return in_blocks(best, observation, jax.random.split(key, observation.shape[0]), count=top_k.candidates)

    def scored_candidates(
        self, actor: Params, critic: Params, observation: Array, keys: Array, count: int
    ) -> tuple[Array, Array]:
        """Candidates of each state and their values: ``[B, S], [B] keys -> [B, N, D], [B, N]``.

        Of one matrix of B * N rows, whose products are faster than those of B matrices.
        """
        observations = jnp.repeat(observation, count, axis=0)
        noise = jax.vmap(lambda key: jax.random.normal(key, (count, self.noise_size)))(keys)
        actions = jnp.clip(self.generate(actor, observations, noise.reshape(-1, self.noise_size)), -1.0, 1.0)
        if count == 1:
            scores = jnp.zeros(actions.shape[0])
        else:
            scores = self.aggregate(self.values(critic, observations, actions))
        return actions.reshape(-1, count, self.chunk_size), scores.reshape(-1, count)

    # -- work

    @property
    def generate_work(self) -> float:
        """Matrix-multiply FLOP of one :meth:`generate`; a policy of several passes says so here."""
        return self.actor_work.forward

    def candidate_work(self, count: int) -> float:
        """Matrix-multiply FLOP of drawing and scoring ``count`` candidates of one state."""
        return count * (self.generate_work + (self.critic_work.forward if count > 1 else 0.0))

    @property
    def critic_work(self) -> MLPWork:
        """One state-action pair through the ensemble."""
        work = mlp_work(self.observation_size + self.chunk_size, 1, self.network)
        return MLPWork(work.first * self.network.ensemble_size, work.rest * self.network.ensemble_size)

    @property
    def action_gradient_work(self) -> float:
        """One state-action pair through the frozen ensemble and back to the action, D of its S + D inputs."""
        work, share = self.critic_work, self.chunk_size / (self.observation_size + self.chunk_size)
        return work.forward + work.rest + share * work.first

    def critic_loss_work(self) -> float:
        """Matrix-multiply FLOP of the critic loss, its target and its gradient, per row of the batch."""
        target = self.candidate_work(self.best_of) + self.critic_work.forward
        return target + self.critic_work.forward_and_backward

    def update_work(self) -> float:
        """Matrix-multiply FLOP of one update: critic loss and actor loss."""
        return self.training.batch_size * (self.critic_loss_work() + self.actor_loss_work())

    # -- learning

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.training.learning_rate)

    def init(self, key: Array) -> AgentState:
        """Fresh parameters; the target critic starts as a copy."""
        actor_key, critic_key = jax.random.split(key)
        actor, critic = self.init_actor(actor_key), self.init_critic(critic_key)
        target_critic = jax.tree.map(jnp.copy, self.targeted(critic))
        optimiser = self.optimiser.init({"actor": actor, "critic": critic})
        return self.start_improving(AgentState(actor, critic, target_critic, None, optimiser))

    def start_improving(self, state: AgentState) -> AgentState:
        """Algorithm 1, first line: ``pi_old := pi``, where the method has one."""
        anchor = None if self.anchor_rate is None else jax.tree.map(jnp.copy, state.actor)
        return state._replace(anchor=anchor)

    def update(self, state: AgentState, batch: Batch, key: Array) -> tuple[AgentState, Metrics]:
        """One Adam step on critic loss + actor loss, then the Polyak averages."""
        critic_key, actor_key = jax.random.split(key)

        def loss(params: Params) -> tuple[Array, Metrics]:
            critic_loss, critic_metrics = self.critic_loss(params["critic"], state, batch, critic_key)
            actor_loss, actor_metrics = self.actor_loss(params["actor"], state, batch, actor_key)
            return critic_loss + actor_loss, {**critic_metrics, **actor_metrics}

        params: Params = {"actor": state.actor, "critic": state.critic}
        gradients, metrics = jax.grad(loss, has_aux=True)(params)
        changes, optimiser = self.optimiser.update(gradients, state.optimiser)
        params = optax.apply_updates(params, changes)
        anchor = None if self.anchor_rate is None else polyak(params["actor"], state.anchor, self.anchor_rate)
        target_critic = polyak(self.targeted(params["critic"]), state.target_critic, self.training.target_update_rate)
        return AgentState(params["actor"], params["critic"], target_critic, anchor, optimiser), metrics


@dataclasses.dataclass(frozen=True)
class Deterministic(ActorCritic):
    """One action for each state: a network of the state alone, on which the noise has no influence."""

    @property
    def actor_network(self) -> MLP:
        return MLP(self.network.width, self.network.depth, self.chunk_size)

    def init_actor(self, key: Array) -> Params:
        return self.actor_network.init(key, jnp.zeros((1, self.observation_size)))

    def action(self, actor: Params, observation: Array) -> Array:
        """``mu(s)``: ``[..., S] -> [..., D]``, not clipped."""
        return self.actor_network.apply(actor, observation)  # pyright: ignore[reportReturnType]

    def generate(self, actor: Params, observation: Array, noise: Array) -> Array:
        return self.action(actor, observation)

    @property
    def actor_work(self) -> MLPWork:
        return mlp_work(self.observation_size, self.chunk_size, self.network)


@dataclasses.dataclass(frozen=True)
class BestOfN(ActorCritic):
    """Acts by the best of N' samples of the policy."""

    config: BestOfNConfig

    @property
    def best_of(self) -> int:
        return self.config.best_of


@dataclasses.dataclass(frozen=True)
class TopK(BestOfN):
    """Also imitates, online, the K best candidates of pi_old."""

    config: TopKPolicyConfig

    @property
    def top_k(self) -> TopKConfig | None:
        return self.config.top_k
