"""Copied, moved, merged and edited run folders: everything that reads a number refuses them, in one line."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from support.synthetic import CATALOGUE, configured, make_results
from typer.testing import CliRunner

from dfp.__main__ import app
from dfp.ops.export import export
from dfp.plan.experiments import plan
from dfp.plan.foreign import CONFIG, refuse_misplaced
from dfp.plan.run_table import read_runs
from dfp.report.aggregates import write_statistics
from dfp.report.collect import write_metrics
from dfp.report.figures.curves import write_figure
from dfp.report.provenance import write_provenance
from dfp.report.summary import write_summary
from dfp.report.tables.success import write_table
from dfp.report.verdict.page import write_verdict
from dfp.runs.finished import describe
from dfp.runs.same_spec import refuse_other
from dfp.spec import ConfigError, canonical_json

TASK = "cube-single-task2"
SMALL = configured("smoke", seeds=[0, 1], experiments=["table2", "table5", "table10", "figure1", "figure3"])
FASTER = SMALL.model_copy(update={"training": SMALL.training.model_copy(update={"learning_rate": 1e-3})})
READERS: dict[str, Callable[[Path, bool], object]] = {
    "table2": lambda results, partial: write_table(2, results, partial),
    "table5": lambda results, partial: write_table(5, results, partial),
    "table10": lambda results, partial: write_table(10, results, partial),
    "figure3": lambda results, partial: write_figure(3, results, partial),
    "metrics": write_metrics,
    "statistics": write_statistics,
    "verdict": write_verdict,
    "summary": write_summary,
    "provenance": write_provenance,
}


def finished(folder: Path, config=SMALL) -> Path:
    results = make_results(folder, config, lambda spec, method: 0.5)
    (results / CONFIG).write_text(canonical_json(config.model_dump(mode="json")))
    return results


def replace(folder: Path, other: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DFP's seed 1 comes from a results folder with another learning rate."""
    results = finished(tmp_path_factory.mktemp("merged"))
    other = finished(tmp_path_factory.mktemp("other"), FASTER)
    run = f"runs/{TASK}/dfp/seed1"
    replace(results / run, other / run)
    return results


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("partial", [False, True])
def test_no_mean_joins_two_learning_rates(merged: Path, reader: str, partial: bool):
    expected = f"{TASK}/dfp/seed1/manifest.json: training.learning_rate is 0.001, but 0.0003 belongs here;"
    with pytest.raises(ConfigError, match=expected):
        READERS[reader](merged, partial)


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        (f"runs/{TASK}/dfp/seed0", f"runs/{TASK}/dfp/seed1", "seed is 0, but 1 belongs here"),
        (f"runs/{TASK}/mvp/seed1", f"runs/{TASK}/dfp/seed1", "agent.name is \"mvp\", but \"dfp\" belongs here"),
        (f"pretrained/{TASK}/drifting/seed0", f"runs/{TASK}/dfp/seed0", "stage is \"pretrain\", but"),
        (f"pretrained/{TASK}/drifting/seed0", f"pretrained/{TASK}/drifting/seed1", "seed is 0, but 1 belongs here"),
    ],
)  # fmt: skip
def test_a_copied_run_is_named_with_key_value_and_what_belongs(tmp_path: Path, source: str, target: str, says: str):
    results = finished(tmp_path)
    replace(results / target, results / source)
    with pytest.raises(ConfigError, match=f"{target}/manifest.json: {says}"):
        write_metrics(results)
    with pytest.raises(ConfigError, match=f"{target}/manifest.json: {says}"):
        refuse_misplaced(results / target)


def test_a_foreign_run_that_has_only_begun_is_refused(tmp_path: Path):
    results = finished(tmp_path)
    folder = results / f"runs/{TASK}/dfp/seed1"
    content = json.loads((folder / "manifest.json").read_text())
    shutil.rmtree(folder)
    folder.mkdir()
    write_metrics(results, partial=True)
    content["spec"]["task"]["key"] = "lift"
    (folder / "run.json").write_text(json.dumps({"spec": content["spec"], "command": []}))
    with pytest.raises(ConfigError, match=r"run\.json: task\.key is \"lift\", but \"cube-single-task2\" belongs here"):
        write_metrics(results, partial=True)


def test_progress_of_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two unfinished folders merged file by file."""
    monkeypatch.setitem(sys.modules, "tensorboard", ModuleType("tensorboard"))  # an extra, not reached here
    results = finished(tmp_path)
    folder = results / f"runs/{TASK}/dfp/seed1"
    content = json.loads((folder / "manifest.json").read_text())
    for name in ("manifest.json", "metrics.csv"):
        (folder / name).unlink()
    (folder / "run.json").write_text(json.dumps({"spec": content["spec"], "command": []}))
    (folder / "progress.json").write_text(json.dumps({"digest": content["digest"]}))
    write_metrics(results, partial=True)
    (folder / "progress.json").write_text(json.dumps({"digest": "0123456789abcdef"}))
    for read in (lambda: write_metrics(results, partial=True), lambda: export("tensorboard", results, None)):
        with pytest.raises(ConfigError, match=r"dfp/seed1/progress\.json: of spec 0123456789ab, but"):
            read()


def test_an_edited_manifest_and_metrics_without_one_are_refused(tmp_path: Path):
    results = finished(tmp_path)
    path = results / f"runs/{TASK}/dfp/seed1/manifest.json"
    content = json.loads(path.read_text())
    content["spec"]["training"]["learning_rate"] = 1e-3
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"manifest\.json: 'digest' .*'spec'"):
        write_metrics(results)
    path.unlink()
    with pytest.raises(ConfigError, match=r"manifest\.json: no such file"):
        write_metrics(results, partial=True)


def recorded(folder: Path) -> Path:
    """Results whose manifests record the SHA-256 of ``metrics.csv``, as those of real runs do; one run's folder."""
    results = finished(folder)
    for manifest in results.glob("*/*/*/seed*/manifest.json"):
        content = json.loads(manifest.read_text())
        content["results"] = {"metrics.csv": describe((manifest.parent / "metrics.csv").read_bytes())}
        manifest.write_text(json.dumps(content))
    return results


@pytest.mark.parametrize("reader", READERS)
def test_metrics_edited_after_the_run_are_refused(tmp_path: Path, reader: str):
    results = recorded(tmp_path)
    READERS["metrics"](results, False)  # nothing is wrong with them
    metrics = results / f"runs/{TASK}/dfp/seed1/metrics.csv"
    metrics.write_text(metrics.read_text().replace("0.5", "0.9"))
    with pytest.raises(ConfigError, match=r"^[^\n]*dfp/seed1/metrics\.csv: .*manifest\.json"):
        READERS[reader](results, False)


def test_metrics_of_another_seed_are_refused(tmp_path: Path):
    results = recorded(tmp_path)
    run = results / f"runs/{TASK}/dfp"
    metrics = (run / "seed0/metrics.csv").read_text()
    (run / "seed1/metrics.csv").write_text(metrics + "\n")
    with pytest.raises(ConfigError, match=r"dfp/seed1/metrics\.csv: not the file"):
        write_metrics(results, partial=True)


def test_a_whole_folder_may_move(tmp_path: Path):
    before = write_metrics(finished(tmp_path / "a")).read_text()
    (tmp_path / "a").rename(tmp_path / "b")
    assert write_metrics(tmp_path / "b").read_text() == before


def test_a_run_table_without_digests_is_judged_by_its_configuration(tmp_path: Path, merged: Path):
    results = shutil.copytree(merged, tmp_path / "results")
    runs = read_runs(results)
    runs.drop(columns=["digest", "pretrained_digest"]).to_csv(results / "runs.csv", index=False)
    with pytest.raises(ConfigError, match=r"learning_rate .*0\.001, .*0\.0003"):
        write_metrics(results)
    with pytest.raises(ConfigError, match=r"learning_rate .*0\.001, .*0\.0003"):
        refuse_misplaced(results / f"runs/{TASK}/dfp/seed1")
    replace(results / f"runs/{TASK}/dfp/seed1", finished(tmp_path / "right") / f"runs/{TASK}/dfp/seed1")
    write_metrics(results)
    (results / CONFIG).unlink()
    with pytest.raises(ConfigError, match=r"runs\.csv: .*'digest' .* dfp report runs --config"):
        write_metrics(results)


def test_without_a_configuration_the_run_table_itself_says_what_belongs(tmp_path: Path):
    results = finished(tmp_path)
    (results / CONFIG).unlink()
    replace(results / f"runs/{TASK}/dfp/seed1", results / f"runs/{TASK}/dfp/seed0")
    with pytest.raises(ConfigError, match=r"dfp/seed1/manifest\.json: seed is 0, but 1 belongs here;"):
        write_metrics(results)


def test_the_run_table_comes_with_its_configuration(tmp_path: Path):
    (tmp_path / "small.json").write_text(canonical_json(SMALL.model_dump(mode="json")))
    command = ["report", "runs", "--config", str(tmp_path / "small.json"), "--results-dir", str(tmp_path / "results")]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert json.loads((tmp_path / "results" / CONFIG).read_text()) == SMALL.model_dump(mode="json")
    specs = plan(SMALL, CATALOGUE).specs
    runs = read_runs(tmp_path / "results")
    assert set(runs.digest) <= {spec.digest() for spec in specs.values()}
    assert [specs[folder].digest() for folder in runs.pretrained] == list(runs.pretrained_digest)


def test_a_fine_tuning_starts_from_its_own_pretraining_only(tmp_path: Path):
    results = finished(tmp_path)
    spec = plan(SMALL, CATALOGUE).specs[f"runs/{TASK}/dfp/seed0"].pretraining()
    refuse_other(results / f"pretrained/{TASK}/drifting/seed0", spec)
    with pytest.raises(ConfigError, match="seed is 1, but 0 belongs here"):
        refuse_other(results / f"pretrained/{TASK}/drifting/seed1", spec)
