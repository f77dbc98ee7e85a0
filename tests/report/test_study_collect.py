"""Runs enter the study by their digest, from any folder, and never from two data files."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from support.synthetic import write_run

from dfp.plan.catalogue import CATALOGUE, load_catalogue, load_config
from dfp.plan.experiments import plan
from dfp.report.study.data import collect_study, read_metrics
from dfp.spec import ConfigError

TASK = "cube-single-task2"


class TestCollect:
    specs = plan(load_config(CATALOGUE / "study.yaml"), load_catalogue()).specs

    def folder(self, root: Path, *places: str) -> Path:
        for place in places:
            write_run(root / place, self.specs[place], 0.5)
        return root

    def test_a_run_is_known_by_its_digest_not_by_its_folder(self, tmp_path: Path):
        results = self.folder(tmp_path / "r", f"pretrained/{TASK}/drifting/seed0", f"runs/{TASK}/dfp/seed0")
        (results / f"runs/{TASK}/dfp").rename(results / f"runs/{TASK}/any-name")
        metrics, origin = collect_study("study", results, tmp_path / "s")
        tidy = read_metrics(tmp_path / "s")
        # DFP's pretraining is that of its variants too, which have no online rows yet.
        assert list(tidy[tidy.method == "dfp"].phase) == ["offline", "offline", "online", "online"]
        assert set(tidy[tidy.phase == "online"].method) == {"dfp"}
        assert pd.read_csv(origin).run.tolist()[-1] == f"runs/{TASK}/any-name/seed0"
        before = metrics.read_text()
        collect_study("study", results, tmp_path / "s")
        assert metrics.read_text() == before

    def test_runs_of_two_machines_add_up(self, tmp_path: Path):
        one = self.folder(tmp_path / "one", f"pretrained/{TASK}/drifting/seed1", f"runs/{TASK}/dfp/seed1")
        two = self.folder(
            tmp_path / "two",
            f"pretrained/{TASK}/drifting/seed0",
            f"pretrained/{TASK}/drifting/seed1",
            f"runs/{TASK}/dfp/seed0",
        )
        collect_study("study", one, tmp_path / "s")
        metrics, origin = collect_study("study", two, tmp_path / "s")
        tidy = read_metrics(tmp_path / "s")
        online = tidy[(tidy.method == "dfp") & (tidy.phase == "online")]
        assert online.seed.tolist() == [0, 0, 1, 1]
        assert len(tidy[(tidy.method == "dfp-no-topk") & (tidy.seed == 1)]) == 2  # its pretraining's rows, once
        assert pd.read_csv(origin).run.tolist() == [
            f"pretrained/{TASK}/drifting/seed0",
            f"pretrained/{TASK}/drifting/seed1",
            f"runs/{TASK}/dfp/seed0",
            f"runs/{TASK}/dfp/seed1",
        ]
        both = metrics.read_text()
        collect_study("study", one, tmp_path / "s")
        assert metrics.read_text() == both

    def test_a_run_that_the_configuration_no_longer_lists_leaves(self, tmp_path: Path):
        one = self.folder(tmp_path / "one", f"pretrained/{TASK}/drifting/seed0", f"runs/{TASK}/dfp/seed0")
        _, origin = collect_study("study", one, tmp_path / "s")
        digest = self.specs[f"runs/{TASK}/dfp/seed0"].digest()
        origin.write_text(origin.read_text().replace(digest, "0" * 64))  # made with other settings
        empty = tmp_path / "empty"
        empty.mkdir()
        collect_study("study", empty, tmp_path / "s")
        assert set(read_metrics(tmp_path / "s").phase) == {"offline"}
        assert pd.read_csv(origin).stage.tolist() == ["pretrain"]

    def test_a_foreign_run_is_refused(self, tmp_path: Path):
        results = self.folder(tmp_path / "r", "runs/cube-single-task2/dfp/seed0")
        spec = self.specs["runs/cube-single-task2/dfp/seed1"]
        faster = spec.training.model_copy(update={"learning_rate": 1e-3})
        write_run(results / "runs/cube-single-task2/dfp/seed1", spec.model_copy(update={"training": faster}), 0.5)
        with pytest.raises(ConfigError, match=r"dfp/seed1/manifest\.json: digest .*config/study\.yaml"):
            collect_study("study", results, tmp_path / "s")
        with pytest.raises(ConfigError, match="study 'demo': allowed: study, study-dfp, study-lift, equality"):
            collect_study("demo", results, tmp_path / "s")

    def test_runs_of_two_data_files_are_not_mixed(self, tmp_path: Path):
        places = [(f"pretrained/{TASK}/drifting/seed{seed}", f"runs/{TASK}/dfp/seed{seed}") for seed in (0, 1)]
        one, two = (self.folder(tmp_path / str(seed), *places[seed]) for seed in (0, 1))
        metrics, _ = collect_study("study", one, tmp_path / "s")
        before = metrics.read_text()
        for place in places[1]:
            manifest = two / place / "manifest.json"
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"data_sha256": 64 * "b"}))
        with pytest.raises(ConfigError, match=r"seed1: .*SHA-256 bbbbbbbb, .*task2 on 00000000; allowed: one"):
            collect_study("study", two, tmp_path / "s")
        assert metrics.read_text() == before
        # By themselves they are a study too.
        collect_study("study", two, tmp_path / "t")
        self.folder(two, *places[0])
        with pytest.raises(ConfigError, match="allowed: one data file"):
            collect_study("study", two, tmp_path / "u")
        assert not (tmp_path / "u" / "metrics.csv").exists()


def test_results_that_are_not_there_are_named_and_nothing_is_written(tmp_path: Path):
    with pytest.raises(ConfigError, match="nowhere: no such folder; give the results of the study with --results-dir"):
        collect_study("study", tmp_path / "nowhere", tmp_path / "page")
    assert not list(tmp_path.iterdir())
