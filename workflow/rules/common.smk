# What the rules know of the runs. Everything here is computed from the configuration, once.
import gc
import hashlib
import shlex
import sys
from pathlib import Path

# The objects of a DAG live to the end: looking for garbage among them took a tenth of a dry run.
gc.set_threshold(200_000, 50, 100)

# An environment made from environment.yml has no dfp installed.
sys.path.insert(0, str(workflow.basedir))

from dfp.experiments import plan, run_table
from dfp.catalogue import load_catalogue, parse_config
from dfp.spec import ConfigError, canonical_json
from dfp.tasks import manifest_path
from snakemake.exceptions import WorkflowError

SOURCE = ", ".join(map(str, workflow.configfiles)) or "config"

# Jobs run in this very environment, activated or not, and with this checkout's code, installed or not.
shell.prefix(
    "set -euo pipefail; "
    f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH "
    f"PYTHONPATH={shlex.quote(str(workflow.basedir))}${{{{PYTHONPATH:+:$PYTHONPATH}}}} "
    f"WORKFLOW={shlex.quote(str(workflow.main_snakefile))}; "
)

# How many runs share a GPU: a matter of the machine, so no part of a configuration, though Snakemake hands it in there.
PACK = config.pop("pack", 1)
if isinstance(PACK, bool) or not isinstance(PACK, int) or PACK < 1:
    raise WorkflowError(f"--config pack={PACK}: allowed: a whole number from 1")

try:
    CATALOGUE = load_catalogue()
    SETTINGS = parse_config(config, SOURCE, CATALOGUE)
    PLAN = plan(SETTINGS, CATALOGUE)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

ENVIRONMENT = f"{workflow.basedir}/environment.yml"  # used only where Snakemake is told to deploy with conda
RESULTS = SETTINGS.results_dir.rstrip("/")
DATA = Path(SETTINGS.data_dir)
SUFFIXES = {"table": ("csv", "md", "tex"), "figure": ("png", "pdf", "csv")}
TARGETS = [
    f"{RESULTS}/{name}.{suffix}"
    for name in SETTINGS.experiments
    for suffix in SUFFIXES[CATALOGUE.experiments[name].kind]
] + [f"{RESULTS}/metrics.csv"]
# What the results amount to, and every Markdown file as a page of the report.
FINDINGS = ["statistics", "verdict", "provenance"]
TABLES = [
    key for key in SETTINGS.experiments if CATALOGUE.experiments[key].kind == "table"
]
PAGES = [*FINDINGS, "summary", *TABLES]
TARGETS += [f"{RESULTS}/{name}.csv" for name in FINDINGS]
TARGETS += [f"{RESULTS}/{name}.{kind}" for name in PAGES for kind in ("md", "html")]
# Tasks that differ only in their goal share a dataset: any one of them can prepare it.
DATASETS = {
    str(manifest_path(CATALOGUE.tasks[key].spec, SETTINGS.data, DATA)): key
    for key in dict.fromkeys(run.task for run in reversed(PLAN.runs))
}


wildcard_constraints:
    seed=r"\d+",
    number=r"\d+",
    task=r"[^/]+",
    method=r"[^/]+",
    kind=r"pretrained|runs|offline",


def known(entries, key, what):
    """entries[key], or an error that names the key and what there is."""
    if key not in entries:
        raise WorkflowError(
            f"no {what} '{key}' in {SOURCE}; there are: {', '.join(map(str, entries))}"
        )
    return entries[key]


# What the folder of a run is made of.
CELLS = {
    what: {Path(folder).parts[place].removeprefix("seed") for folder in PLAN.specs}
    for what, place in (("task", 1), ("method", 2), ("seed", 3))
}


def cell(wildcards):
    """Names the parts of a run's folder that the configuration does not have, before the run is looked up."""
    for what, names in CELLS.items():
        known(dict.fromkeys(sorted(names)), wildcards[what], what)


def spec_in(kind):
    """The spec of the run in a folder of this kind: one canonical JSON string, so that swapped numbers are seen."""

    def spec(wildcards):
        cell(wildcards)
        folder = f"{kind}/{wildcards.task}/{wildcards.method}/seed{wildcards.seed}"
        return known(PLAN.specs, folder, "run").canonical()

    return spec


def dataset_of(wildcards):
    """The manifest of the task's data. What it holds is in the spec already, so its age does not matter."""
    cell(wildcards)
    return ancient(dataset(wildcards.task))


def dataset(task):
    """The manifest of a task's data."""
    return str(manifest_path(CATALOGUE.tasks[task].spec, SETTINGS.data, DATA))


def start_of(wildcards):
    """The pretraining that a fine-tuning starts from."""
    cell(wildcards)
    folder = f"runs/{wildcards.task}/{wildcards.method}/seed{wildcards.seed}"
    return f"{RESULTS}/{known(PLAN.starts, folder, 'run')}/agent.npz"


def wave(wildcards):
    """Seed 0 of every cell first: each wave gives a whole, thinner table."""
    return -int(wildcards.seed)


def run_table_digest():
    """Changes whenever the run table does, labels and order included."""
    return hashlib.sha256(run_table(PLAN, CATALOGUE).encode()).hexdigest()


def folder_of(name):
    """A parameter: the folder that the output of this name stands in."""
    return lambda wildcards, output: str(Path(output[name]).parent)


def data_dir_of(name):
    """A parameter: the folder of all datasets, given a manifest `<data_dir>/<source>/<dataset>/manifest.json`."""
    return lambda wildcards, input: str(Path(input[name]).parents[2])
