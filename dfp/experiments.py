"""From a configuration to the list of runs: what every table and figure needs, and what may be shared.

A cell of a table (task x method) with one seed is a run: a fine-tuning that starts from a pretraining, or an offline
run (Table 7). Two methods share a pretraining when the offline phases of their specs are equal, and a variant that
changes nothing is its method's own run. Both are computed here, not listed by hand.
"""

import csv
import fnmatch
import io
from typing import Any, NamedTuple

from dfp.catalogue import (
    Catalogue,
    Config,
    ExperimentEntry,
    agent_for,
    base_method,
    experiment_entry,
    method_entry,
    run_spec,
)
from dfp.spec import ConfigError, RunSpec, Stage

RUN_TABLE_COLUMNS: tuple[str, ...] = (
    "experiment", "title", "stage", "task", "group", "column", "task_title", "method", "label", "backbone", "top_k",
    "color", "seed", "run", "pretrained", "offline_steps", "online_steps",
)  # fmt: skip


class Run(NamedTuple):
    """One seed of a cell of a table or figure."""

    experiment: str
    task: str
    method: str
    seed: int
    spec: RunSpec
    folder: str  # relative to the results
    pretrained: str  # likewise: the offline phase; that of an offline run is the run itself


class Plan(NamedTuple):
    """Every run of a configuration."""

    runs: list[Run]  # one per experiment, cell and seed; a run that two experiments need stands twice
    specs: dict[str, RunSpec]  # of every run and every pretraining, by folder
    starts: dict[str, str]  # folder of the pretraining, by the folder of the fine-tuning that starts from it


def run_folder(catalogue: Catalogue, task: str, method: str, seed: int) -> str:
    """Folder of a fine-tuning, relative to the results."""
    return f"runs/{task}/{_shared_name(catalogue, task, method)}/seed{seed}"


def offline_folder(catalogue: Catalogue, task: str, method: str, seed: int) -> str:
    """Folder of an offline run, relative to the results."""
    return f"offline/{task}/{_shared_name(catalogue, task, method)}/seed{seed}"


def pretrained_folder(catalogue: Catalogue, task: str, method: str, seed: int) -> str:
    """Folder of a pretraining, relative to the results: of its backbone, unless the variant changes this phase too."""
    base = base_method(method)
    same = _offline_phase(catalogue, task, method) == _offline_phase(catalogue, task, base)
    name = catalogue.methods[base].backbone.lower() if same else method
    return f"pretrained/{task}/{name}/seed{seed}"


def _offline_phase(catalogue: Catalogue, task: str, method: str) -> Any:
    return agent_for(method, task, catalogue).offline_phase()


def _shared_name(catalogue: Catalogue, task: str, method: str) -> str:
    """A variant whose settings are its method's own on this task is the method."""
    base = base_method(method)
    same = agent_for(method, task, catalogue) == agent_for(base, task, catalogue)
    return base if same else method


def plan(config: Config, catalogue: Catalogue) -> Plan:
    """The runs of every experiment of the configuration, in table order: task, method, seed."""
    runs, specs = [], {}
    for experiment in config.experiments:
        entry = experiment_entry(experiment, config, catalogue)
        tasks, seeds = _cells(entry, config) if entry.made_from in ("runs", "specs") else ([], [])
        for task in tasks:
            for method in entry.methods:
                for seed in seeds:
                    offline = entry.stage == "offline"
                    folder = (offline_folder if offline else run_folder)(catalogue, task, method, seed)
                    start = folder if offline else pretrained_folder(catalogue, task, method, seed)
                    if folder not in specs:
                        specs[folder] = run_spec(config, catalogue, task, method, seed, entry.stage)
                    runs.append(Run(experiment, task, method, seed, specs[folder], folder, start))
    starts = {run.folder: run.pretrained for run in runs if run.spec.stage == "finetune"}
    return Plan(runs, specs | _pretrainings(runs), starts)


def stage_of(method: str, catalogue: Catalogue) -> Stage:
    """`offline` for a method that only tables of offline RL list, else `finetune`."""
    stages = {entry.stage for entry in catalogue.experiments.values() if method in entry.methods}
    return "offline" if stages == {"offline"} else "finetune"


def _cells(entry: ExperimentEntry, config: Config) -> tuple[list[str], list[int]]:
    """Tasks and seeds of an experiment."""
    source = config if entry.stage == "finetune" else config.offline
    assert source is not None
    tasks = [task for task in source.tasks if any(fnmatch.fnmatchcase(task, pattern) for pattern in entry.tasks)]
    return tasks, source.seeds


def _pretrainings(runs: list[Run]) -> dict[str, RunSpec]:
    shared: dict[str, tuple[RunSpec, str]] = {}
    for run in runs:
        if run.spec.stage != "finetune":
            continue
        spec = run.spec.pretraining()
        known, method = shared.setdefault(run.pretrained, (spec, run.method))
        if known != spec:
            raise ConfigError(
                f"methods.yaml: '{method}' and '{run.method}' have one backbone name but different offline phases "
                f"on {run.task}; give one of them a backbone name of its own"
            )
    return {folder: spec for folder, (spec, _) in shared.items()}


def run_table(plan: Plan, catalogue: Catalogue) -> str:
    """``runs.csv``: one row per experiment, cell and seed; all that tables and figures need to know of the runs."""
    text = io.StringIO()
    writer = csv.DictWriter(text, RUN_TABLE_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run in plan.runs:
        writer.writerow(_row(run, catalogue))
    return text.getvalue()


def _row(run: Run, catalogue: Catalogue) -> dict[str, Any]:
    task, method = catalogue.tasks[run.task], method_entry(run.method, catalogue)
    return {
        "experiment": run.experiment,
        "title": catalogue.experiments[run.experiment].title,
        "stage": run.spec.stage,
        "task": run.task,
        "group": task.group,
        "column": task.column,
        "task_title": task.title,
        "method": run.method,
        "label": method.label,
        "backbone": method.backbone,
        "top_k": method.top_k,
        "color": method.color,
        "seed": run.seed,
        "run": run.folder,
        "pretrained": run.pretrained,
        "offline_steps": run.spec.training.offline_steps,
        "online_steps": run.spec.online.steps if run.spec.online else 0,
    }
