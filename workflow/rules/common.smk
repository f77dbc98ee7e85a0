# The runs, computed once from the configuration. All rules use them.
import gc
import hashlib
import re
import shlex
import sys
from pathlib import Path

# The objects of a DAG live to the end. Collecting garbage among them took a tenth of a dry run.
gc.set_threshold(200_000, 50, 100)

# This workflow's own folder, also when another workflow uses it as a module.
HOME = Path(workflow.current_basedir).parents[1]

# An environment made from environment.yml has no dfp installed.
sys.path.insert(0, str(HOME))

from dfp.plan.experiments import plan, programs
from dfp.plan.results import claim, record
from dfp.plan.run_table import run_table
from dfp.plan.catalogue import (
    experiment_entry,
    load_catalogue,
    parse_config,
    read_yaml,
    run_spec,
)
from dfp.runs.finished import refuse_resized
from dfp.spec import ConfigError, canonical_json
from dfp.tasks import manifest_path
from snakemake.exceptions import WorkflowError

SOURCE = ", ".join(map(str, workflow.configfiles)) or "config"

# Jobs use this environment, even if it is not activated, and this checkout's code, even if it is not installed.
shell.prefix(
    "set -euo pipefail; "
    f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH "
    f"PYTHONPATH={shlex.quote(str(HOME))}${{{{PYTHONPATH:+:$PYTHONPATH}}}} "
    f"WORKFLOW={shlex.quote(str(HOME / 'Snakefile'))}; "
)


def count_of(name):
    """A whole number from `--config`. It depends on the machine, so it is not part of a configuration."""
    count = config.pop(name, 1)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise WorkflowError(f"--config {name}={count}: allowed: a whole number from 1")
    return count


# How many processes share a GPU, and how many seeds of an offline phase share a process.
PACK = count_of("pack")
SEEDS_PER_JOB = count_of("seeds_per_job")

# The GPUs of a workstation: `--profile workstation --config gpus=0,1`. A job takes one of them. SLURM assigns its own.
GPUS = config.pop("gpus", "")
if isinstance(GPUS, list):
    GPUS = ",".join(map(str, GPUS))
ON_GPU = f"python -m dfp ops on-gpu {shlex.quote(str(GPUS))} -- " if GPUS != "" else ""

try:
    for path in workflow.configfiles:
        read_yaml(Path(path))  # Snakemake itself lets the last of two equal keys win
    CATALOGUE = load_catalogue()
    SETTINGS = parse_config(config, SOURCE, CATALOGUE)
    PLAN = plan(SETTINGS, CATALOGUE)
    claim(Path(SETTINGS.results_dir), [Path(path) for path in workflow.configfiles])
    if workflow.is_main_process:
        refuse_resized(Path(SETTINGS.results_dir), PLAN.specs)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

# `--config seeds=[0]` replaces the seeds of the online tables only.
if (
    "seeds" in GIVEN
    and "offline" not in GIVEN
    and any(run.spec.stage == "offline" for run in PLAN.runs)
    and SETTINGS.offline.seeds != SETTINGS.seeds
):
    raise WorkflowError(
        f"--config seeds={SETTINGS.seeds}: the offline tables would still take 'offline.seeds', {SETTINGS.offline.seeds}; "
        f"add \"offline={{seeds: {SETTINGS.seeds}}}\", or leave these tables out with 'experiments'"
    )

ENVIRONMENT = str(
    HOME / "environment.yml"
)  # used only with --software-deployment-method conda
RESULTS = SETTINGS.results_dir.rstrip("/")
DATA = Path(SETTINGS.data_dir)
SUFFIXES = {"table": ("csv", "md", "tex", "html"), "figure": ("png", "pdf", "csv")}
TARGETS = [
    f"{RESULTS}/{name}.{suffix}"
    for name in SETTINGS.experiments
    for suffix in SUFFIXES[CATALOGUE.experiments[name].kind]
] + [f"{RESULTS}/metrics.csv"]
# Findings, and the Markdown files that are pages of the report.
FINDINGS = ["statistics", "verdict", "provenance"]
PAGES = [*FINDINGS, "summary"]
TARGETS += [f"{RESULTS}/{name}.csv" for name in FINDINGS]
TARGETS += [f"{RESULTS}/{name}.{kind}" for name in PAGES for kind in ("md", "html")]


def dataset(task):
    """The manifest of a task's data."""
    return str(manifest_path(CATALOGUE.tasks[task].spec, SETTINGS.data, DATA))


# Tasks that differ only in their goal share a dataset. The first of them in the catalogue prepares it, so that another
# choice of tasks or experiments does not prepare it again.
NEEDED = {dataset(task) for task in {run.task for run in PLAN.runs}}
DATASETS = {
    dataset(key): key for key in reversed(CATALOGUE.tasks) if dataset(key) in NEEDED
}


wildcard_constraints:
    seed=r"\d+",
    number=r"\d+",
    task=r"[^/]+",
    method=r"[^/]+",
    kind=r"pretrained|runs|offline",


def known(entries, key, what):
    """entries[key], or an error that names the key and the known ones."""
    if key not in entries:
        raise WorkflowError(
            f"no {what} '{key}' in {SOURCE}; there are: {', '.join(map(str, entries))}"
        )
    return entries[key]


# The values that the parts of a run's folder can have.
CELLS = {
    what: {Path(folder).parts[place].removeprefix("seed") for folder in PLAN.specs}
    for what, place in (("task", 1), ("method", 2), ("seed", 3))
}


def cell(wildcards):
    """An error if a part of a run's folder (task, method, seed) is not in the configuration."""
    for what, names in CELLS.items():
        known(dict.fromkeys(sorted(names)), wildcards[what], what)


def spec_in(kind):
    """The spec of the run in a folder of this kind, as canonical JSON: any changed number makes the run anew."""

    def spec(wildcards):
        cell(wildcards)
        folder = f"{kind}/{wildcards.task}/{wildcards.method}/seed{wildcards.seed}"
        return known(PLAN.specs, folder, "run").canonical()

    return spec


def dataset_of(wildcards):
    """The manifest of the task's data. Its age does not matter, because a run compares its content with its own record."""
    cell(wildcards)
    return ancient(dataset(wildcards.task))


def start_of(wildcards):
    """The pretraining that a fine-tuning starts from."""
    cell(wildcards)
    folder = f"runs/{wildcards.task}/{wildcards.method}/seed{wildcards.seed}"
    return f"{RESULTS}/{known(PLAN.starts, folder, 'run')}/agent.npz"


def wave(wildcards):
    """Seed 0 of every cell has the highest priority, so that each further seed adds to a complete table."""
    return -int(wildcards.seed)


def digest(text):
    """A parameter that changes whenever ``text`` does."""
    return hashlib.sha256(text.encode()).hexdigest()


def folder_of(name):
    """A parameter: the folder that holds the output of this name."""
    return lambda wildcards, output: str(Path(output[name]).parent)


def data_dir_of(name):
    """A parameter: the folder of all datasets, given a manifest `<data_dir>/<source>/<dataset>/manifest.json`."""
    return lambda wildcards, input: str(Path(input[name]).parents[2])
