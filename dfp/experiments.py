"""From a configuration to the list of runs: what every table and figure needs, and what may be shared.

A fine-tuning is one cell of a table (task x method) with one seed. It starts from a pretraining; two methods share it
when the offline phases of their specs are equal, which is computed here, not listed by hand.
"""

import csv
import fnmatch
import io
from typing import Any, NamedTuple

from dfp.spec import Catalogue, Config, ConfigError, RunSpec, finetune_spec

RUN_TABLE_COLUMNS: tuple[str, ...] = (
    "experiment", "title", "task", "group", "column", "task_title", "method", "label", "backbone", "top_k", "color",
    "seed", "run", "pretrained", "offline_steps", "online_steps",
)  # fmt: skip


class Run(NamedTuple):
    """One fine-tuning of a table or figure."""

    experiment: str
    task: str
    method: str
    seed: int
    spec: RunSpec
    folder: str  # relative to the results
    pretrained: str  # likewise: the pretraining it starts from


class Plan(NamedTuple):
    """Every run of a configuration."""

    runs: list[Run]  # one per experiment, cell and seed; a run that two experiments need stands twice
    finetunings: dict[str, RunSpec]  # by folder
    pretrainings: dict[str, RunSpec]  # by folder


def run_folder(task: str, method: str, seed: int) -> str:
    """Folder of a fine-tuning, relative to the results."""
    return f"runs/{task}/{method}/seed{seed}"


def pretrained_folder(task: str, backbone: str, seed: int) -> str:
    """Folder of a pretraining, relative to the results."""
    return f"pretrained/{task}/{backbone.lower()}/seed{seed}"


def plan(config: Config, catalogue: Catalogue) -> Plan:
    """The runs of every experiment of the configuration, in table order: task, method, seed."""
    runs, finetunings = [], {}
    for experiment in config.experiments:
        entry = catalogue.experiments[experiment]
        tasks = [task for task in config.tasks if any(fnmatch.fnmatchcase(task, pattern) for pattern in entry.tasks)]
        for task in tasks:
            for method in entry.methods:
                for seed in config.seeds:
                    folder = run_folder(task, method, seed)
                    if folder not in finetunings:
                        finetunings[folder] = finetune_spec(config, catalogue, task, method, seed)
                    pretrained = pretrained_folder(task, catalogue.methods[method].backbone, seed)
                    runs.append(Run(experiment, task, method, seed, finetunings[folder], folder, pretrained))
    return Plan(runs, finetunings, _shared_pretrainings(runs))


def _shared_pretrainings(runs: list[Run]) -> dict[str, RunSpec]:
    shared: dict[str, tuple[RunSpec, str]] = {}
    for run in runs:
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
    task, method = catalogue.tasks[run.task], catalogue.methods[run.method]
    assert run.spec.online is not None
    return {
        "experiment": run.experiment,
        "title": catalogue.experiments[run.experiment].title,
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
        "online_steps": run.spec.online.steps,
    }
