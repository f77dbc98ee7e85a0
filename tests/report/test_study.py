"""The study: runs enter by their digest, comparisons and the rule by hand, the page from the committed CSV files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from support.synthetic import ROOT, write_run

from dfp.plan.catalogue import CATALOGUE, load_catalogue, load_config
from dfp.plan.experiments import plan
from dfp.report.pages import percent, plural, points, ranges
from dfp.report.study.comparisons import (
    RELEASE,
    difference,
    direction,
    equality,
    improvement,
    pair,
    release_scores,
)
from dfp.report.study.data import collect_study, read_metrics, run_scores
from dfp.report.study.page import averaging, choices, silent_rows, write_study_page
from dfp.report.tables.cost import COST_TYPES
from dfp.spec import ConfigError

STUDY = ROOT / "docs" / "study"


def scores(**last: list[float]) -> pd.DataFrame:
    """Finished runs of methods with these values."""
    rows = [(method, seed, value) for method, values in last.items() for seed, value in enumerate(values)]
    return pd.DataFrame(rows, columns=pd.Index(["method", "seed", "last"]))


class TestComparisons:
    def test_a_difference_by_hand(self):
        found = difference(scores(a=[0.9, 0.8, 0.7], b=[0.1, 0.2, 0.3]), pair("a", "b"), "last")
        assert found["value"] == pytest.approx(0.6)
        assert found["n"] == [3, 3]
        assert 0.6 - 0.2 <= found["low"] < 0.6 < found["high"] <= 0.6 + 0.2  # all resampled means lie in these bounds
        assert direction(found) == "same direction"
        assert direction(difference(scores(b=[0.9, 0.8, 0.7], a=[0.1, 0.2, 0.3]), pair("a", "b"), "last")) == "opposite"

    def test_what_scatters_cannot_tell_and_two_seeds_are_too_few(self):
        wide = scores(a=[0.9, 0.1, 0.5], b=[0.2, 0.8, 0.4])
        assert direction(difference(wide, pair("a", "b"), "last")) == "cannot tell"
        few = difference(scores(a=[0.9, 0.8], b=[0.1, 0.2, 0.3]), pair("a", "b"), "last")
        assert (few["n"], direction(few)) == ([2, 3], "too few seeds")
        assert np.isnan(few["value"])

    def test_probability_of_improvement_counts_ties_half(self):
        found = improvement(scores(a=[0.5, 0.5, 0.9], b=[0.5, 0.1, 0.1]), "a", "b")
        assert found["value"] == pytest.approx((2 * 2.5 + 3) / 9)  # 0.5 beats two and ties one, twice; 0.9 beats three

    def test_an_asymmetry_is_a_difference_of_differences(self):
        four = scores(a=[0.9] * 3, b=[0.5] * 3, c=[0.6] * 3, d=[0.4] * 3)
        found = difference(four, {"a": 1, "b": -1, "c": -1, "d": 1}, "last")
        assert (found["value"], found["low"], found["high"]) == pytest.approx((0.2, 0.2, 0.2))


def test_scores_of_a_run_by_hand():
    rates = {2: 0.0, 4: 0.2, 6: 0.4, 8: 0.8, 10: 0.6, 12: 0.9}  # offline to 4, online to 12
    key = {"stage": "finetune", "task": "t", "method": "m", "seed": 0}
    tidy = pd.DataFrame([key | {"step": step, "success_rate": rate} for step, rate in rates.items()])
    runs = pd.DataFrame([key | {"offline_steps": 4, "online_steps": 8}])
    row = run_scores(tidy, runs).iloc[0]
    assert (row.final, row["last"], row.offline) == pytest.approx((0.9, (0.8 + 0.6 + 0.9) / 3, 0.1))
    assert row.area == pytest.approx((0.3 + 0.6 + 0.7 + 0.75) / 4)  # means between neighbours, two steps each
    assert row.steps == 4  # step 8 is the first of at least 80 %, four after the switch
    assert (row.best, row.regret) == pytest.approx((0.9, 1 - row.area))
    without_switch = run_scores(tidy[tidy.step > 4], runs).iloc[0]  # the pretraining's folder is missing
    assert without_switch.final == 0.9
    assert without_switch[["area", "regret", "steps", "offline"]].isna().all()
    unfinished = run_scores(tidy[tidy.step < 12], runs).iloc[0]
    assert unfinished[["final", "last", "area", "steps"]].isna().all()
    assert unfinished.offline == pytest.approx(0.1)


def test_the_last_three_evaluations_are_never_of_the_phase_before():
    """A short online phase, as lift's, has two: the score is their mean."""
    key = {"stage": "finetune", "task": "t", "method": "m", "seed": 0}
    tidy = pd.DataFrame([key | {"step": step, "success_rate": step / 10} for step in (1, 2, 3, 4, 5, 6)])
    row = run_scores(tidy, pd.DataFrame([key | {"offline_steps": 4, "online_steps": 2}])).iloc[0]
    assert (row["last"], row.offline) == pytest.approx((0.55, 0.3))


class TestEquality:
    def test_the_release_has_the_runs_that_its_source_says(self):
        theirs = release_scores(pd.read_csv(RELEASE))
        assert theirs.groupby("method").size().to_dict() == {"dfp": 12, "mvp": 5, "qc-fql": 6}
        means = theirs.groupby("method")[["online", "final"]].mean()
        assert means.loc["mvp"].round(2).tolist() == [0.32, 0.47]
        assert means.loc["dfp"].round(3).tolist()[0] == 0.266

    def test_findings(self):
        theirs = pd.DataFrame({"method": "mvp", "seed": range(6), "final": 0.5, "online": 0.3})
        noise = np.array([-0.02, 0.02, -0.01, 0.01, 0.0, 0.0])
        theirs = theirs.assign(final=theirs.final + noise, online=theirs.online + noise)
        ours = theirs.assign(final=theirs.final + 0.3, online=theirs.online + 0.001)
        rows = equality(ours, theirs).set_index(["method", "score"])
        assert rows.loc[("mvp", "final"), "finding"] == "different"
        assert rows.loc[("mvp", "final"), "value"] == pytest.approx(0.3)
        assert rows.loc[("mvp", "online"), "finding"] == "equivalent"
        assert rows.loc[("mvp", "online"), "p"] < 1e-6
        assert rows.loc[("qc-fql", "final"), "finding"] == "too few seeds"
        near = equality(theirs.assign(final=theirs.final + 0.05), theirs).set_index(["method", "score"])
        assert near.loc[("mvp", "final"), "finding"] == "equivalent and different"  # clearly apart, within the margin

    def test_an_unfinished_run_has_neither_score(self):
        steps = [12_500, 15_000, 17_500, 20_000]
        whole = pd.DataFrame({"method": "mvp", "seed": 1, "step": steps, "success_rate": [0.1, 0.2, 0.3, 0.6]})
        begun = whole.iloc[:3].assign(seed=2)
        (row,) = release_scores(pd.concat([whole, begun])).itertuples()
        assert (row.seed, row.final, row.online) == pytest.approx((1, 0.6, 0.3))


class TestCollect:
    specs = plan(load_config(CATALOGUE / "study.yaml"), load_catalogue()).specs

    def folder(self, root: Path, *places: str) -> Path:
        for place in places:
            write_run(root / place, self.specs[place], 0.5)
        return root

    def test_a_run_is_known_by_its_digest_not_by_its_folder(self, tmp_path: Path):
        task = "cube-single-task2"
        results = self.folder(tmp_path / "r", f"pretrained/{task}/drifting/seed0", f"runs/{task}/dfp/seed0")
        (results / f"runs/{task}/dfp").rename(results / f"runs/{task}/any-name")
        metrics, origin = collect_study("study", results, tmp_path / "s")
        tidy = read_metrics(tmp_path / "s")
        # DFP's pretraining is that of its variants too, which have no online rows yet.
        assert list(tidy[tidy.method == "dfp"].phase) == ["offline", "offline", "online", "online"]
        assert set(tidy[tidy.phase == "online"].method) == {"dfp"}
        assert pd.read_csv(origin).run.tolist()[-1] == f"runs/{task}/any-name/seed0"
        before = metrics.read_text()
        collect_study("study", results, tmp_path / "s")
        assert metrics.read_text() == before

    def test_runs_of_two_machines_add_up(self, tmp_path: Path):
        task = "cube-single-task2"
        one = self.folder(tmp_path / "one", f"pretrained/{task}/drifting/seed1", f"runs/{task}/dfp/seed1")
        two = self.folder(
            tmp_path / "two",
            f"pretrained/{task}/drifting/seed0",
            f"pretrained/{task}/drifting/seed1",
            f"runs/{task}/dfp/seed0",
        )
        collect_study("study", one, tmp_path / "s")
        metrics, origin = collect_study("study", two, tmp_path / "s")
        tidy = read_metrics(tmp_path / "s")
        online = tidy[(tidy.method == "dfp") & (tidy.phase == "online")]
        assert online.seed.tolist() == [0, 0, 1, 1]
        assert len(tidy[(tidy.method == "dfp-no-topk") & (tidy.seed == 1)]) == 2  # its pretraining's rows, once
        assert pd.read_csv(origin).run.tolist() == [
            f"pretrained/{task}/drifting/seed0",
            f"pretrained/{task}/drifting/seed1",
            f"runs/{task}/dfp/seed0",
            f"runs/{task}/dfp/seed1",
        ]
        both = metrics.read_text()
        collect_study("study", one, tmp_path / "s")
        assert metrics.read_text() == both

    def test_a_run_that_the_configuration_no_longer_lists_leaves(self, tmp_path: Path):
        task = "cube-single-task2"
        one = self.folder(tmp_path / "one", f"pretrained/{task}/drifting/seed0", f"runs/{task}/dfp/seed0")
        _, origin = collect_study("study", one, tmp_path / "s")
        digest = self.specs[f"runs/{task}/dfp/seed0"].digest()
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
        task = "cube-single-task2"
        places = [(f"pretrained/{task}/drifting/seed{seed}", f"runs/{task}/dfp/seed{seed}") for seed in (0, 1)]
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


def test_results_that_are_not_there_are_named_and_nothing_is_written(tmp_path: Path):
    with pytest.raises(ConfigError, match="nowhere: no such folder; give the results of the study with --results-dir"):
        collect_study("study", tmp_path / "nowhere", tmp_path / "page")
    assert not list(tmp_path.iterdir())


def test_the_average_of_three_against_the_last_one_by_hand():
    """Gaps of 10, -10 and 1 points are 7 on average; two seeds are not told."""
    frame = pd.DataFrame({"stage": "offline", "method": ["bc"] * 3 + ["iql"] * 2, "final": [0.6, 0.4, 0.51, 0.9, 0.1]})
    text = averaging(frame.assign(last=0.5))
    assert text.startswith("over 3 runs of 1 method they differ by 7.0 points on average")
    assert text.endswith("standard deviation over seeds: 0.0 points for the mean, 10.0 for the last")
    assert averaging(frame.iloc[3:].assign(last=0.5)) == ""


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


def test_numbers_as_pages_write_them():
    row = {"a_mean": 0.5, "a_low": 0.25, "a_high": 0.75, "value": -0.1, "low": -0.2, "high": 0.0}
    assert percent(row, "a") == "50.0 % [25.0, 75.0]"
    assert percent(row | {"a_low": np.nan}, "a") == "50.0 %"
    assert points(row) == "-10.0 [-20.0, +0.0]"
    assert (plural(1, "seed"), plural(12, "seed")) == ("1 seed", "12 seeds")
    assert ranges([4, 0, 2, 3]) == "0, 2-4"


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
