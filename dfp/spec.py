"""The specification of a run: typed, closed, frozen configuration.

A run is a pure function of its :class:`RunSpec`. The spec holds every setting that can change a result and
nothing else: no clock, host or path. Snakemake compares its canonical JSON, and every checkpoint has its digest.
Unknown keys are errors at every level. Importing this module loads neither JAX nor a simulator.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import json
import pkgutil
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dfp.errors import ConfigError
from dfp.files import parsed_json

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]  # NumPy, JAX and every simulator accept these
Stage = Literal["finetune", "offline"]  # of a table's cell: both phases, or only offline RL
Probability = Annotated[float, Field(gt=0.0, le=1.0)]


class Closed(BaseModel):
    """Immutable settings. An unknown key, a truth value for a number, infinity and NaN are errors.

    A number in place of a list is read as a list of one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = _parts(cls.model_fields[info.field_name or ""].annotation)
        if isinstance(value, int | float) and not isinstance(value, bool) and kinds & {list, tuple}:
            value = [value]
        numeric = bool(kinds & {int, float}) and bool not in kinds
        if numeric and any(isinstance(one, bool) for one in (value if isinstance(value, list | tuple) else [value])):
            raise ValueError("Input should be a number, not true or false")
        return value


@functools.cache
def _parts(annotation: Any) -> frozenset[Any]:
    """The types that an annotation is made of: ``list`` and ``int`` of ``list[int] | None``."""
    if get_origin(annotation) is Literal:
        return frozenset()
    inside = [_parts(argument) for argument in get_args(annotation)]
    return frozenset({get_origin(annotation) or annotation}).union(*inside)


# --------------------------------------------------------------------------- what a run is made of


class TaskSpec(Closed):
    """One environment with its dataset: the settings that can change a result."""

    key: str = Field(description="Task key, as in folder names and on the command line.")
    suite: str = Field(
        description="The suite of the task: `ogbench`, `robomimic`, `gymnasium`, or the import path of another suite."
    )
    environment: str = Field(
        description="Gymnasium id, or `module:Id-v0` if a module registers it. For Robomimic, the environment's name."
    )
    dataset: str = Field(description="Name of the dataset file, without its ending.")
    observation_size: PositiveInt = Field(description="Width S of a state vector.")
    action_size: PositiveInt = Field(description="Width A of an action vector.")
    max_episode_steps: PositiveInt = Field(description="Episode cap, environment steps.")
    rows: PositiveInt = Field(
        description="Transitions of the published dataset. A download with another number is refused."
    )
    shards: PositiveInt = Field(default=1, description="Files the published dataset is split into.")
    shard_interval: PositiveInt = Field(
        default=1000, description="Offline updates on a file before the next one is used. Unused if there is one file."
    )
    success_timing: Literal["pre", "post"] = Field(
        default="post",
        description="Whether reward and success are judged before or after the action. "
        "OGBench 1.1, which the paper used, judges after it. OGBench >= 1.2 registers its single tasks with `pre`. "
        "Robomimic and other Gymnasium environments allow only `post`.",
    )


class DataSpec(Closed):
    """Where the offline rows come from."""

    source: Literal["download", "generate"] = Field(
        description="`download`: the published files. `generate`: recorded here by scripted experts."
    )
    episodes: PositiveInt | None = Field(
        default=None,
        description="`generate` only: episodes to record. OGBench: each has 1,000 transitions. Robomimic: only "
        "successes count.",
    )
    seed: Seed | None = Field(default=None, description="`generate` only: seed of the recorded episodes.")
    version: Literal[1] = Field(default=1, description="Raised by hand when the generator changes what it records.")

    @model_validator(mode="after")
    def _generation_is_complete(self) -> Self:
        given = self.episodes is not None and self.seed is not None
        if self.source == "generate" and not given:
            raise ValueError("source 'generate' needs both 'episodes' and 'seed'")
        if self.source == "download" and (self.episodes is not None or self.seed is not None):
            raise ValueError("'episodes' and 'seed' belong to source 'generate'; 'download' takes neither")
        return self


class NetworkSpec(Closed):
    """Actor and critic bodies: GELU MLPs; the critic normalises each hidden layer, the actor does not (Table 5)."""

    width: PositiveInt = Field(description="Units per hidden layer. Table 5: 512.")
    depth: PositiveInt = Field(description="Hidden layers. Table 5: 4.")
    ensemble_size: PositiveInt = Field(description="Independent critics, combined by mean or minimum. Table 5: 2.")


class TrainingSpec(Closed):
    """Settings of both phases, and the length of the offline phase."""

    batch_size: PositiveInt = Field(description="Chunks per gradient step. Table 5: 256.")
    discount: float = Field(ge=0.0, lt=1.0, description="Discount gamma per environment step. Table 5: 0.99.")
    learning_rate: float = Field(gt=0.0, description="Adam step size, no schedule. Table 5: 3e-4.")
    target_update_rate: Probability = Field(description="Polyak rate tau of the target critic. Table 5: 5e-3.")
    offline_steps: PositiveInt = Field(description="Gradient steps of the offline phase. Table 5: 1M.")


class OnlineSpec(Closed):
    """The online phase: one gradient step per environment step."""

    steps: PositiveInt = Field(description="Environment steps of the online phase. Table 5: 1M.")
    warmup_steps: NonNegativeInt = Field(
        description="Environment steps before the first online update. The authors' release: 5,000."
    )
    buffer_capacity: PositiveInt = Field(
        description="Transitions kept, offline ones included; never below the offline rows + 1. Release: 2M."
    )


class EvaluationSpec(Closed):
    """How often a policy is measured, and on how many episodes."""

    interval: PositiveInt = Field(description="Gradient (offline) or environment (online) steps between evaluations.")
    episodes: PositiveInt = Field(description="Episodes per evaluation. 100 fits Table 6's multiples of 0.2 %.")


class AgentConfig(Closed):
    """Settings that all methods have. The ``Config`` of each agent's module adds the others."""

    name: str = Field(description="The agent: a module of `dfp.agents`, or the import path of one elsewhere.")
    version: int = Field(default=1, description="Raised by hand when the agent's mathematics changes.")

    def offline_phase(self) -> Self:
        """The settings that the offline phase reads. Methods for which they are equal share one pretraining."""
        return self


def agent_config(settings: Any, source: str = "agent") -> AgentConfig:
    """``settings`` as the ``Config`` of the agent that they name.

    Raises :class:`ConfigError`, which begins with ``source``, if there is no such agent or a setting is not valid.
    """
    if isinstance(settings, AgentConfig):
        return settings
    name = settings.get("name") if isinstance(settings, dict) else None
    if not isinstance(name, str):
        raise ConfigError(f"{source}: 'name' is missing; allowed: {', '.join(_agents())}, or an import path")
    return validate(agent_module(name, source).Config, settings, source)


@functools.cache
def agent_module(name: str, source: str = "agent") -> Any:
    """The module of an agent, by its short name in this package or by its import path.

    Raises :class:`ConfigError`, which begins with ``source``, if there is no such module.
    """
    path = name if "." in name else _agents().get(name, "")
    try:
        found = importlib.util.find_spec(path) if path else None
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ConfigError(f"{source}: unknown agent '{name}'; allowed: {', '.join(_agents())}, or an import path")
    return importlib.import_module(path)


def _agents() -> dict[str, str]:
    """Import path of every agent of this package, by its short name."""
    folder = Path(__file__).parent / "agents"
    return {
        module.name: f"{package}.{module.name}"
        for package, path in (("dfp.agents", folder), ("dfp.agents.offline", folder / "offline"))
        for module in pkgutil.iter_modules([str(path)])
        if not module.ispkg
    }


class RunSpec(Closed):
    """Everything a training run depends on."""

    stage: Literal["pretrain", "finetune", "offline"] = Field(
        description="`pretrain`, then `finetune`: the two phases of the online tables; `offline`: Table 7."
    )
    task: TaskSpec
    data: DataSpec
    agent: Annotated[SerializeAsAny[AgentConfig], BeforeValidator(agent_config)]
    network: NetworkSpec
    training: TrainingSpec
    online: OnlineSpec | None
    evaluation: EvaluationSpec
    seed: Seed
    engine: Literal[2] = Field(default=2, description="Raised by hand when the training loop changes its results.")

    @model_validator(mode="after")
    def _stage_has_its_parts(self) -> Self:
        if (self.stage == "finetune") != (self.online is not None):
            raise ValueError("'online' is given for stage 'finetune' and only there")
        return self

    def pretraining(self) -> RunSpec:
        """The spec of the offline phase from which this run starts. Runs for which it is equal share one run of it."""
        return self.model_copy(update={"stage": "pretrain", "online": None, "agent": self.agent.offline_phase()})

    def canonical(self) -> str:
        """One line of JSON, equal if and only if the specs are."""
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> str:
        """SHA-256 of :meth:`canonical`, 64 hex digits. Checkpoints and manifests record it."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


# --------------------------------------------------------------------------- checking


def explain(error: ValidationError, model: type[BaseModel], source: str) -> ConfigError:
    """The first problem of a validation error in one line, with the allowed keys if a key is unknown."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"]) or "(top level)"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        allowed = _allowed_keys(model, problem["loc"][:-1])
        return ConfigError(f"{source}: unknown key '{place}'; allowed: {', '.join(allowed)}{more}")
    if problem["type"] == "missing":
        return ConfigError(f"{source}: '{place}' is missing{more}")
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if problem["type"] == "value_error" else f", got {problem['input']!r}"
    return ConfigError(f"{source}: '{place}': {message}{given}{more}")


def _allowed_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    node = schema = model.model_json_schema()
    for part in location:
        node = _resolve(schema, node)
        if part in node.get("properties", {}):
            node = node["properties"][part]
        elif isinstance(node.get("additionalProperties"), dict):
            node = node["additionalProperties"]
        elif "items" in node:
            node = node["items"]
    return sorted(_resolve(schema, node).get("properties", {}))


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    for branch in node.get("anyOf", ()):  # an optional object: the branch that is not null
        if branch.get("type") != "null":
            node = branch
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def validate[Model: BaseModel](model: type[Model], content: Any, source: str) -> Model:
    """``content`` as ``model``; :class:`ConfigError`, which begins with ``source``, if it is not valid."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise explain(error, model, source) from None


def lookup[Entry](entries: dict[str, Entry], key: str, what: str, source: str) -> Entry:
    """``entries[key]``; :class:`ConfigError` with the known keys if it is missing."""
    if key not in entries:
        raise ConfigError(f"{source}: unknown {what} '{key}'; allowed: {', '.join(entries)}")
    return entries[key]


def parse_spec(text: str) -> RunSpec:
    """A run from its JSON; :class:`ConfigError` if it is not valid."""
    return validate(RunSpec, _parse_json(text, "--spec"), "--spec")


def parse_data(text: str) -> DataSpec:
    """A data source from its JSON; :class:`ConfigError` if it is not valid."""
    return validate(DataSpec, _parse_json(text, "--data"), "--data")


def _parse_json(text: str, source: str) -> Any:
    try:
        return parsed_json(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not JSON: {error}") from None
