"""What every method shares: its state, the TD target, Polyak averaging, best-of-N and the top-K candidates.

Shapes: ``B`` batch, ``H`` chunk length, ``A`` action dimension, ``D = H * A`` flattened chunk (row-major), ``S`` state,
``N`` candidates, ``K`` positives, ``E`` critics.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self, no_type_check

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int, Key
from pydantic import Field

from dfp.agents.base.batch import Batch
from dfp.agents.models.networks import MLP, EnsembleCritic, JointNetwork, parameter_count
from dfp.spec import AgentConfig, Closed, NetworkSpec, PositiveInt, TrainingSpec

Params = Any
Metrics = dict[str, Array]

# Candidates that a CPU draws and scores at once. Smaller products are slower, larger ones do not fit the cache.
CPU_BLOCK = 1024


class TopKConfig(Closed):
    """Policy improvement by imitation of the best candidates of an EMA policy (Eqs. 15, 16; Algorithm 1)."""

    weight: float = Field(default=0.5, ge=0.0, description="lambda, weight of the top-K term. Table 5: 0.5.")
    candidates: PositiveInt = Field(default=16, description="N, candidates drawn per state. Table 5: 16.")
    positives: PositiveInt = Field(
        default=4, description="K, best candidates that become positives. Table 5: 4 on OGBench, 2 on Robomimic."
    )
    ema_rate: float = Field(
        default=1e-4, gt=0.0, le=1.0, description="tau_EMA of the policy that draws them. Table 5: 1e-4."
    )

    def model_post_init(self, _: Any) -> None:
        if self.positives > self.candidates:
            raise ValueError(f"'positives' ({self.positives}) is larger than 'candidates' ({self.candidates})")


class PolicyConfig(AgentConfig):
    """Settings of every method in this package."""

    chunk: PositiveInt = Field(default=5, description="H, actions per chunk. Table 5: 5; 1 for FQL and BFN.")


class OneStepConfig(PolicyConfig):
    """A policy of the offline table: one action at a time."""

    chunk: PositiveInt = Field(default=1, description="H, actions per chunk. Section B.2: 1.")


class BestOfNConfig(PolicyConfig):
    """A policy that executes the sample with the highest value."""

    best_of: PositiveInt = Field(
        default=16,
        description="N', candidates when acting and in the TD target. Table 5, DFP: 16 on OGBench, 4 on Robomimic.",
    )


class TopKPolicyConfig(BestOfNConfig):
    """A policy that also imitates its best candidates."""

    top_k: TopKConfig | None = Field(default=TopKConfig(), description="Policy improvement online; null: none.")

    @no_type_check  # beartype knows Self only in a class that it decorates itself
    def offline_phase(self) -> Self:
        """These settings without ``top_k``: the offline loss does not read K, N and lambda."""
        return self.model_copy(update={"top_k": None})


class AgentState(NamedTuple):
    """Everything an update changes."""

    actor: Params
    critic: Params
    target_critic: Params  #: average of the critic, or of the part that :meth:`ActorCritic.targeted` returns
    anchor: Params | None  #: average of the policy, if the method has one: pi_old, a teacher or a target actor
    optimiser: optax.OptState

    def __repr__(self) -> str:
        """One line, without the parameters."""
        sizes = (f"{name}: {parameter_count(getattr(self, name)):,}" for name in self._fields)
        return f"AgentState({', '.join(sizes)} numbers)"


# --------------------------------------------------------------------------- equations


def td_target(
    return_: Float[Array, " B"], discount: Float[Array, " B"], next_value: Float[Array, " B"]
) -> Float[Array, " B"]:
    """``y = sum_{j<H} gamma^j r_{t+j} + gamma^H mask Q'(s', a')``, Eq. 1 over a chunk; ``discount = gamma^H mask``."""
    return return_ + discount * next_value


def td_loss(values: Float[Array, "E B"], target: Float[Array, " B"], valid: Float[Array, " B"]) -> Float[Array, ""]:
    """``mean_{e,b} valid (Q_e - y)^2``. ``valid`` is 0 for a chunk that ran past its episode, else 1."""
    return jnp.mean(valid[None] * jnp.square(values - target[None]))


def polyak(new: Params, old: Params, rate: float) -> Params:
    """``rate * new + (1 - rate) * old``, leaf by leaf."""
    return optax.incremental_update(new, old, rate)


def per_step(valid: Float[Array, "B H"], action_size: int) -> Float[Array, "B D"]:
    """Repeat a per-step mask over action coordinates, ``D = H * A``."""
    return jnp.repeat(valid, action_size, axis=-1)


def take_candidates(actions: Float[Array, "B N D"], chosen: Int[Array, "B K"]) -> Float[Array, "B K D"]:
    """Candidates by number."""
    return jnp.take_along_axis(actions, chosen[..., None], axis=1)


def in_blocks(function: Callable[..., Any], *arrays: Array, count: int) -> Any:
    """``function(*arrays)``, on a CPU in blocks of rows if the blocks divide the rows evenly.

    Args:
      function: acts on each row alone.
      count: candidates per row.
    """
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

    pessimistic: ClassVar[bool] = False  #: whether the value of an ensemble is its minimum instead of its mean

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
        """Settings of policy improvement by the best candidates of pi_old; None: there is none."""
        return None

    @property
    def anchor_rate(self) -> float | None:
        """Rate per update at which the anchor follows the policy; None: there is no anchor."""
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
    def generate(
        self, actor: Params, observation: Float[Array, "*rows S"], noise: Float[Array, "*rows Z"]
    ) -> Float[Array, "*rows D"]:
        """The policy, not clipped. ``Z`` is :attr:`noise_size`."""

    @abc.abstractmethod
    def actor_loss(self, actor: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """The method's loss; the critic inside it is frozen."""

    # -- networks

    def actor_body(self, *widths: int) -> JointNetwork:
        """The actor body of Table 5 on inputs of these widths, side by side, with ``D`` outputs."""
        return JointNetwork(MLP(self.network.width, self.network.depth, self.chunk_size), widths)

    @property
    def generator(self) -> JointNetwork:
        """A one-pass policy ``f(s, eps)``."""
        return self.actor_body(self.observation_size, self.chunk_size)

    # -- critic

    @property
    def critic_network(self) -> EnsembleCritic:
        return EnsembleCritic(self.network.width, self.network.depth, self.network.ensemble_size)

    def init_critic(self, key: Array) -> Params:
        """Fresh parameters of everything that the critic loss trains."""
        observation = jnp.zeros((1, self.observation_size))
        action = jnp.zeros((1, self.chunk_size))
        return self.critic_network.init(key, observation, action)

    def targeted(self, critic: Params) -> Params:
        """The part of the critic that has a target."""
        return critic

    def values(
        self, critic: Params, observation: Float[Array, "*rows S"], action: Float[Array, "*rows D"]
    ) -> Float[Array, " E *rows"]:
        """``Q_e(s, a)`` of every critic."""
        return self.critic_network.apply(critic, observation, action)  # pyright: ignore[reportReturnType]

    def aggregate(self, values: Float[Array, " E *rows"]) -> Float[Array, "*rows"]:
        """The value of the ensemble: the mean (Table 5), or the minimum if ``pessimistic``."""
        return jnp.min(values, axis=0) if self.pessimistic else jnp.mean(values, axis=0)

    def critic_loss(self, critic: Params, state: AgentState, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """Eq. 1 over a chunk. ``sample_actions`` chooses the next action, and the target critic values it."""
        next_action = self.sample_actions(state, batch.next_observation, jax.random.split(key, batch.size))
        next_value = self.aggregate(self.values(state.target_critic, batch.next_observation, next_action))
        target = jax.lax.stop_gradient(td_target(batch.return_, batch.discount, next_value))
        values = self.values(critic, batch.observation, batch.action)
        loss = td_loss(values, target, batch.valid[:, -1])
        return loss, {"critic_loss": loss, "q_mean": jnp.mean(values), "target_mean": jnp.mean(target)}

    # -- acting

    @property
    def noise_size(self) -> int:
        """Z, the Gaussian numbers from which the policy makes one sample."""
        return self.chunk_size

    def acting(self, state: AgentState) -> tuple[Params, Params]:
        """The actor that proposes and the critics that rank when the policy acts: those of the last update."""
        return state.actor, state.critic

    def sample_actions(
        self, state: AgentState, observation: Float[Array, "B S"], keys: Key[Array, " B"]
    ) -> Float[Array, "B D"]:
        """Chunks to execute, best of N', in [-1, 1]. A row depends on its own observation and key alone."""

        def best(observation: Array, keys: Array) -> Array:
            actions, scores = self.scored_candidates(*self.acting(state), observation, keys, self.best_of)
            return take_candidates(actions, jnp.argmax(scores, axis=1, keepdims=True))[:, 0]

        return in_blocks(best, observation, keys, count=self.best_of)

    def top_candidates(
        self, state: AgentState, observation: Float[Array, "B S"], key: Array, top_k: TopKConfig
    ) -> Float[Array, "B K D"]:
        """Eq. 15: the K best of N candidates of pi_old, in [-1, 1], best first."""

        def best(observation: Array, keys: Array) -> Array:
            actions, scores = self.scored_candidates(state.anchor, state.critic, observation, keys, top_k.candidates)
            return take_candidates(actions, jax.lax.top_k(scores, top_k.positives)[1])

        return in_blocks(best, observation, jax.random.split(key, observation.shape[0]), count=top_k.candidates)

    def scored_candidates(
        self, actor: Params, critic: Params, observation: Float[Array, "B S"], keys: Key[Array, " B"], count: int
    ) -> tuple[Float[Array, "B {count} D"], Float[Array, "B {count}"]]:
        """Candidates of each state, in [-1, 1], and their values; a single candidate has the value 0."""
        # One matrix of B * N rows: its products are faster than those of B matrices.
        observations = jnp.repeat(observation, count, axis=0)
        noise = jax.vmap(lambda key: jax.random.normal(key, (count, self.noise_size)))(keys)
        actions = jnp.clip(self.generate(actor, observations, noise.reshape(-1, self.noise_size)), -1.0, 1.0)
        if count == 1:
            scores = jnp.zeros(actions.shape[0])
        else:
            scores = self.aggregate(self.values(critic, observations, actions))
        return actions.reshape(-1, count, self.chunk_size), scores.reshape(-1, count)

    # -- learning

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.training.learning_rate)

    def init(self, key: Array) -> AgentState:
        """Fresh parameters. The target critic and the anchor start as copies."""
        actor_key, critic_key = jax.random.split(key)
        actor, critic = self.init_actor(actor_key), self.init_critic(critic_key)
        target_critic = jax.tree.map(jnp.copy, self.targeted(critic))
        optimiser = self.optimiser.init({"actor": actor, "critic": critic})
        return self.start_improving(AgentState(actor, critic, target_critic, None, optimiser))

    def state_shape(self) -> AgentState:
        """Shapes and dtypes of a state, without values: the template of a checkpoint."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    def start_improving(self, state: AgentState) -> AgentState:
        """The start of Algorithm 1: ``pi_old := pi``, if the method has an anchor."""
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
    """A policy with one action for each state. It ignores the noise."""

    @property
    def policy_network(self) -> JointNetwork:
        return self.actor_body(self.observation_size)

    def init_actor(self, key: Array) -> Params:
        return self.policy_network.init(key)

    def action(self, actor: Params, observation: Array) -> Array:
        """``mu(s)``: ``[..., S] -> [..., D]``, not clipped."""
        return self.policy_network(actor, observation)

    def generate(self, actor: Params, observation: Array, noise: Array) -> Array:
        return self.action(actor, observation)


@dataclasses.dataclass(frozen=True)
class BestOfN(ActorCritic):
    """Executes the best of N' samples of the policy."""

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
