"""The study's numbers by hand: scores of a run, differences of methods, equality with the release."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dfp.report.pages import percent, plural, points, ranges
from dfp.report.study.comparisons import RELEASE, difference, direction, equality, improvement, pair, release_scores
from dfp.report.study.data import run_scores
from dfp.report.study.page import averaging


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


def test_the_average_of_three_against_the_last_one_by_hand():
    """Gaps of 10, -10 and 1 points are 7 on average; two seeds are not told."""
    frame = pd.DataFrame({"stage": "offline", "method": ["bc"] * 3 + ["iql"] * 2, "final": [0.6, 0.4, 0.51, 0.9, 0.1]})
    text = averaging(frame.assign(last=0.5))
    assert text.startswith("over 3 runs of 1 method they differ by 7.0 points on average")
    assert text.endswith("standard deviation over seeds: 0.0 points for the mean, 10.0 for the last")
    assert averaging(frame.iloc[3:].assign(last=0.5)) == ""


def test_numbers_as_pages_write_them():
    row = {"a_mean": 0.5, "a_low": 0.25, "a_high": 0.75, "value": -0.1, "low": -0.2, "high": 0.0}
    assert percent(row, "a") == "50.0 % [25.0, 75.0]"
    assert percent(row | {"a_low": np.nan}, "a") == "50.0 %"
    assert points(row) == "-10.0 [-20.0, +0.0]"
    assert (plural(1, "seed"), plural(12, "seed")) == ("1 seed", "12 seeds")
    assert ranges([4, 0, 2, 3]) == "0, 2-4"
