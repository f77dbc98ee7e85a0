"""From files to runs: the catalogues, and the configurations that choose from them.

Three catalogues (``config/tasks.yaml``, ``config/methods.yaml``, ``config/experiments.yaml``) say what exists;
one configuration (``config/config.yaml``, ``config/demo.yaml``, ...) says what to run. Unknown keys are errors
at every level. Importing this module loads neither JAX nor a simulator.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field

from dfp.files import expanded, read_text
from dfp.shipped import CATALOGUE
from dfp.spec import (
    AgentConfig,
    Closed,
    ConfigError,
    DataSpec,
    EvaluationSpec,
    NetworkSpec,
    OnlineSpec,
    RunSpec,
    Seed,
    Stage,
    TaskSpec,
    TrainingSpec,
    agent_config,
    lookup,
    validate,
)
from dfp.tasks.suites import suite_of


def _distinct[Value](values: list[Value]) -> list[Value]:
    if twice := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
        raise ValueError(f"names {twice[0]!r} twice; allowed: each once")
    return values


Names = Annotated[list[str], AfterValidator(_distinct)]
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(_distinct)]
Folder = Annotated[str, AfterValidator(expanded)]


# --------------------------------------------------------------------------- the catalogues


class TaskEntry(Closed):
    """A task and how the tables show it."""

    group: str = Field(description="Column group in the tables, e.g. `Cube-double`.")
    column: str = Field(description="Column heading, e.g. `task2`.")
    title: str = Field(description="Title of the task's panel in a figure.")
    spec: TaskSpec


class MethodOverride(Closed):
    """Settings of a method for some tasks."""

    tasks: list[str] = Field(description="Task keys or patterns, e.g. `cube-triple-*`.")
    agent: dict[str, Any] = Field(description="Agent settings that replace the method's own on these tasks.")
    source: str = Field(description="Where these settings come from: a paper, a release or a choice.")


class MethodEntry(Closed):
    """A row of the tables: an agent, its settings, and where they differ by task.

    A variant is a method's key followed by the settings that differ, such as `dfp_K=1` or `dfp_K=1_lambda=0.1`.
    """

    label: str = Field(description="Name in tables and figures.")
    backbone: str = Field(description="Name of the policy backbone in tables.")
    pretraining: str | None = Field(
        default=None,
        description="Folder name of its pretraining. Methods with the same name must have the same offline phase on "
        "every task. Default: the method's key.",
    )
    top_k: str = Field(description="What the `top-K` column of Table 2 shows.")
    color: str = Field(description="Line colour in every figure.")
    agent: dict[str, Any] = Field(description="Agent settings; `name` picks the agent, the rest replaces its defaults.")
    overrides: list[MethodOverride] = Field(default=[], description="Settings that differ by task.")
    variants: dict[str, str] = Field(
        default={}, description="Symbols that the key of a variant may set, and the agent setting that each one sets."
    )


class ExperimentEntry(Closed):
    """A table or figure of the paper and the cells that it needs."""

    title: str = Field(description="What the table or figure is about.")
    kind: Literal["table", "figure"] = Field(description="Which files are made: those of a table or of a figure.")
    stage: Stage = Field(
        default="finetune",
        description="`finetune`: both phases, on the configuration's `tasks` and `seeds`. `offline`: offline RL, on "
        "those below `offline`.",
    )
    made_from: Literal["runs", "specs", "every run", "cost", "environments", "equations"] = Field(
        default="runs",
        description="What it is made from. `runs`: the metrics of its cells. `specs`: the settings in the manifests of "
        "its cells. `every run`: the manifests of all runs of the configuration. `cost`: the times that the rule "
        "`cost` measures. `environments`: the tasks' environments. `equations`: computations without a run.",
    )
    methods: Names = Field(description="Method keys, variants among them, in the order of the rows.")
    tasks: Names = Field(default=["*"], description="Patterns over the configuration's tasks.")


class Cells(Closed):
    """A part of a table or figure."""

    methods: Names | None = Field(default=None, description="Method keys of its rows. Default: the experiment's.")
    tasks: Names | None = Field(default=None, description="Patterns over the tasks. Default: the experiment's.")


class OfflineTable(Closed):
    """Table 7: its tasks and seeds."""

    tasks: Names = Field(min_length=1, description="Task keys, from `tasks.yaml`.")
    seeds: Seeds = Field(description="One run per seed and cell. Table 7: 8.")


class Config(Closed):
    """One configuration file: what to run, at which scale."""

    results_dir: Folder = Field(description="Folder for runs, tables and figures, relative to the working directory.")
    data_dir: Folder = Field(description="Folder for datasets, relative to the working directory.")
    experiments: Names = Field(
        min_length=1, description="Tables and figures that `all` makes, from `experiments.yaml`."
    )
    cells: dict[str, Cells] = Field(
        default={}, description="By experiment: the methods and tasks to use instead of those in `experiments.yaml`."
    )
    tasks: Names = Field(min_length=1, description="Task keys, from `tasks.yaml`.")
    seeds: Seeds = Field(description="One run per seed and cell of the online tables. `offline` has its own seeds.")
    offline: OfflineTable | None = Field(default=None, description="Tasks and seeds of experiments of stage `offline`.")
    published_curves: bool = Field(
        default=True, description="Whether Figure 1 also draws the curves that others published (`config/published/`)."
    )
    data: DataSpec
    network: NetworkSpec
    training: TrainingSpec
    online: OnlineSpec
    evaluation: EvaluationSpec


class Catalogue(Closed):
    """Everything that exists, by key."""

    tasks: dict[str, TaskEntry]
    methods: dict[str, MethodEntry]
    experiments: dict[str, ExperimentEntry]


# --------------------------------------------------------------------------- reading files


class _Loader(yaml.SafeLoader):
    """Plain YAML, except that a key twice in a mapping is an error; plain YAML silently keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise ValueError(f"the key '{key.value}' is in line {lines[key.value]} and again in line {line}")
            lines[key.value] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The file's mapping; :class:`ConfigError` if it is missing, not UTF-8 or not YAML, or names a key twice."""
    try:
        content = yaml.load(read_text(path), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        kind = "empty" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"{path}: {kind}; allowed: a mapping, lines of 'key: value'")
    return content


def load_catalogue(folder: Path | None = None) -> Catalogue:
    """Read ``tasks.yaml``, ``methods.yaml`` and ``experiments.yaml``. A task's key is its name in the file.

    Args:
      folder: of the three files; None: the one that the variable ``DFP_CATALOGUE`` names, or else ``config/``.

    Raises:
      ConfigError: a file is missing or not valid, or a pattern of tasks matches none.
    """
    named = os.environ.get("DFP_CATALOGUE")
    try:
        folder = folder or (Path(expanded(named)) if named else CATALOGUE)
    except ValueError as error:
        raise ConfigError(f"DFP_CATALOGUE: {error}") from None
    tasks = read_yaml(folder / "tasks.yaml")
    for key, entry in tasks.items():
        if isinstance(entry, dict) and isinstance(entry.get("spec"), dict):
            entry["spec"] = {"key": key, **entry["spec"]}
    content = {
        "tasks": tasks,
        "methods": read_yaml(folder / "methods.yaml"),
        "experiments": read_yaml(folder / "experiments.yaml"),
    }
    catalogue = validate(Catalogue, content, str(folder))
    for key, entry in catalogue.tasks.items():
        suite_of(entry.spec)  # refuses one that does not exist
        if entry.spec.key != key:
            raise ConfigError(f"{folder / 'tasks.yaml'}, {key}: 'spec.key' is '{entry.spec.key}'; leave it out")
    for key, method in catalogue.methods.items():
        for override in method.overrides:
            _refuse_idle(override.tasks, catalogue.tasks, f"{folder / 'methods.yaml'}, {key}, overrides")
    for key, experiment in catalogue.experiments.items():
        _refuse_idle(experiment.tasks, catalogue.tasks, f"{folder / 'experiments.yaml'}, {key}")
    return catalogue


def matches(task: str, patterns: Iterable[str]) -> bool:
    """Whether one of ``patterns`` is the task's key, or matches it with ``*``."""
    return any(fnmatch.fnmatchcase(task, pattern) for pattern in patterns)


def _refuse_idle(patterns: Iterable[str], tasks: Iterable[str], source: str) -> None:
    """Raises :class:`ConfigError` for the first pattern that matches no task, because it would have no effect."""
    for pattern in patterns:
        if not any(matches(task, [pattern]) for task in tasks):
            raise ConfigError(f"{source}: 'tasks': {pattern!r} matches no task; there are: {', '.join(tasks)}")


def load_config(path: Path) -> Config:
    """Read and check one configuration file."""
    return parse_config(read_yaml(path), str(path))


def parse_config(content: Any, source: str, catalogue: Catalogue | None = None) -> Config:
    """Check a configuration that is already read. Raises :class:`ConfigError`, which names ``source``."""
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
        tasks, _ = tasks_and_seeds(catalogue.experiments[key].stage, config)
        _refuse_idle(cells.tasks or (), tasks, f"{source}, cells, {key}")
    return config


def tasks_and_seeds(stage: Stage, config: Config) -> tuple[list[str], list[int]]:
    """The tasks and seeds that experiments of a stage choose from. Offline RL has its own."""
    source = config if stage == "finetune" else config.offline
    assert source is not None
    return source.tasks, source.seeds


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
    """The entry of a method or variant. A variant's settings are the last override of its method, on every task.

    Raises :class:`ConfigError`, which begins with ``source``, if there is no such method or symbol.
    """
    base, *assignments = _parts(method)
    entry = lookup(catalogue.methods, base, "method", source)
    changes: dict[str, Any] = {}
    for assignment in assignments:
        symbol, _, text = assignment.partition("=")
        value = _value(text)
        for part in reversed(lookup(entry.variants, symbol, f"symbol of a variant of '{base}'", source).split(".")):
            value = {part: value}
        changes = merge(changes, value)
    if not assignments:
        return entry
    override = MethodOverride(tasks=["*"], agent=changes, source=f"the variant {method}")
    label = f"{entry.label}, {', '.join(assignments)}"
    return entry.model_copy(update={"label": label, "overrides": [*entry.overrides, override]})


def agent_for(method: str, task: str, catalogue: Catalogue) -> AgentConfig:
    """The settings of a method or variant on a task: those of its entry, replaced by those of matching overrides."""
    entry = method_entry(method, catalogue)
    settings = entry.agent
    for override in entry.overrides:
        if matches(task, override.tasks):
            settings = merge(settings, override.agent)
    config = agent_config(settings, f"methods.yaml, {method}")
    for assignment in _parts(method)[1:]:  # two keys must not name one variant
        symbol, _, text = assignment.partition("=")
        written = _written(functools.reduce(getattr, entry.variants[symbol].split("."), config))
        if text != written:
            raise ConfigError(f"methods.yaml: '{method}': write '{symbol}={written}', not '{assignment}'")
    return config


def _value(text: str) -> Any:
    """What follows the ``=`` of a variant's key: a number, a list of numbers, or a word."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _written(value: Any) -> str:
    """The one way to write a setting in a variant's key. A list of one is written as its number."""
    if isinstance(value, tuple):
        value = value[0] if len(value) == 1 else list(value)
    return value if isinstance(value, str) else json.dumps(value)


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` merged into it, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def run_spec(
    config: Config, catalogue: Catalogue, task: str, method: str, seed: int, stage: Stage = "finetune"
) -> RunSpec:
    """The spec of one run of a cell. A fine-tuning starts from the run of its ``pretraining()``."""
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
