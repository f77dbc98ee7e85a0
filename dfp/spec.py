"""What a run is: typed, closed, frozen configuration.

A run is a pure function of its :class:`RunSpec`. The spec holds every number that can change a result and
nothing else: no clock, host or path. Its canonical JSON is what Snakemake compares, and its hash is the stamp
on every checkpoint.

Three catalogues (``config/tasks.yaml``, ``config/methods.yaml``, ``config/experiments.yaml``) say what exists;
one configuration (``config/config.yaml``, ``config/demo.yaml``, ...) says what to run. Unknown keys are errors
at every level. Importing this module loads neither JAX nor a simulator.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import importlib
import importlib.util
import json
import os
import pkgutil
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator

CATALOGUE = Path(__file__).resolve().parents[1] / "config"

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Stage = Literal["finetune", "offline"]  # what a table's cell is: both phases, or offline RL alone
Probability = Annotated[float, Field(gt=0.0, le=1.0)]


class ConfigError(Exception):
    """Bad input: one line that names the thing, where it stands and what is allowed."""


class Closed(BaseModel):
    """Immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


# --------------------------------------------------------------------------- what a run is made of


class TaskSpec(Closed):
    """One environment with its dataset, as far as it can change a result."""

    key: str = Field(description="Task key, as in folder names and on the command line.")
    suite: Literal["ogbench", "robomimic", "gymnasium"] = Field(
        description="Which adapter in `dfp/tasks/` serves the task."
    )
    environment: str = Field(
        description="Gymnasium id, `module:Id-v0` where a module registers it; of Robomimic the environment's name."
    )
    dataset: str = Field(description="Name of the dataset file, without its ending.")
    observation_size: PositiveInt = Field(description="Width S of a state vector.")
    action_size: PositiveInt = Field(description="Width A of an action vector.")
    max_episode_steps: PositiveInt = Field(description="Episode cap, environment steps.")
    rows: PositiveInt = Field(description="Transitions of the published dataset; another number is refused.")
    shards: PositiveInt = Field(default=1, description="Files the published dataset is split into.")
    shard_interval: PositiveInt = Field(
        default=1000, description="Offline updates between two shards (one shard: unused)."
    )
    success_timing: Literal["pre", "post"] = Field(
        default="post",
        description="Whether reward and success are judged before or after the action moves the world. "
        "OGBench 1.1 judged after, OGBench >= 1.2 registers its single tasks with `pre`; the paper ran 1.1. "
        "Robomimic and other Gymnasium environments know `post` only.",
    )


class DataSpec(Closed):
    """Where the offline rows come from."""

    source: Literal["download", "generate"] = Field(
        description="`download`: the published files. `generate`: the simulator's own scripted experts, run here."
    )
    episodes: PositiveInt | None = Field(
        default=None,
        description="`generate` only: episodes to record. OGBench: of 1,000 transitions. Robomimic: successes.",
    )
    seed: NonNegativeInt | None = Field(default=None, description="`generate` only: seed of the recorded episodes.")
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
    ensemble_size: PositiveInt = Field(description="Independent critics, aggregated by their mean. Table 5: 2.")


class TrainingSpec(Closed):
    """What both phases share, and the length of the offline one."""

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
    episodes: PositiveInt = Field(description="Episodes per evaluation. 100: Table 6's entries are multiples of 0.2 %.")


class AgentConfig(Closed):
    """Settings of a method. Each agent's module defines its own ``Config``; this is what all of them have."""

    name: str = Field(description="The agent: a module of `dfp.agents`, or the import path of one elsewhere.")
    version: int = Field(default=1, description="Raised by hand when the agent's mathematics changes.")

    def offline_phase(self) -> Self:
        """These settings as far as the offline phase reads them. Equal results share one pretraining."""
        return self


def agent_config(settings: Any, source: str = "agent") -> AgentConfig:
    """``settings`` as the ``Config`` of the agent they name; :class:`ConfigError` where they are not one."""
    if isinstance(settings, AgentConfig):
        return settings
    name = settings.get("name") if isinstance(settings, dict) else None
    if not isinstance(name, str):
        raise ConfigError(f"{source}: 'name' is missing; allowed: {', '.join(_agents())}, or an import path")
    return validate(agent_module(name, source).Config, settings, source)


@functools.cache
def agent_module(name: str, source: str = "agent") -> Any:
    """The module that implements an agent: one of ours by its short name, or any by its import path."""
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
    shared = {"actor_critic", "flow_policy", "implicit_q"}
    folder = Path(__file__).parent / "agents"
    return {
        module.name: f"{package}.{module.name}"
        for package, path in (("dfp.agents", folder), ("dfp.agents.offline", folder / "offline"))
        for module in pkgutil.iter_modules([str(path)])
        if not module.ispkg and module.name not in shared
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
    seed: NonNegativeInt
    engine: Literal[2] = Field(default=2, description="Raised by hand when the training loop changes its results.")

    @model_validator(mode="after")
    def _stage_has_its_parts(self) -> Self:
        if (self.stage == "finetune") != (self.online is not None):
            raise ValueError("'online' is given for stage 'finetune' and only there")
        return self

    def pretraining(self) -> RunSpec:
        """The offline phase this run starts from. Runs whose offline phases are equal share one checkpoint."""
        return self.model_copy(update={"stage": "pretrain", "online": None, "agent": self.agent.offline_phase()})

    def canonical(self) -> str:
        """One line of JSON, equal exactly where the runs are."""
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> str:
        """64 hex digits, the stamp on the run's checkpoints."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


# --------------------------------------------------------------------------- the catalogues


class TaskEntry(Closed):
    """A task and how the tables show it."""

    group: str = Field(description="Column group in the tables, e.g. `Cube-double`.")
    column: str = Field(description="Column heading, e.g. `task2`.")
    title: str = Field(description="Title of the task's panel in a figure.")
    spec: TaskSpec


class MethodOverride(Closed):
    """Settings of a method that differ on some tasks."""

    tasks: list[str] = Field(description="Task keys or patterns, e.g. `cube-triple-*`.")
    agent: dict[str, Any] = Field(description="Agent settings that replace the method's own there.")
    source: str = Field(description="Where the difference comes from.")


class MethodEntry(Closed):
    """A row of the tables: an agent, its settings, and where they differ by task.

    A method's key may go on with settings that differ from it, `dfp_K=1` or `dfp_K=1_lambda=0.1`: a variant.
    """

    label: str = Field(description="Name in tables and figures.")
    backbone: str = Field(description="Name of the policy backbone in tables.")
    top_k: str = Field(description="What the `top-K` column of Table 2 shows.")
    color: str = Field(description="Line colour in every figure.")
    agent: dict[str, Any] = Field(description="Agent settings; `name` picks the agent, the rest replaces its defaults.")
    overrides: list[MethodOverride] = []
    variants: dict[str, str] = Field(
        default={}, description="Symbols that the key of a variant may set, and the agent setting each stands for."
    )


class ExperimentEntry(Closed):
    """A table or figure of the paper and the cells that it needs."""

    title: str = Field(description="What the table or figure is about.")
    kind: Literal["table", "figure"] = Field(description="Which files are made of it.")
    stage: Stage = Field(
        default="finetune", description="`finetune`: both phases, the configuration's tasks; `offline`: Table 7's."
    )
    made_from: Literal["runs", "specs", "every run", "cost", "environments", "equations"] = Field(
        default="runs",
        description="`runs`: the metrics of its own cells; `specs`: the settings in their manifests; all manifests of "
        "`every run` of the configuration; the times that the rule `cost` measures; the tasks' `environments`; the "
        "`equations` alone.",
    )
    methods: list[str] = Field(description="Method keys, variants among them, in the order of the rows.")
    tasks: list[str] = Field(default=["*"], description="Patterns over the configuration's tasks.")


class Cells(Closed):
    """A part of a table or figure."""

    methods: list[str] | None = Field(default=None, description="Method keys of its rows; default: all of its own.")
    tasks: list[str] | None = Field(default=None, description="Patterns over the tasks; default: its own.")


class OfflineTable(Closed):
    """Table 7: tasks and seeds of its own."""

    tasks: list[str] = Field(min_length=1, description="Task keys, from `tasks.yaml`.")
    seeds: list[NonNegativeInt] = Field(min_length=1, description="One run per seed and cell. Table 7: 8.")


class Config(Closed):
    """One configuration file: what to run, at which scale."""

    results_dir: str = Field(description="Folder for runs, tables and figures, relative to the working directory.")
    data_dir: str = Field(description="Folder for datasets, relative to the working directory.")
    experiments: list[str] = Field(description="Tables and figures that `all` makes, from `experiments.yaml`.")
    cells: dict[str, Cells] = Field(
        default={}, description="Experiments of which this configuration makes a part, or other tasks than the paper."
    )
    tasks: list[str] = Field(description="Task keys, from `tasks.yaml`.")
    seeds: list[NonNegativeInt] = Field(description="One run per seed and cell.")
    offline: OfflineTable | None = Field(default=None, description="For experiments of stage `offline`.")
    published_curves: bool = Field(
        default=True, description="Whether Figure 1 also draws the curves that others published (`config/published/`)."
    )
    data: DataSpec
    network: NetworkSpec
    training: TrainingSpec
    online: OnlineSpec
    evaluation: EvaluationSpec

    @model_validator(mode="after")
    def _lists_are_sets(self) -> Self:
        for name in ("experiments", "tasks", "seeds"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"'{name}' is empty")
            if len(set(values)) != len(values):
                raise ValueError(f"'{name}' names something twice: {values}")
        return self


class Catalogue(Closed):
    """Everything that exists, by key."""

    tasks: dict[str, TaskEntry]
    methods: dict[str, MethodEntry]
    experiments: dict[str, ExperimentEntry]


# --------------------------------------------------------------------------- reading files


def read_yaml(path: Path) -> Any:
    """The file's content; :class:`ConfigError` where it is missing or not YAML."""
    try:
        return yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


def explain(error: ValidationError, model: type[BaseModel], source: str) -> ConfigError:
    """The first problem of a validation error in one line, with the allowed keys where a key is unknown."""
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
    """``content`` as ``model``; :class:`ConfigError` in one line where it is not."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise explain(error, model, source) from None


def lookup[Entry](entries: dict[str, Entry], key: str, what: str, source: str) -> Entry:
    """``entries[key]``; a missing key is named together with what exists."""
    if key not in entries:
        raise ConfigError(f"{source}: unknown {what} '{key}'; allowed: {', '.join(entries)}")
    return entries[key]


def load_catalogue(folder: Path | None = None) -> Catalogue:
    """Read ``tasks.yaml``, ``methods.yaml`` and ``experiments.yaml``. A task's key is its name in the file.

    ``folder`` None: the one that the environment variable ``DFP_CATALOGUE`` names, or else ``config/``.
    """
    folder = folder or Path(os.environ.get("DFP_CATALOGUE") or CATALOGUE)
    tasks = read_yaml(folder / "tasks.yaml")
    for key, entry in tasks.items():
        if isinstance(entry, dict) and isinstance(entry.get("spec"), dict):
            entry["spec"] = {"key": key, **entry["spec"]}
    content = {
        "tasks": tasks,
        "methods": read_yaml(folder / "methods.yaml"),
        "experiments": read_yaml(folder / "experiments.yaml"),
    }
    return validate(Catalogue, content, str(folder))


def load_config(path: Path) -> Config:
    """Read and check one configuration file."""
    return parse_config(read_yaml(path), str(path))


def parse_config(content: Any, source: str, catalogue: Catalogue | None = None) -> Config:
    """Check a configuration that is already read. ``source`` is named in errors."""
    config = validate(Config, content, source)
    catalogue = catalogue or load_catalogue()
    for key in (*config.tasks, *(config.offline.tasks if config.offline else ())):
        lookup(catalogue.tasks, key, "task", source)
    for key in config.experiments:
        experiment = lookup(catalogue.experiments, key, "experiment", source)
        if experiment.stage == "offline" and config.offline is None:
            raise ConfigError(f"{source}: '{key}' needs 'offline', its tasks and seeds")
        for method in experiment.methods:
            method_entry(method, catalogue, f"experiments.yaml, {key}")
    for key, cells in config.cells.items():
        lookup(dict.fromkeys(config.experiments), key, "experiment of 'cells'", source)
        for method in cells.methods or ():
            method_entry(method, catalogue, f"{source}, cells, {key}")
    return config


def experiment_entry(key: str, config: Config, catalogue: Catalogue) -> ExperimentEntry:
    """A table or figure as the configuration makes it."""
    chosen = config.cells.get(key, Cells())
    return catalogue.experiments[key].model_copy(update=chosen.model_dump(exclude_none=True))


# --------------------------------------------------------------------------- from configuration to specs


def base_method(method: str) -> str:
    """The method that a variant varies: `dfp` of `dfp_K=1`; any other key itself."""
    return _parts(method)[0]


def _parts(method: str) -> list[str]:
    return re.split(r"_(?=[A-Za-z]+=)", method)


def method_entry(method: str, catalogue: Catalogue, source: str = "methods.yaml") -> MethodEntry:
    """The entry of a method, or of a variant, whose settings come after those of its method on every task."""
    base, *assignments = _parts(method)
    entry = lookup(catalogue.methods, base, "method", source)
    changes: dict[str, Any] = {}
    for assignment in assignments:
        symbol, _, text = assignment.partition("=")
        setting = lookup(entry.variants, symbol, f"symbol of a variant of '{base}'", source)
        value = yaml.safe_load(text)
        if str(value) != text:  # two keys must not name one variant
            raise ConfigError(f"{source}: '{method}': write '{symbol}={value}', not '{assignment}'")
        for part in reversed(setting.split(".")):
            value = {part: value}
        changes = merge(changes, value)
    if not assignments:
        return entry
    override = MethodOverride(tasks=["*"], agent=changes, source=f"the variant {method}")
    label = f"{entry.label}, {', '.join(assignments)}"
    return entry.model_copy(update={"label": label, "overrides": [*entry.overrides, override]})


def agent_for(method: str, task: str, catalogue: Catalogue) -> AgentConfig:
    """The settings of a method or variant on a task: its own, then those that differ there."""
    entry = method_entry(method, catalogue)
    settings = entry.agent
    for override in entry.overrides:
        if any(fnmatch.fnmatchcase(task, pattern) for pattern in override.tasks):
            settings = merge(settings, override.agent)
    return agent_config(settings, f"methods.yaml, {method}")


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def run_spec(
    config: Config, catalogue: Catalogue, task: str, method: str, seed: int, stage: Stage = "finetune"
) -> RunSpec:
    """One run of a cell; the ``pretraining()`` of a fine-tuning is the run that it starts from."""
    return RunSpec(
        stage=stage,
        task=lookup(catalogue.tasks, task, "task", "tasks.yaml").spec,
        data=config.data,
        agent=agent_for(method, task, catalogue),
        network=config.network,
        training=config.training,
        online=config.online if stage == "finetune" else None,
        evaluation=config.evaluation,
        seed=seed,
    )


def parse_spec(text: str) -> RunSpec:
    """A run from its JSON; :class:`ConfigError` where it is none."""
    return validate(RunSpec, _parse_json(text, "--spec"), "--spec")


def parse_data(text: str) -> DataSpec:
    """A data source from its JSON; :class:`ConfigError` where it is none."""
    return validate(DataSpec, _parse_json(text, "--data"), "--data")


def _parse_json(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{source}: not JSON: {error}") from None
