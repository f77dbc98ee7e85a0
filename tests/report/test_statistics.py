"""Interquartile mean, bootstrap, improvement, profile, regret and Welch's interval: by hand and against SciPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support.synthetic import configured, make_results

from dfp.plan.run_table import read_runs
from dfp.report.aggregates import COLUMNS, run_ends, write_statistics
from dfp.report.figures import profiles
from dfp.report.statistics import (
    THRESHOLDS,
    at_least_sampling_std,
    interquartile_mean,
    online_regret,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
    t_interval,
    task_mean,
    welch_half_width,
)

# Three tasks of five seeds. rliable 1.2.0 gives for them: IQM 0.424444 and 0.426667, P(X > Y) 0.493333.
X = np.array([[0.09, 0.58, 0.48, 0.11, 0.43], [0.24, 0.09, 0.16, 0.39, 0.59], [0.8, 0.43, 0.73, 0.52, 0.74]])
Y = np.array([[0.77, 0.56, 0.78, 0.71, 0.62], [0.23, 0.23, 0.24, 0.47, 0.02], [0.52, 0.0, 0.25, 0.38, 0.57]])


class TestAggregates:
    def test_interquartile_mean_by_hand(self):
        # Of eight, the two lowest and the two highest go: (0.3 + 0.4 + 0.5 + 0.6) / 4.
        strata = [np.array([0.0, 0.3, 0.4, 1.0]), np.array([0.1, 0.5, 0.6, 0.9])]
        assert interquartile_mean(*strata) == pytest.approx(0.45)

    def test_an_outlier_moves_the_mean_and_not_the_interquartile_mean(self):
        calm, wild = np.array([0.5, 0.5, 0.5, 0.5]), np.array([0.5, 0.5, 0.5, 0.0])
        assert interquartile_mean(wild) == interquartile_mean(calm) == 0.5
        assert task_mean(wild) == 0.375

    def test_as_rliable_has_it(self):
        assert interquartile_mean(*X) == pytest.approx(0.4244444444444444)
        assert interquartile_mean(*Y) == pytest.approx(0.4266666666666667)
        assert probability_of_improvement(*X, *Y) == pytest.approx(0.49333333333333335)

    def test_probability_of_improvement_by_hand(self):
        # First task: of 2 x 2 pairs 0.5 wins over 0.1 and ties 0.5, 0.2 wins over 0.1: (1 + 1/2 + 1) / 4. Second: 1.
        x, y = [np.array([0.5, 0.2]), np.array([1.0])], [np.array([0.1, 0.5]), np.array([0.0, 0.9])]
        assert probability_of_improvement(*x, *y) == pytest.approx((2.5 / 4 + 1) / 2)
        assert probability_of_improvement(*y, *x) == pytest.approx(1 - (2.5 / 4 + 1) / 2)

    def test_probability_of_improvement_is_mann_and_whitneys_u(self):
        u = [stats.mannwhitneyu(x, y).statistic / 25 for x, y in zip(X, Y, strict=True)]
        assert probability_of_improvement(*X, *Y) == pytest.approx(np.mean(u))

    def test_performance_profile_by_hand(self):
        profile = dict(zip(np.round(THRESHOLDS, 2), performance_profile(np.array([0.0, 0.5, 1.0, 0.52])), strict=True))
        assert (profile[0.0], profile[0.45], profile[0.5], profile[0.95]) == (0.75, 0.75, 0.5, 0.25)

    def test_tasks_weigh_the_same_in_the_mean_whatever_their_seeds(self):
        assert task_mean(np.array([1.0]), np.array([0.0, 0.0, 0.0])) == 0.5


class TestStratifiedBootstrap:
    def test_two_calls_agree_to_the_bit(self):
        first, second = (np.array(stratified_bootstrap(performance_profile, list(X))) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert first.shape == (2, len(THRESHOLDS))

    def test_of_one_task_it_is_scipys(self):
        ours = stratified_bootstrap(task_mean, [X[0]])
        theirs = stats.bootstrap((X[0],), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0))
        assert ours == (theirs.confidence_interval.low, theirs.confidence_interval.high)

    def test_only_seeds_are_resampled_never_tasks(self):
        # Tasks differ, seeds do not: a bootstrap over tasks would have an interval.
        low, high = stratified_bootstrap(task_mean, [np.array([0.1, 0.1]), np.array([0.9, 0.9])])
        assert (low, high) == (0.5, 0.5)

    def test_all_samples_of_two_seeds_by_hand(self):
        # Means of 0.0 and 1.0 drawn twice: 0, 1/2 (twice), 1, each end with probability 1/4 > 2.5 %.
        assert stratified_bootstrap(task_mean, [np.array([0.0, 1.0])]) == (0.0, 1.0)

    def test_one_seed_has_no_interval_and_spoils_that_of_all_tasks(self):
        for strata in ([np.array([0.5])], [np.array([0.5]), np.array([0.1, 0.9])]):
            assert np.isnan(stratified_bootstrap(task_mean, strata)).all()

    def test_it_covers_the_truth_about_as_often_as_it_says(self):
        # 12 tasks of 5 seeds: percentile intervals are known to be somewhat short with few seeds.
        draw = np.random.default_rng(1)
        hits = 0
        for _ in range(60):
            low, high = stratified_bootstrap(task_mean, list(draw.normal(0.5, 0.1, (12, 5))))
            hits += low <= 0.5 <= high
        assert 48 <= hits <= 60


class TestStudent:
    def test_intervals_by_hand(self):
        # t(4) = 2.776445 of five seeds, t(1) = 12.706205 of two; the bounds stay within [0, 1]; one seed has none.
        summary = pd.DataFrame({"mean": [0.5, 0.5, 0.95, 0.5], "std": [0.1, 0.01, 0.1, np.nan], "n": [5, 2, 5, 1]})
        found = t_interval(summary)
        half = [2.776445 * 0.1 / 5**0.5, 12.706205 * 0.01 / 2**0.5]
        assert found.low[:3].tolist() == pytest.approx([0.5 - half[0], 0.5 - half[1], 0.95 - half[0]], abs=1e-6)
        assert found.high[:3].tolist() == pytest.approx([0.5 + half[0], 0.5 + half[1], 1.0], abs=1e-6)
        assert found[["low", "high"]].iloc[3].isna().all()


class TestWelch:
    def test_two_means_are_scipys(self):
        a, b = np.array([0.9, 0.8, 0.85, 0.7]), np.array([0.5, 0.6, 0.4])
        std, n = np.array([a.std(ddof=1), b.std(ddof=1)]), np.array([4, 3])
        half = welch_half_width(np.array([1.0, -1.0]), std, n)
        expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        difference = a.mean() - b.mean()
        assert (difference - half, difference + half) == pytest.approx((expected.low, expected.high))

    def test_equal_cells_by_hand(self):
        # Two means of n = 5, s = 0.1: variance 2 * 0.01 / 5, 8 degrees of freedom, t = 2.306.
        assert welch_half_width(np.array([1, -1]), np.full(2, 0.1), np.full(2, 5)) == pytest.approx(
            2.306004 * 0.004**0.5, abs=1e-6
        )

    def test_the_interval_has_the_unit_of_the_weighted_sum(self):
        """Half the difference is half as far, a mean over ten tasks a tenth."""
        std, n = np.array([0.1, 0.3]), np.array([5, 4])
        whole = welch_half_width(np.array([1.0, -1.0]), std, n)
        for share in (0.5, 0.1, 2.0):
            assert welch_half_width(share * np.array([1.0, -1.0]), std, n) == pytest.approx(share * whole)

    def test_no_scatter_and_one_seed(self):
        assert welch_half_width(np.array([1, -1]), np.zeros(2), np.full(2, 5)) == 0.0
        assert np.isnan(welch_half_width(np.array([1, -1]), np.array([np.nan, 0.1]), np.array([1, 5])))

    def test_sampling_makes_a_floor(self):
        # 500 of 500: p = 501 / 502, and sqrt(p (1 - p) / 100) = sqrt(501) / 5020. A larger deviation stays.
        std = at_least_sampling_std(np.array([0.0, 0.2]), np.array([1.0, 0.5]), np.full(2, 5), np.full(2, 100))
        assert std == pytest.approx([501**0.5 / 5020, 0.2])


def test_regret_by_hand():
    # From 0.2 at step 100 straight to 0.6 at 110, then to 1 at 120: (0.8 + 0.4) / 2 and (0.4 + 0) / 2, mean of both.
    assert online_regret(np.array([100, 110, 120]), np.array([0.2, 0.6, 1.0])) == pytest.approx(0.4)
    assert online_regret(np.array([0, 5]), np.array([1.0, 1.0])) == 0.0
    # A late evaluation weighs by the time it stands for, not as one of three.
    assert online_regret(np.array([0, 90, 100]), np.array([0.0, 0.0, 1.0])) == pytest.approx(0.95)


def test_ends_of_runs_by_hand():
    """The best of an online run is online: where it began is no part of it, however good the offline phase was."""
    online = [(2, 0.3), (4, 0.9), (7, 0.5), (10, 0.6)]
    curves = {("finetune", "dfp"): online, ("offline", "bc"): [(2, 0.8), (4, 0.7)], ("finetune", "mvp"): online[:3]}
    tidy = pd.DataFrame(
        [(stage, "lift", method, 0, *point) for (stage, method), curve in curves.items() for point in curve],
        columns=pd.Index(["stage", "task", "method", "seed", "step", "success_rate"]),
    )
    runs = tidy.drop_duplicates(["stage", "method"]).assign(offline_steps=4)
    ends = run_ends(tidy, runs.assign(online_steps=np.where(runs.stage == "finetune", 6, 0)))
    assert ends.method.tolist() == ["dfp", "bc"]  # MVP is at step 7 of 10
    assert ends[["last", "best"]].to_numpy().tolist() == [[0.6, 0.6], [0.7, 0.8]]
    # Shortfalls 0.1, 0.5, 0.4 at 4, 7, 10: means 0.3 and 0.45 of two halves.
    assert ends.regret[0] == pytest.approx(0.375)
    assert np.isnan(ends.regret[1])


# --------------------------------------------------------------------------- the file


def statistics_of(folder: Path, config, rate, partial: bool = False) -> pd.DataFrame:
    return pd.read_csv(write_statistics(make_results(folder, config, rate), partial)[0])


TWO = configured("smoke", tasks=["cube-double-task2", "cube-double-task3"], seeds=[0, 1])


# Ends: dfp 0.8 and 0.9 by seed, mvp 0.4 and 0.5, on both tasks; halfway half of it.
@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("statistics")
    return statistics_of(folder, TWO, lambda spec, method: (0.8 if "d" in method else 0.4) + 0.1 * spec.seed)


class TestFile:
    def test_it_is_tidy(self, frame: pd.DataFrame):
        assert list(frame.columns) == list(COLUMNS)
        key = ["experiment", "method", "versus", "task", "evaluation", "statistic", "threshold"]
        assert not frame.duplicated(key).any()
        assert frame.loc[frame.statistic != "probability_of_improvement", "versus"].isna().all()

    def test_a_figure_of_the_same_runs_adds_nothing(self, frame: pd.DataFrame):
        assert set(frame.experiment) == {"table2"}  # the configuration has figure3 too

    def test_aggregates_by_hand(self, frame: pd.DataFrame):
        mine = frame[(frame.method == "dfp") & (frame.task == "all")]
        last = mine[(mine.evaluation == "last")].set_index("statistic")
        assert last.loc["mean", "value"] == pytest.approx(0.85)
        assert (last.loc["mean", "low"], last.loc["mean", "high"]) == pytest.approx((0.8, 0.9))
        assert last.loc["mean", ["tasks", "runs", "listed"]].tolist() == [2, 4, 4]
        better = last.loc["probability_of_improvement"].set_index("versus")
        assert better.value.to_dict() == {"mvp": 1.0, "mvp-topk": 1.0, "dfp-no-topk": 0.5}

    def test_last_best_and_regret_are_apart(self, frame: pd.DataFrame):
        cell = frame[(frame.method == "mvp") & (frame.task == "cube-double-task2")].set_index("evaluation")
        assert cell.loc["last", "value"] == cell.loc["best", "value"] == pytest.approx(0.45)
        # Online from "drifting"/"meanflow" at the end of the offline phase (0.8 and 0.9: a name with d, or 0.4, 0.5).
        # Rates 0.4, 0.2, 0.4 at equal distances have mean shortfall 0.7; 0.5, 0.25, 0.5 have 0.625.
        assert cell.loc["online phase", "value"] == pytest.approx((0.7 + 0.625) / 2)
        assert cell.loc["last", "std"] == pytest.approx(0.1 / 2**0.5)

    def test_best_is_the_highest_of_the_online_phase(self, tmp_path: Path):
        config = configured("smoke", seeds=[0])
        make_results(tmp_path, config, lambda spec, method: 0.4)
        path = tmp_path / "runs/cube-single-task2/dfp/seed0/metrics.csv"
        rows = pd.read_csv(path)
        rows.loc[0, "success_rate"] = 0.7
        rows.to_csv(path, index=False)
        frame = pd.read_csv(write_statistics(tmp_path)[0])
        cell = frame[(frame.method == "dfp") & (frame.task == "cube-single-task2")].set_index("evaluation")["value"]
        assert (cell["last"], cell["best"]) == (0.4, 0.7)

    def test_the_profile_is_drawn_as_it_stands_in_the_file(self, frame: pd.DataFrame, tmp_path: Path):
        runs = read_runs(make_results(tmp_path, TWO, lambda spec, method: 0.5))
        (axes,) = profiles.draw(frame, runs).axes
        assert axes.get_title().endswith("4 runs per method on 2 tasks; band: 95 % stratified bootstrap interval")
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(runs.label.unique())
        dfp = dict(zip(runs.method.unique(), axes.get_lines(), strict=True))["dfp"].get_xydata()
        # Ends at 0.8, 0.9, 0.8, 0.9: all above 75 %, half above 80 and 85 %, none above 90 %.
        assert [share for rate, share in dfp if rate < 79] == [100] * 16
        assert [share for rate, share in dfp if rate > 79] == [50, 50, 0, 0, 0]
        assert len(axes.collections) == 4

    def test_the_page_by_hand(self, tmp_path: Path):
        """MVP ends at 0.5, 0.5, 0.5 and 0 and lacks a seed; the others end at 1, and all begin online at 0.5."""

        def rate(spec, method):
            ends = {"mvp": [0.5, 0.5, 0.5, 0.0, None]}
            return ends.get(method, [1.0] * 5)[spec.seed] if spec.stage == "finetune" else 0.5

        config = configured("smoke", seeds=[0, 1, 2, 3, 4])
        make_results(tmp_path, config, rate)
        path = tmp_path / "runs/cube-single-task2/mvp/seed3/metrics.csv"
        rows = pd.read_csv(path)
        rows.loc[0, "success_rate"] = 0.5
        rows.to_csv(path, index=False)
        lines = write_statistics(tmp_path, partial=True)[1].read_text().splitlines()
        table = {row[0]: row[1:] for row in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines) if row}
        assert table["Method"] == [
            "runs", "tasks", "mean, last", "IQM, last", "mean, best", "regret", "P(DFP (Ours) better)",
        ]  # fmt: skip
        # Of four draws from the ends, three are 0 with probability 5 %, so that the interval of the mean begins at
        # 0.5 / 4, and that of the middle two at 0. Shortfalls: 0.5, 0.75, 0.5 of three, 0.5, 0.5, 1 of the last.
        assert table["MVP"] == [
            "4 of 5", "1", "37.5 [12.5, 50.0]", "50.0 [0.0, 50.0]", "50.0 [50.0, 50.0]", "62.5 [62.5, 62.5]",
            "100.0 [100.0, 100.0]",
        ]  # fmt: skip
        assert table["DFP w/o top-K"][-1] == "50.0 [50.0, 50.0]"
        assert table["DFP (Ours)"][-1] == ""

    def test_same_runs_same_bytes(self, tmp_path: Path):
        results = make_results(tmp_path, TWO, lambda spec, method: 0.1 * spec.seed + 0.3)
        first, second = ([path.read_bytes() for path in write_statistics(results)] for _ in range(2))
        assert first == second

    def test_one_seed_has_values_and_no_interval(self, tmp_path: Path):
        frame = statistics_of(tmp_path, configured("smoke", seeds=[0]), lambda spec, method: 0.5)
        assert frame.value.notna().all()
        assert frame[["low", "high"]].isna().all(axis=None)

    def test_missing_seeds_leave_every_method_on_the_same_runs(self, tmp_path: Path):
        # DFP lacks seed 1 of task 2, where the others do badly: they must not be judged on it.
        def rate(spec, method):
            hard = spec.stage == "finetune" and spec.seed == 1 and spec.task.key == "cube-double-task2"
            return None if hard and method == "dfp" else 0.0 if hard else 0.6

        frame = statistics_of(tmp_path, TWO, rate, partial=True)
        whole = frame[(frame.task == "all") & (frame.statistic == "mean") & (frame.evaluation == "last")]
        assert set(whole.value) == {0.6}
        assert set(whole.runs) == {3}
        cell = frame[(frame.task == "cube-double-task2") & (frame.evaluation == "last")].set_index("method")
        assert cell.runs.to_dict() == {"mvp": 2, "mvp-topk": 2, "dfp-no-topk": 2, "dfp": 1}
        assert np.isnan(cell.low["dfp"])

    def test_nothing_finished(self, tmp_path: Path):
        frame = statistics_of(tmp_path, TWO, lambda spec, method: None, partial=True)
        assert frame.value.isna().all()
        assert set(frame.runs) == {0}
