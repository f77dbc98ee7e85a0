"""The crate of a results folder, checked by roc-validator against the profile of Workflow Run Crates.

The validator downloads the JSON-LD context of RO-Crate 1.1. Here it gets the context that comes with the package
rocrate, which is that of version 1.3. Four terms differ between the two; they are set back to their meaning in 1.1.
"""

import json
from pathlib import Path

import pytest
import requests
from support.report_runs import make_results, write_manifest

from dfp.ops.export import export
from dfp.spec import ConfigError

rocrate = pytest.importorskip("rocrate", reason="environment.yml has neither the crate's package nor its validator")
services = pytest.importorskip("rocrate_validator.services", reason="environment.yml has no validator of crates")

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
IN_1_1 = {
    "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
    "FormalParameter": "https://bioschemas.org/FormalParameter",
    "input": "https://bioschemas.org/ComputationalWorkflow#input",
    "output": "https://bioschemas.org/ComputationalWorkflow#output",
}
RECORD = {
    "versions": {"jax": "0.12.0"}, "git_commit": None, "device": "cpu: cpu", "wall_s": 60.0, "spent_s": 60.0,
    "attempts": 1,
}  # fmt: skip
START = {
    "attempt": 1, "event": "start", "time": "2026-11-24T22:05:00+00:00", "host": "h", "pid": 1, "job": None, "step": 0,
}  # fmt: skip
PRETRAINED, RUN = "pretrained/lift/Drifting/seed0", "runs/lift/dfp/seed0"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A pretraining and a fine-tuning that have finished, a second seed that has not begun, and a table."""
    folder = make_results(tmp_path / "results", {("lift", "dfp"): [0.5, None]})
    for place, finished in ((PRETRAINED, "2026-11-24T23:00:00+00:00"), (RUN, "2026-11-25T01:30:00+00:00")):
        spec = json.loads((folder / place / "manifest.json").read_text())["spec"]
        write_manifest(folder / place, spec=spec, finished=finished, **RECORD)
        (folder / place / "agent.npz").write_bytes(b"a policy")
    (folder / PRETRAINED / "attempts.jsonl").write_text(json.dumps(START) + "\n")
    (folder / "config.json").write_text("{}")
    (folder / "table2.csv").write_text("method,success_rate\ndfp,50.0\n")
    return folder


def entities(crate: Path) -> dict[str, dict]:
    graph = json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]
    return {entity["@id"]: entity for entity in graph}


def problems(crate: Path, profile: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the profile requires and the crate does not have. Of the network only the context is there."""
    from rocrate_validator import models

    context = json.loads((Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").read_text())
    context["@context"] |= IN_1_1

    def request(self: requests.Session, method: str, url: str, **_: object) -> requests.Response:
        assert url == CONTEXT, f"the validator asks for {url}"
        response = requests.Response()
        response.status_code, response._content = 200, json.dumps(context).encode()
        response.headers["Content-Type"] = "application/ld+json"
        return response

    monkeypatch.setattr(requests.Session, "request", request)
    required = models.Severity.REQUIRED
    settings = services.ValidationSettings(
        rocrate_uri=str(crate), profile_identifier=profile, requirement_severity=required, no_cache=True
    )
    outcome = services.validate(settings)
    assert len(outcome.executed_checks) > 50
    return [f"{issue.check.identifier}: {issue.message}" for issue in outcome.get_issues(required)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the validator's own dependencies
def test_the_crate_is_a_workflow_run_crate(results, tmp_path, monkeypatch):
    (crate,) = export("rocrate", results, tmp_path / "crate")
    assert problems(crate, "workflow-run-crate", monkeypatch) == []

    path = crate / "ro-crate-metadata.json"  # the validator does notice: an action without its instrument
    content = json.loads(path.read_text())
    (action,) = [entity for entity in content["@graph"] if entity["@type"] == "CreateAction"]
    del action["instrument"]
    path.write_text(json.dumps(content))
    assert any("instrument" in problem for problem in problems(crate, "workflow-run-crate", monkeypatch))


def test_the_crate_says_what_was_run_and_what_was_made(results):
    (crate,) = export("rocrate", results, None)
    assert crate == results / "export" / "rocrate"
    found = entities(crate)
    action = found["#workflow-run"]
    assert action["instrument"] == {"@id": "Snakefile"}
    assert action["object"] == {"@id": "config.json"}
    assert (action["startTime"], action["endTime"]) == ("2026-11-24T22:05:00+00:00", "2026-11-25T01:30:00+00:00")
    made = [part["@id"] for part in action["result"]]
    assert made == ["runs.csv", "table2.csv", f"{PRETRAINED}/", f"{RUN}/"]
    run = found[f"{RUN}/"]
    assert run["identifier"] == json.loads((results / RUN / "manifest.json").read_text())["digest"]
    assert run["description"] == "finetune on lift, seed 0, on cpu: cpu"
    assert [part["@id"] for part in run["hasPart"]] == [f"{RUN}/manifest.json", f"{RUN}/metrics.csv"]
    assert found["config.json"]["exampleOfWork"] == {"@id": "#configuration"}


def test_every_file_is_in_the_crate_with_its_size_and_no_policy_is(results, tmp_path):
    (crate,) = export("rocrate", results, tmp_path / "crate")
    files = {name: entity for name, entity in entities(crate).items() if "File" in entity["@type"]}
    assert all((crate / name).stat().st_size == int(files[name]["contentSize"]) for name in files)
    on_disk = {path.relative_to(crate).as_posix() for path in crate.rglob("*") if path.is_file()}
    assert on_disk - {"ro-crate-metadata.json"} == set(files)
    assert {"Snakefile", "uv.lock", "config/methods.yaml", "workflow/rules/train.smk"} <= on_disk
    assert not any(name.endswith("agent.npz") for name in on_disk)


def test_a_new_crate_replaces_the_old_one_and_nothing_else(results, tmp_path):
    export("rocrate", results, tmp_path / "crate")
    (results / "table2.csv").unlink()
    export("rocrate", results, tmp_path / "crate")
    assert not (tmp_path / "crate" / "table2.csv").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("dear to me")
    with pytest.raises(ConfigError, match=r"mine: .*--out"):
        export("rocrate", results, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "dear to me"


@pytest.mark.parametrize(
    ("gone", "says"),
    [("config.json", "config.json: no such file"), ("metrics", "no run has finished")],
)
def test_nothing_to_archive_is_said(results, gone, says):
    for path in [*results.rglob("metrics.csv")] if gone == "metrics" else [results / gone]:
        path.unlink()
    with pytest.raises(ConfigError, match=says):
        export("rocrate", results, None)
