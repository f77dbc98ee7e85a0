"""From a configuration to the list of runs: what every table and figure needs, and what may be shared.

A cell of a table (task x method) with one seed is a run: a fine-tuning that starts from a pretraining, or an offline
run (Table 7). Methods with the same ``pretraining`` in ``methods.yaml`` share it, and the offline phases of their specs
must then be equal. A variant that changes nothing on a task uses the run of its method.
"""

from typing import NamedTuple

from dfp.plan.catalogue import (
    Catalogue,
    Config,
    ExperimentEntry,
    agent_for,
    base_method,
    experiment_entry,
    matches,
    run_spec,
    tasks_and_seeds,
)
from dfp.spec import ConfigError, RunSpec, Stage

KINDS = {"finetune": "runs", "pretrain": "pretrained", "offline": "offline"}  # first part of a folder, by stage


class Run(NamedTuple):
    """One seed of a cell of a table or figure."""

    experiment: str
    task: str
    method: str
    seed: int
    spec: RunSpec
    folder: str  #: relative to the results
    pretrained: str  #: folder of the offline phase, relative to the results; for an offline run, its own folder


class Plan(NamedTuple):
    """Every run of a configuration."""

    runs: list[Run]  #: one per experiment, cell and seed; a run that two experiments need appears twice
    specs: dict[str, RunSpec]  #: of every run and every pretraining, by folder
    starts: dict[str, str]  #: folder of the pretraining, by the folder of the fine-tuning that starts from it


def folder_of(stage: str, catalogue: Catalogue, task: str, method: str, seed: int) -> str:
    """Folder of a run of a stage of :data:`KINDS`, relative to the results.

    A variant has the folder of its method if its settings are the method's own on this task. For a pretraining, only
    the settings of the offline phase are compared, and the folder of the method's pretraining may be shared.
    """
    base = base_method(method)
    own, shared = (agent_for(name, task, catalogue) for name in (method, base))
    name = base if own == shared else method
    if stage == "pretrain":
        same = own.offline_phase() == shared.offline_phase()
        name = (catalogue.methods[base].pretraining or base) if same else method
    return f"{KINDS[stage]}/{task}/{name}/seed{seed}"


def plan(config: Config, catalogue: Catalogue) -> Plan:
    """The runs of every experiment of the configuration, in table order: task, method, seed."""
    runs, specs = [], {}
    for experiment in config.experiments:
        entry = experiment_entry(experiment, config, catalogue)
        tasks, seeds = _cells(entry, config) if entry.made_from in ("runs", "specs") else ([], [])
        for task in tasks:
            for method in entry.methods:
                for seed in seeds:
                    folder = folder_of(entry.stage, catalogue, task, method, seed)
                    start = folder
                    if entry.stage == "finetune":
                        start = folder_of("pretrain", catalogue, task, method, seed)
                    if folder not in specs:
                        specs[folder] = run_spec(config, catalogue, task, method, seed, entry.stage)
                    runs.append(Run(experiment, task, method, seed, specs[folder], folder, start))
    _refuse_two_names(runs)
    starts = {run.folder: run.pretrained for run in runs if run.spec.stage == "finetune"}
    return Plan(runs, specs | _pretrainings(runs), starts)


def stage_of(method: str, catalogue: Catalogue) -> Stage:
    """`offline` for a method that only tables of offline RL list, else `finetune`."""
    stages = {entry.stage for entry in catalogue.experiments.values() if method in entry.methods}
    return "offline" if stages == {"offline"} else "finetune"


def programs(specs: dict[str, RunSpec], seeds_per_job: int) -> list[list[str]]:
    """The runs of ``specs``, by folder, as the programs that train them, in order.

    A program trains up to ``seeds_per_job`` offline phases that differ in their seeds alone, or one fine-tuning.
    """
    if seeds_per_job == 1:
        return [[folder] for folder in specs]
    same: dict[str, list[str]] = {}
    for folder, spec in specs.items():
        key = spec.model_copy(update={"seed": 0}).canonical() if spec.online is None else folder
        same.setdefault(key, []).append(folder)
    return [
        folders[start : start + seeds_per_job]
        for folders in same.values()
        for start in range(0, len(folders), seeds_per_job)
    ]


def _cells(entry: ExperimentEntry, config: Config) -> tuple[list[str], list[int]]:
    """Tasks and seeds of an experiment."""
    tasks, seeds = tasks_and_seeds(entry.stage, config)
    return [task for task in tasks if matches(task, entry.tasks)], seeds


def _refuse_two_names(runs: list[Run]) -> None:
    """Raises :class:`ConfigError` if two variants name one run: `dfp_K=1_lambda=0.1` and `dfp_lambda=0.1_K=1`."""
    known: dict[str, Run] = {}
    for run in runs:
        if run.method != base_method(run.method):
            first = known.setdefault(run.spec.canonical(), run)
            if first.folder != run.folder:
                raise ConfigError(
                    f"{run.experiment}: '{first.method}' and '{run.method}' are one run on {run.task}; name it one way"
                )


def _pretrainings(runs: list[Run]) -> dict[str, RunSpec]:
    shared: dict[str, tuple[RunSpec, str]] = {}
    for run in runs:
        if run.spec.stage != "finetune":
            continue
        spec = run.spec.pretraining()
        known, method = shared.setdefault(run.pretrained, (spec, run.method))
        if known != spec:
            raise ConfigError(
                f"methods.yaml: '{method}' and '{run.method}' have one 'pretraining' but different offline phases "
                f"on {run.task}; give one of them a 'pretraining' of its own"
            )
    return {folder: spec for folder, (spec, _) in shared.items()}
