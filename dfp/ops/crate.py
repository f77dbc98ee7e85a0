"""Results as a Workflow Run RO-Crate, the form in which results of a workflow are archived and cited.

The crate is a copy: the workflow, the configuration, the tables and figures, and the records of every finished run.
``ro-crate-metadata.json`` says what each file is, after the profile https://w3id.org/ro/wfrun/workflow/0.5. Trained
policies stay behind. The manifest of a run has the size and SHA-256 of its policy.
"""
# pyright: reportMissingImports=false
# (rocrate is an extra.)

from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfp.plan.foreign import CONFIG
from dfp.plan.run_table import read_runs
from dfp.report.manifests import finished_manifests
from dfp.runs.attempts import read_attempts
from dfp.runs.layout import ATTEMPTS, MANIFEST, METRICS, RUN, VALUE_LOG
from dfp.shipped import CATALOGUE, LOCK, SNAKEFILE
from dfp.spec import ConfigError

if TYPE_CHECKING:
    from rocrate.rocrate import ROCrate

METADATA = "ro-crate-metadata.json"
RECORDS = (RUN, MANIFEST, METRICS, VALUE_LOG, ATTEMPTS)  # of a run's folder
TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".html": "text/html",
    ".tex": "application/x-tex",
    ".png": "image/png",
    ".pdf": "application/pdf",
    ".yaml": "application/yaml",
}  # fmt: skip; everything else is text/plain
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
}
LICENCE = "https://spdx.org/licenses/MIT"


def write_crate(results_dir: Path, out: Path) -> Path:
    """Write the finished runs and what was made of them to the folder ``out``, in place of an earlier crate there.

    Raises:
      ConfigError: nothing has finished, there is no configuration or run table, a folder holds a foreign run, or
        ``out`` holds something else than a crate.
    """
    from rocrate.rocrate import ROCrate

    if not (results_dir / CONFIG).is_file():
        raise ConfigError(f"{results_dir / CONFIG}: no such file; the workflow writes it before the first run")
    manifests = finished_manifests(results_dir, read_runs(results_dir))
    if not manifests:
        raise ConfigError(f"{results_dir}: no run has finished, so there is nothing to archive")
    if out.exists():
        if any(out.iterdir()) and not (out / METADATA).is_file():
            raise ConfigError(f"{out}: a folder that is not a crate; choose another --out, or move it away")
        shutil.rmtree(out)

    crate = ROCrate(version="1.1")
    workflow = _add_workflow(crate)
    settings = _add_settings(crate, workflow, results_dir / CONFIG)
    runs = [_add_run(crate, results_dir, folder, manifest) for folder, manifest in manifests.items()]
    made = [_add_file(crate, path, path.name) for path in sorted(results_dir.iterdir()) if _is_made(path)]
    ended = max(manifest["finished"] for manifest in manifests.values())
    action = _context(crate, "#workflow-run", "CreateAction", name=f"Snakemake made {results_dir.name}", endTime=ended)
    if starts := [one.started for folder in manifests for one in read_attempts(results_dir / folder)]:
        action["startTime"] = datetime.datetime.fromtimestamp(min(starts), datetime.UTC).isoformat(timespec="seconds")
    action["instrument"], action["object"], action["result"] = workflow, settings, [*made, *runs]
    _describe_root(crate, results_dir.name, len(runs), ended)
    crate.root_dataset["mentions"] = action
    crate.write(out)
    return out


def _add_workflow(crate: ROCrate) -> Any:
    """The workflow as it comes with the package: what Snakemake runs, the catalogues, the locked versions."""
    about = {"name": "DFP-repro: Drifting Field Policy (arXiv 2605.07727)", "encodingFormat": "text/plain"}
    workflow: Any = crate.add_workflow(
        SNAKEFILE, SNAKEFILE.name, main=True, lang="snakemake", properties=about, record_size=True
    )
    parts = [*(SNAKEFILE.parent / "workflow").rglob("*.*"), *CATALOGUE.rglob("*.*"), LOCK]
    for path in sorted(part for part in parts if part.is_file()):
        workflow.append_to("hasPart", _add_file(crate, path, path.relative_to(SNAKEFILE.parent).as_posix()))
    return workflow


def _add_settings(crate: ROCrate, workflow: Any, path: Path) -> Any:
    """The configuration of these results, which is the workflow's one parameter."""
    settings = _add_file(crate, path, path.name)
    parameter = _context(
        crate, "#configuration", "FormalParameter", name="configuration", additionalType="File", valueRequired=True,
        description="What to run, at which scale. config/README.md explains every key.",
    )  # fmt: skip
    parameter["workExample"], settings["exampleOfWork"], workflow["input"] = settings, parameter, parameter
    return settings


def _add_run(crate: ROCrate, results_dir: Path, folder: str, manifest: dict[str, Any]) -> Any:
    """The folder of a finished run with its records, as a data set."""
    spec = manifest["spec"]
    about = f"{spec['stage']} on {spec['task']['key']}, seed {spec['seed']}, on {manifest['device']}"
    run: Any = crate.add_dataset(
        dest_path=folder,
        properties={"name": folder, "description": about, "identifier": manifest["digest"]},
    )
    for name in RECORDS:
        if (path := results_dir / folder / name).is_file():
            run.append_to("hasPart", _add_file(crate, path, f"{folder}/{name}"))
    return run


def _is_made(path: Path) -> bool:
    """Whether a file of the results is a table, a figure, a page or the run table."""
    return path.is_file() and path.suffix in TYPES and path.name != CONFIG


def _add_file(crate: ROCrate, path: Path, name: str) -> Any:
    kind = TYPES.get(path.suffix, "text/plain")
    return crate.add_file(path, name, record_size=True, properties={"name": name, "encodingFormat": kind})


def _context(crate: ROCrate, identity: str, kind: str, **properties: Any) -> Any:
    """An entity that is not a file. It has a type and properties."""
    from rocrate.model.contextentity import ContextEntity

    return crate.add(ContextEntity(crate, identity, properties={"@type": kind, **properties}))


def _describe_root(crate: ROCrate, name: str, runs: int, ended: str) -> None:
    crate.name = f"DFP-repro: results of {name}"
    crate.description = (
        f"Tables, figures and the records of {runs} finished runs of a reproduction of Drifting Field Policy "
        "(arXiv 2605.07727). Each run's manifest has its whole specification, its versions and its device."
    )
    crate.datePublished = datetime.datetime.fromisoformat(ended)
    crate.license = _context(crate, LICENCE, "CreativeWork", name="MIT License", identifier=LICENCE)
    profiles = [
        _context(crate, url, "CreativeWork", name=title, version=url.rpartition("/")[2])
        for url, title in PROFILES.items()
    ]
    crate.root_dataset["conformsTo"] = [*crate.root_dataset.get("conformsTo", []), *profiles]
