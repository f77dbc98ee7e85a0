"""The study's page, from invented rows and from the committed CSV files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from support.synthetic import ROOT

from dfp.report.study.data import read_metrics
from dfp.report.study.page import choices, silent_rows, write_study_page
from dfp.report.tables.cost import COST_TYPES
from dfp.spec import ConfigError

STUDY = ROOT / "docs" / "study"
ENDS = {"mvp": 0.9, "mvp-topk": 0.8, "dfp-no-topk": 0.5, "dfp": 0.4, "dfp_h=0.1": 0.7, "qc-bfn": 0.3}


def study_of(method: str) -> str:
    return "study" if method in ("mvp", "mvp-topk", "dfp-no-topk", "dfp") else "study-dfp"


def synthetic(folder: Path, n: int, methods: tuple[str, ...]) -> Path:
    """``n`` seeds of methods, of which MVP ends highest, and of Table 7's BC; one seed of the variant K=1.

    DFP's variants and the baselines are of study-dfp, with a DFP of their own.
    """
    rows = []
    runs = [(study_of(method), "finetune", method, seed, ENDS[method]) for method in methods for seed in range(n)]
    if any(study == "study-dfp" for study, *_ in runs):
        runs += [("study-dfp", "finetune", "dfp", seed, ENDS["dfp"] - 0.1) for seed in range(n)]
    runs += [("study-dfp", "finetune", "dfp_K=1", 0, 0.5)]
    runs += [("study", "offline", "bc", seed, 0.3) for seed in range(min(n, 3))]
    for study, stage, method, seed, end in runs:
        length = 80_000 if stage == "finetune" else 50_000
        for step in range(5000, length + 1, 5000):
            rate = (end - 0.02 * seed) * step / length
            phase = "offline" if step <= 50000 else "online"
            run = (study, stage, "cube-single-task2", method, seed)
            rows.append((*run, phase, step, round(rate, 4), 50, -1.0, 100.0, 1.0, 0))
    folder.mkdir()
    header = pd.read_csv(STUDY / "metrics.csv", nrows=0).columns
    pd.DataFrame(rows, columns=header).to_csv(folder / "metrics.csv", index=False)
    origin = pd.read_csv(STUDY / "provenance.csv", dtype="str", keep_default_na=False)
    two_files = [64 * str(row % 2) for row in range(len(origin))]
    origin.assign(data_sha256=two_files).to_csv(folder / "provenance.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of five seeds, with costs: an update of DFP or MVP takes 6 ms offline and 12 ms online."""
    folder = synthetic(tmp_path_factory.mktemp("study") / "five", 5, ("mvp", "dfp", "dfp_h=0.1", "qc-bfn"))
    cost = [
        (method, method, phase, ms, "cube-single-task2", 128, 3, 128, "cpu")
        for method, action in (("dfp", 2.0), ("mvp", 2.0), ("qc-bfn", 9.0))
        for phase, ms in (("offline", 6.0), ("online", 12.0), ("evaluation", action))
    ]
    pd.DataFrame(cost, columns=pd.Index(COST_TYPES)).to_csv(folder / "cost.csv", index=False)
    write_study_page(folder)
    return folder


class TestPage:
    def test_a_contradiction_is_on_the_first_screen_with_what_was_checked(self, five: Path):
        lines = (five / "README.md").read_text().splitlines()
        assert lines[3].startswith("On cube-single-task2")
        first_screen = "\n".join(lines[:25])
        assert "**MVP 80.6 % [76.9, 84.3]** (n=5)" in first_screen  # 0.90 to 0.82, times 15/16 over the last three
        assert "**Here the result contradicts the paper:**" in first_screen
        assert "`dfp − mvp` is **-46.9 [" in first_screen
        assert "runs of cube-single-task2 in `study.yaml` used 2 different files" in "\n".join(lines)
        assert "probability of improvement 0.0 [0.0, 0.0] %" in first_screen
        assert "What was checked:" in first_screen
        assert "cannot tell" not in first_screen
        claims = pd.read_csv(five / "study-claims.csv").set_index(["difference", "score"])
        row = claims.loc[("dfp − mvp", "mean of the last three evaluations")]
        assert (row.direction, row.n) == ("opposite", "5/5")
        # Welch by hand: s = 0.02 * sqrt(2.5) * 15 / 16 on both sides, t(8) = 2.306.
        assert row.welch == pytest.approx(2.306 * 0.02 * 2.5**0.5 * 15 / 16 * 0.4**0.5, rel=1e-3)
        assert len(claims) == 7  # those of Table 2's methods
        others = pd.read_csv(five / "study-dfp-claims.csv").set_index("difference")
        assert others.direction.to_dict() == {
            "dfp − qc-fql": "too few seeds", "dfp − qc-bfn": "cannot tell",
            "dfp − fql": "too few seeds", "dfp − bfn": "too few seeds",
        }  # fmt: skip

    def test_a_method_without_runs_is_named_once(self, five: Path):
        text = (five / "README.md").read_text()
        assert "`config/study.yaml`: `bc`" not in text  # three of three seeds
        assert "`config/study.yaml`: no online run of `mvp-topk`, `dfp-no-topk`" in text
        assert "`config/study-dfp.yaml`: `dfp_K=1`, seeds 1-4; no online run of `dfp_field=mean_shift`" in text
        assert "| MVP w/ top-K |" not in text
        assert "— |" not in text.split("## Learning curves")[1].split("## What a point costs")[0]
        assert "## Lift" not in text
        assert "## Equality" not in text
        assert {path.stem for path in five.glob("*.png")} == {
            "curves-ablation", "curves-baselines", "curves-open", "curves-sensitivity", "differences", "cost",
        }  # fmt: skip

    def test_costs_by_hand(self, five: Path):
        row = pd.read_csv(five / "study-cost.csv").set_index("method").loc["dfp"]
        assert row.minutes == pytest.approx((50_000 * 6 + 30_000 * 12) / 60_000)
        assert row.minutes_per_point == pytest.approx(11 / (100 * 0.36 * 15 / 16), rel=1e-3)
        assert np.isnan(row.minutes_to_goal)
        text = (five / "README.md").read_text()
        # MVP is at 80 % after 75,000 steps (three seeds) or 80,000 (two); DFP and QC-BFN never are.
        assert "gets there after 10.0 (MVP) ([cost]" in text.replace("\n", " ")
        assert "One action costs QC-BFN (ten steps) 4.5 times what it costs DFP (one step)" in text

    def test_what_it_says_to_the_gaps_of_the_paper(self, five: Path):
        rows = silent_rows(five)
        assert set(rows) == {"Bandwidth on OGBench", "Which evaluations count"}  # no run has the other field
        assert "+37.5 [" in rows["Bandwidth on OGBench"]  # (0.7 - 0.3) * 15 / 16, against the DFP of its own study
        assert rows["Bandwidth on OGBench"].endswith("(n=5/5), the first is better")
        assert "mean of the last three evaluations (n=5/5)" in rows["Bandwidth on OGBench"]
        table = (ROOT / "docs" / "where-the-paper-is-silent.md").read_text()
        assert all(f"| {row} |" in table for row in [*rows, "Normalisation of the field"])

    def test_before_the_online_runs_a_choice_is_told_by_the_offline_phase(self, five: Path, tmp_path: Path):
        folder = tmp_path / "study"
        folder.mkdir()
        metrics = pd.read_csv(five / "metrics.csv")
        of_choices = metrics.study == "study-dfp"
        metrics[~of_choices | (metrics.step <= 50_000)].to_csv(folder / "metrics.csv", index=False)
        shutil.copy(five / "provenance.csv", folder)
        write_study_page(folder)
        answer = silent_rows(folder)["Bandwidth on OGBench"]
        # 0.7 against 0.3 at the end of both phases: 45,000 of 80,000 steps is the middle of the last three offline.
        assert "+22.5 [" in answer
        assert "mean of the last three offline evaluations (n=5/5), the first is better" in answer
        assert "`config/study-dfp.yaml`: no online run of `dfp`, `dfp_h=0.1`" in (folder / "README.md").read_text()
        # A method that shares DFP's pretraining has nothing of its own to show yet.
        drawn = {path.stem for path in folder.glob("curves-*.png")}
        assert drawn == {"curves-ablation", "curves-open", "curves-baselines"}

    def test_a_choice_says_if_the_wider_interval_contains_no_difference(self):
        """The bootstrap of three seeds is too narrow."""
        row = {"better": "dfp_h=0.1", "worse": "dfp", "n": "3/3", "last_value": 0.2, "last_low": 0.1, "last_high": 0.3}
        (clear,) = choices([row | {"last_welch": 0.19}]).values()
        (narrow,) = choices([row | {"last_welch": 0.21}]).values()
        assert clear.endswith("(n=3/3), the first is better")
        assert narrow == f"{clear}; Welch's t interval contains 0"
        (untold,) = choices([row | {"last_low": -0.1, "last_welch": 0.4}]).values()
        assert untold.endswith("not told apart")

    @pytest.mark.parametrize(("n", "brackets"), [(1, False), (2, True)])
    def test_few_seeds_decide_nothing(self, tmp_path: Path, n: int, brackets: bool):
        write_study_page(synthetic(tmp_path / "study", n, ("mvp", "dfp")))
        text = (tmp_path / "study" / "README.md").read_text()
        opening = text.split("## What was decided")[0]
        assert f"(n={n})" in opening
        assert ("[" in opening.split("(n=")[0]) == brackets
        assert "None of the 11 comparisons" in opening
        assert "Every comparison" not in text
        assert "dfp ops cost --config config/study.yaml --task" in text
        assert f"| MVP | {n} of 5 |" in text
        assert f"of {n} run{'' if n == 1 else 's'}" in text

    def test_no_run_at_all(self, tmp_path: Path):
        folder = synthetic(tmp_path / "study", 0, ())
        pd.read_csv(folder / "metrics.csv").iloc[:0].to_csv(folder / "metrics.csv", index=False)
        write_study_page(folder)
        text = (folder / "README.md").read_text()
        assert "No online run has finished." in text
        assert not list(folder.glob("*.png"))
        assert silent_rows(folder) == {}


def test_a_contradiction_on_lift_is_on_the_first_screen_too(tmp_path: Path):
    folder = synthetic(tmp_path / "study", 3, ("mvp", "dfp"))
    runs = pd.read_csv(folder / "metrics.csv")
    lift = runs[runs.method.isin(["mvp", "dfp"]) & (runs.step <= 30_000)].assign(study="study-lift", task="lift")
    lift.loc[lift.step > 20_000, "phase"] = "online"
    pd.concat([runs, lift]).to_csv(folder / "metrics.csv", index=False)
    write_study_page(folder)
    opening = (folder / "README.md").read_text().split("## What was decided")[0]
    assert "On lift, in another simulator, the mean of both online evaluations is: MVP " in opening
    assert "**Here lift contradicts the paper:** “improves the average score by +15.5 pp over MVP”" in opening
    assert "nearly solved" not in opening  # explains another claim


def test_a_run_that_no_study_lists_is_refused(tmp_path: Path):
    folder = synthetic(tmp_path / "study", 1, ("mvp",))
    text = (folder / "metrics.csv").read_text()
    for old, new, message in (
        (
            ",mvp,",
            ",dfp_K=1,",
            r"metrics\.csv: finetune, .*, dfp_K=1, seed 0 is not in config/study\.yaml",
        ),
        ("study,finetune", "lite,finetune", r"metrics\.csv: study 'lite': allowed: study, study-dfp"),
    ):
        (folder / "metrics.csv").write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=message):
            write_study_page(folder)


@pytest.mark.parametrize("order", [[0, 2, 1], [0, 1, 1]])
def test_evaluations_out_of_order_or_listed_twice_are_refused(tmp_path: Path, order: list[int]):
    folder = synthetic(tmp_path / "study", 1, ("mvp",))
    metrics = pd.read_csv(folder / "metrics.csv")
    assert len(read_metrics(folder)) == len(metrics)
    metrics.iloc[order].to_csv(folder / "metrics.csv", index=False)
    with pytest.raises(ConfigError, match=r"metrics\.csv: row 3: step is 10000; allowed: larger than"):
        read_metrics(folder)


def test_the_committed_study_is_made_from_its_csv_files(tmp_path: Path):
    folder = tmp_path / "study"
    folder.mkdir()
    for name in ("metrics.csv", "provenance.csv", "cost.csv"):
        if (STUDY / name).exists():
            shutil.copy(STUDY / name, folder)
    made = write_study_page(folder)
    assert {path.name for path in folder.iterdir()} == {path.name for path in STUDY.iterdir()}
    for path in made:
        committed = STUDY / path.name
        if path.suffix in (".md", ".csv"):
            assert path.read_text() == committed.read_text(), path.name
        elif path.suffix == ".png":
            ours, theirs = matplotlib.image.imread(path), matplotlib.image.imread(committed)
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).mean() < 0.01, path.name
    assert sum(path.stat().st_size for path in STUDY.iterdir()) < 3_000_000


def test_every_number_of_the_committed_study_has_its_provenance():
    tidy = read_metrics(STUDY)
    origin = pd.read_csv(STUDY / "provenance.csv", dtype="str", keep_default_na=False)
    assert not origin.duplicated(["study", "digest"]).any()
    online = tidy[tidy.phase == "online"].drop_duplicates(["study", "method", "seed", "task"])
    assert len(online) == (origin.stage == "finetune").sum()
    assert set(json.loads(origin.versions.iloc[0])) >= {"jax", "mujoco", "ogbench"}
