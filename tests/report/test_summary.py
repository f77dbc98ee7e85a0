"""Provenance, summary and pages: what they say of runs whose manifests are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.synthetic import configured, make_results

from dfp.report.pages import write_page
from dfp.report.provenance import COLUMNS, write_provenance
from dfp.report.summary import write_summary
from dfp.report.verdict.found import Headline
from dfp.report.verdict.page import write_verdict
from dfp.spec import ConfigError

SMOKE = configured("smoke", seeds=[0, 1])
RATES = {"mvp": 0.2, "mvp-topk": 0.3, "dfp-no-topk": 0.4, "dfp": 0.5}


def rate(spec, method: str) -> float:
    return RATES.get(method, 0.1) + 0.1 * spec.seed


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("summary"), SMOKE, rate)


def test_provenance_has_every_folder_once(results: Path):
    table, page = write_provenance(results)
    frame = pd.read_csv(table)
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == frame.run.nunique() == 2 * (2 + 4)  # two pretrainings and four methods, two seeds
    assert set(frame.hours) == {1.0}  # 3,600 s spent, though only 1,800 s of them are kept work
    text = page.read_text()
    assert "12 finished runs." in text
    assert "| mujoco | 3.7.0 | 12 |" in text
    assert "- **12 runs are not at the paper's scale**: not a reproduction." in text


def test_provenance_warns_of_mixed_and_changed_code(tmp_path: Path):
    make_results(tmp_path, SMOKE, rate)
    path = tmp_path / "runs/cube-single-task2/dfp/seed0/manifest.json"
    manifest = json.loads(path.read_text())
    manifest |= {"git_commit": "f" * 40 + "-dirty", "device": "NVIDIA H100", "versions": {"jax": "0.11.0"}}
    manifest["data_sha256"] = 64 * "1"
    path.write_text(json.dumps(manifest))
    text = write_provenance(tmp_path)[1].read_text()
    assert "- **1 runs had uncommitted changes**" in text
    assert "- **2 versions of the code** among the runs." in text
    assert "- **2 kinds of device** among the runs." in text
    assert "- **2 different files of the same data** among the runs of cube-single-task2." in text
    assert "- **Several versions** of jax, mujoco, python." in text


def test_provenance_names_every_commit_and_device_of_a_run(tmp_path: Path):
    make_results(tmp_path, SMOKE, rate)
    path = tmp_path / "runs/cube-single-task2/dfp/seed0/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["earlier"] = [{"git_commit": "f" * 40 + "-dirty", "device": "NVIDIA H100", "versions": {}}]
    path.write_text(json.dumps(manifest))
    table, page = write_provenance(tmp_path)
    (row,) = [row for row in pd.read_csv(table).itertuples() if row.run == "runs/cube-single-task2/dfp/seed0"]
    assert row.device == "NVIDIA H100, then cpu"
    assert row.git_commit == "f" * 40 + "-dirty, then " + "0" * 40
    assert "- **1 runs had uncommitted changes**" in page.read_text()
    assert "- **2 kinds of device** among the runs." in page.read_text()
    assert f"{'f' * 12}-dirty, then {'0' * 12} (1)" in write_summary(tmp_path).read_text()


def test_a_device_counts_once_also_if_every_run_was_continued_on_another(tmp_path: Path):
    make_results(tmp_path, configured("smoke", seeds=[0]), rate)
    for path in tmp_path.glob("*/*/*/seed0/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["earlier"] = [{"git_commit": manifest["git_commit"], "device": "NVIDIA H100", "versions": {}}]
        path.write_text(json.dumps(manifest))
    text = write_provenance(tmp_path)[1].read_text()
    assert "- **2 kinds of device** among the runs." in text
    assert "versions of the code" not in text


@pytest.mark.parametrize("write", [write_provenance, write_summary, write_verdict])
@pytest.mark.parametrize(("change", "says"), [({}, "is missing"), ({"attempts": None}, "is None")])
def test_a_manifest_without_what_is_needed_is_refused(tmp_path: Path, write, change: dict, says: str):
    make_results(tmp_path, SMOKE, rate)
    path = tmp_path / "runs/cube-single-task2/dfp/seed0/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["attempts"]
    path.write_text(json.dumps(manifest | change))
    with pytest.raises(ConfigError, match=f"dfp/seed0: 'attempts' {says} in the run's manifest"):
        write(tmp_path)


def test_unfinished_runs_are_an_error_or_are_counted(tmp_path: Path):
    make_results(tmp_path, SMOKE, lambda spec, method: None if method == "dfp" else 0.5)
    with pytest.raises(ConfigError, match=r"runs/cube-single-task2/dfp/seed0/metrics\.csv: no such file"):
        write_provenance(tmp_path)
    assert (
        "10 finished runs; 2 more listed and not finished." in write_provenance(tmp_path, partial=True)[1].read_text()
    )
    text = write_summary(tmp_path, partial=True).read_text()
    assert "10 of 12 finished" in text
    assert "| DFP (Ours) | — | — |" in text


def test_summary_says_what_ran_and_at_which_scale(results: Path):
    text = write_summary(results).read_text()
    assert "12 of 12 finished (8 offline-to-online, 4 pretraining); tasks: 1; seeds per cell: 2" in text
    assert "cpu (12); 12.0 hours of all attempts" in text
    assert "network.width 16 (paper: 512)" in text
    assert "**No run is at the paper's scale, so no number here confirms or contradicts the paper.**" in text
    # 0.5 and 0.6: mean 55, deviation 10 / sqrt(2).
    assert "| DFP (Ours) | 55.0 ± 7.1 (n=2) | 55.0 |" in text
    assert "0 agrees, 0 differs" in text


def test_summary_of_nothing(tmp_path: Path):
    make_results(tmp_path, SMOKE, lambda spec, method: None)
    assert "None of 12 runs has finished." in write_summary(tmp_path, partial=True).read_text()


def test_a_page_shows_the_markdown_and_runs_none_of_it(tmp_path: Path):
    source = tmp_path / "table2.md"
    source.write_text("# T & T\n\n| A<br>b | c |\n| :-- | --: |\n| **1** | <u>2</u> |\n\n<script>alert(1)</script>\n")
    page = write_page(source, tmp_path / "table2.html").read_text()
    assert "<h1>T &amp; T</h1>" in page
    assert '<th style="text-align:left">A<br>b</th>' in page
    assert "<strong>1</strong>" in page
    assert "<u>2</u>" in page
    assert "<script>" not in page


def test_summary_and_verdict_begin_with_what_was_found(results: Path):
    found = (
        "On cube-single-task2, success at the end of the online phase is: DFP (Ours) 55.0 % [0.0, 100.0] (n=2), "
        "DFP w/o top-K 45.0 % [0.0, 100.0] (n=2), MVP w/ top-K 35.0 % [0.0, 98.5] (n=2), "
        "MVP 25.0 % [0.0, 88.5] (n=2). Brackets are 95 % t-intervals over seeds."
    )  # 12.706 x 7.07 / sqrt(2) = 63.5 to both sides, and no rate is outside [0, 100]
    write_verdict(results)
    for name in ("summary", "verdict"):
        opening = (results / f"{name}.md").read_text().split("\n## ")[0].splitlines()
        assert opening[2] == found
        assert "scale" in " ".join(opening[3:6])  # the limits come next
        assert "cannot tell" not in " ".join(opening[:6])


def test_the_interval_of_an_average_is_welchs_over_its_tasks():
    cells = [("a", "easy", 0.8, 0.04, 4), ("a", "hard", 0.2, 0.04, 4), ("b", "easy", 0.5, np.nan, 1)]
    summary = pd.DataFrame(cells, columns=["method", "task", "mean", "std", "n"]).set_index(["method", "task"])
    found = Headline("online", ["easy", "hard"], {"a": "A"}, summary)
    assert found.interval("a") == " [46.5, 53.5]"  # sqrt(2 x 0.02^2 / 4) = 0.01414, 6 degrees of freedom: t = 2.447
    assert found._replace(tasks=["easy"]).interval("b") == ""


def test_claims_at_this_scale_follow_the_studys_rule(tmp_path: Path):
    ends = {"mvp": 0.9, "mvp-topk": 0.3, "dfp-no-topk": 0.5, "dfp": 0.5}
    config = configured("smoke", seeds=[0, 1, 2])
    make_results(tmp_path, config, lambda spec, method: ends.get(method, 0.1) + 0.01 * spec.seed)
    verdict = write_verdict(tmp_path)[1].read_text().split("## At this scale")[1].split("## How it is judged")[0]
    assert "### cube-single-task2" in verdict
    line = next(line for line in verdict.splitlines() if "improves the average score" in line)
    # The last three evaluations are half-way and the end here, so 3/4 of 0.5 - 0.9.
    assert "| `dfp − mvp` | mean of the last three evaluations | -30.0 [" in line
    assert line.endswith("| 3/3 | **opposite** |")
    assert "**cannot tell** |" in next(line for line in verdict.splitlines() if "gains substantially" in line)
    assert "Too few seeds so far: `dfp − qc-fql`" in verdict
    assert "- opposite: “improves the average score" in write_summary(tmp_path).read_text()
