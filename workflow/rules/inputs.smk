# The inputs of tables and figures, and what a finished workflow prints.
import pandas

from dfp.report.figures.published import published_curves


def files_of(name, runs):
    """The file of this name in the folder of every run and of its pretraining."""
    folders = [folder for run in runs for folder in (run.pretrained, run.folder)]
    return [f"{RESULTS}/{folder}/{name}" for folder in dict.fromkeys(folders)]


def runs_of(name):
    """The runs of a table or figure; an error if it needs runs and has none."""
    known(dict.fromkeys(SETTINGS.experiments), name, "table or figure")
    runs = [run for run in PLAN.runs if run.experiment == name]
    entry = experiment_entry(name, SETTINGS, CATALOGUE)
    if not runs and entry.made_from in ("runs", "specs"):
        raise WorkflowError(
            f"'{name}' has no run: {', '.join(entry.tasks)} matches no task of {SOURCE}; "
            "leave it out of 'experiments', or add such a task"
        )
    return runs


def metrics_of(name):
    """The metrics files of the runs of a table or figure."""
    return files_of("metrics.csv", runs_of(name))


def inputs_of(name):
    """The input files of a table, by `made_from` of its entry."""
    own, table = runs_of(name), f"{RESULTS}/runs.csv"
    return {
        "runs": [table, *files_of("metrics.csv", own)],
        "specs": [table, *files_of("manifest.json", own)],
        "every run": [table, *files_of("manifest.json", PLAN.runs)],
        "cost": [f"{RESULTS}/cost.csv"],
    }[CATALOGUE.experiments[name].made_from]


# The part of the configuration on which Table 9 depends.
TIMED = SETTINGS.model_copy(
    update={
        "results_dir": ".",
        "data_dir": ".",
        "experiments": ["table9"],
        "cells": {},
        "seeds": [0],
        "offline": None,
    }
)


def timed_runs():
    """A run of each method of Table 9 on each task, as canonical JSON, with the settings of the catalogue."""
    methods = CATALOGUE.experiments["table9"].methods
    cells = [(task, method) for method in methods for task in TIMED.tasks]
    return "".join(run_spec(TIMED, CATALOGUE, *cell, 0).canonical() for cell in cells)


def has_published(wildcards):
    """Whether the figure also has published curves of others, so that the caption mentions them."""
    if not SETTINGS.published_curves or wildcards.number != "1":
        return False
    steps = [
        (run.task, run.method, run.spec.training.offline_steps, run.spec.online.steps)
        for run in runs_of("figure1")
        if run.spec.online
    ]
    columns = ["task", "method", "offline_steps", "online_steps"]
    return not published_curves(pandas.DataFrame(steps, columns=columns))[0].empty


def what_was_made():
    """The text of the table, if there is only one, and the paths of all tables, pictures and the report."""
    made = [
        path for path in [*TARGETS, f"{RESULTS}/report.html"] if Path(path).exists()
    ]
    tables = [path for path in made if re.fullmatch(r"table\d+\.md", Path(path).name)]
    text = Path(tables[0]).read_text(encoding="utf-8") if len(tables) == 1 else ""
    shown = [
        path
        for path in made
        if Path(path).suffix in (".png", ".html") or path in tables
    ]
    return "\n".join(["", *filter(None, [text]), *shown])
