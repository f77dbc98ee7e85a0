"""Runs in, one tidy table out; statistics over seeds; Figure 1."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from scipy import stats
from support.report_runs import OFFLINE, ONLINE, Finals, make_results, metrics, one_run, paper_like, save

from dfp.files import write_atomically
from dfp.plan.run_table import read_runs
from dfp.report.collect import collect, write_metrics
from dfp.report.figures.curves import curves, draw, note, write_figure
from dfp.report.statistics import dense_rank, over_seeds, t_interval
from dfp.report.tables.success import write_table
from dfp.runs.layout import METRIC_TYPES
from dfp.spec import ConfigError


@pytest.fixture(scope="module")
def paper_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paper_like(tmp_path_factory.mktemp("paper"))


class TestStatistics:
    def test_over_seeds_by_hand(self):
        frame = pd.DataFrame({"task": ["a"] * 3 + ["b"], "success_rate": [0.1, 0.2, 0.6, 0.5]})
        a, b = over_seeds(frame, ["task"]).to_dict("records")
        # (0.2² + 0.1² + 0.3²) / 2 = 0.07
        assert a == {"task": "a", "mean": pytest.approx(0.3), "std": pytest.approx(0.07**0.5), "n": 3}
        assert (b["mean"], b["n"]) == (0.5, 1)
        assert np.isnan(b["std"])

    def test_t_interval_is_scipys(self):
        rates = np.array([0.3, 0.5, 0.4, 0.45, 0.6])
        frame = pd.DataFrame({"task": "a", "success_rate": rates})
        row = t_interval(over_seeds(frame, ["task"])).iloc[0]
        expected = stats.t.interval(0.95, 4, loc=rates.mean(), scale=stats.sem(rates))
        assert (row.low, row.high) == pytest.approx(expected)

    @pytest.mark.parametrize(("rates", "bounds"), [([1.0, 0.9], (0.0, 1.0)), ([0.7, 0.7], (0.7, 0.7))])
    def test_t_interval_stays_in_unit_range(self, rates: list[float], bounds: tuple[float, float]):
        row = t_interval(over_seeds(pd.DataFrame({"task": "a", "success_rate": rates}), ["task"])).iloc[0]
        # With two seeds, t = 12.706 and 0.95 ± 0.635 leaves the range above only.
        expected = (0.95 - 12.7062 * 0.05, 1.0) if rates == [1.0, 0.9] else bounds
        assert (row.low, row.high) == pytest.approx(expected, abs=1e-4)

    def test_one_seed_has_no_interval(self):
        row = t_interval(over_seeds(pd.DataFrame({"task": ["a"], "success_rate": [0.5]}), ["task"])).iloc[0]
        assert np.isnan(row.low)
        assert np.isnan(row.high)

    def test_dense_rank_shares_and_skips_nothing(self):
        ranks = dense_rank(pd.DataFrame({"a": [99.8, 99.6, 99.8, np.nan, 3.0]}))
        np.testing.assert_array_equal(ranks["a"], [1, 2, 1, np.nan, 3])


class TestCollect:
    def test_rows_of_a_shared_pretraining_go_to_each_run(self, tmp_path: Path):
        results = make_results(tmp_path, {("lift", "mvp"): [0.5], ("lift", "mvp-topk"): [0.75]})
        tidy = collect(results)
        assert list(tidy.columns) == ["stage", "task", "method", "seed", "run", *METRIC_TYPES]
        assert tidy.groupby("method", sort=False).step.agg(list).to_dict() == {
            "mvp": [2, 4, 6, 8, 10],
            "mvp-topk": [2, 4, 6, 8, 10],
        }
        last = tidy[tidy.step == 10].set_index("method")
        assert last.success_rate.to_dict() == {"mvp": 0.5, "mvp-topk": 0.75}
        assert last.run["mvp"] == "runs/lift/mvp/seed0"

    def test_written_file_holds_the_same(self, paper_results: Path):
        path = write_metrics(paper_results)
        assert path == paper_results / "metrics.csv"
        pd.testing.assert_frame_equal(pd.read_csv(path), collect(paper_results))

    def test_unfinished_run_is_an_error_that_names_the_file(self, tmp_path: Path):
        results = make_results(tmp_path, {("lift", "dfp"): [0.5, None]})
        with pytest.raises(ConfigError, match=r"pretrained/lift/Drifting/seed1/metrics\.csv: no such file$"):
            collect(results)

    def test_partial_leaves_out_what_is_missing(self, tmp_path: Path):
        results = make_results(tmp_path, {("lift", "dfp"): [0.5, None]})
        assert set(collect(results, partial=True).seed) == {0}

    def test_partial_with_nothing_has_the_columns(self, tmp_path: Path):
        results = make_results(tmp_path, {("lift", "dfp"): [None]})
        tidy = collect(results, partial=True)
        assert len(tidy) == 0
        assert list(tidy.columns) == ["stage", "task", "method", "seed", "run", *METRIC_TYPES]

    def test_partial_reads_progress_of_unfinished_runs_only(self, tmp_path: Path):
        results, path = one_run(tmp_path)
        progress = {"step": 8, "metrics": metrics("online", {6: 0.25, 8: 0.5}).to_dict("records")}
        path.with_name("progress.json").write_text(json.dumps(progress))
        assert list(collect(results, partial=True).step) == [2, 4, 6, 8, 10]
        path.unlink()
        tidy = collect(results, partial=True)
        assert list(tidy.step) == [2, 4, 6, 8]
        assert list(tidy.success_rate) == [0.1, 0.2, 0.25, 0.5]
        with pytest.raises(ConfigError, match="no such file"):
            collect(results)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "not JSON"),
            ("[]", "not a JSON object"),
            ('{"metrics": [{"phase": "online", "step": 6}]}', "header is 'phase,step'"),
            ('{"metrics": [{"speed": 1}]}', "not a run's progress"),
        ],
    )
    def test_malformed_progress_is_refused(self, tmp_path: Path, content: str, message: str):
        results, path = one_run(tmp_path)
        path.unlink()
        path.with_name("progress.json").write_text(content)
        with pytest.raises(ConfigError, match=message):
            collect(results, partial=True)

    @pytest.mark.parametrize("partial", [False, True])
    @pytest.mark.parametrize(
        ("rates", "message"),
        [
            ({6: 0.5, 10: 1.01}, r"row 2: success_rate is 1\.01; allowed: a number in \[0, 1\]"),
            ({6: -0.1, 10: 0.5}, r"row 1: success_rate is -0\.1"),
            ({6: float("nan"), 10: 0.5}, "row 1: success_rate is nan"),
            ({8: 0.5, 6: 0.5, 10: 0.5}, "row 2: step is 6; allowed: larger than the one before"),
            ({4: 0.5, 10: 0.5}, "row 1: step is 4; allowed: between 5 and 10"),
            ({10: 0.5, 12: 0.5}, "row 2: step is 12"),
            ({6: 0.5, 8: 0.5}, "no evaluation at step 10, where the online phase ends"),
            ({}, "no evaluation at step 10"),
        ],
    )
    def test_wrong_values_are_refused(self, tmp_path: Path, rates: dict[int, float], message: str, partial: bool):
        results, path = one_run(tmp_path)
        metrics("online", rates).to_csv(path, index=False, na_rep="nan")
        with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}: {message}"):
            collect(results, partial)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("phase,step,", "step,phase,", "header is 'step,phase"),
            (",env_steps\n", "\n", "row 1 has 8 fields, the header 7"),
            ("online,8,", "online,6,", "row 2: step is 6; allowed: larger"),
            ("online,8,", "offline,8,", "row 2: phase is offline; allowed: 'online'"),
            ("online,8,", "online,8.5,", "step"),
            ("online,8,", "online,eight,", "step"),
            ("online,8,1.0,100,", "online,8,1.0,", "row 2 has 7 fields, the header 8"),
            ("80.25,15.0,6\n", "80.", "row 3 has 6 fields, the header 8"),
        ],
    )
    def test_damaged_text_is_refused(self, tmp_path: Path, old: str, new: str, message: str):
        results, path = one_run(tmp_path)
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        with pytest.raises(ConfigError, match=rf"{re.escape(str(path))}: .*{message}") as caught:
            collect(results)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe"])
    def test_no_text_at_all_is_refused(self, tmp_path: Path, content: bytes):
        results, path = one_run(tmp_path)
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"not a CSV table with a header|not UTF-8 text \(byte 1\)"):
            collect(results)

    def test_damaged_pretraining_is_named(self, tmp_path: Path):
        results, _ = one_run(tmp_path)
        path = results / "pretrained/lift/Drifting/seed0/metrics.csv"
        path.write_text(path.read_text().replace("0.1", "7"))
        with pytest.raises(ConfigError, match=re.escape(f"{path}: row 1: success_rate is 7")):
            collect(results)


class TestRunTable:
    def test_texts_stay_texts(self, tmp_path: Path):
        results = make_results(tmp_path, {("lift", "mvp"): [0.5], ("lift", "mvp-topk"): [0.5]})
        assert list(read_runs(results).top_k) == ["", "✓"] * 2

    def test_missing_file(self, tmp_path: Path):
        with pytest.raises(ConfigError, match=r"runs\.csv: no such file; the workflow and `dfp report runs`"):
            read_runs(tmp_path)

    def test_missing_column(self, tmp_path: Path):
        results, _ = one_run(tmp_path)
        save(pd.read_csv(results / "runs.csv").drop(columns="pretrained"), results / "runs.csv")
        with pytest.raises(ConfigError, match=r"'pretrained' .*: experiment, title"):
            read_runs(results)

    def test_seed_listed_twice(self, tmp_path: Path):
        results, _ = one_run(tmp_path)
        runs = pd.read_csv(results / "runs.csv")
        save(pd.concat([runs, runs]), results / "runs.csv")
        with pytest.raises(ConfigError, match="table2, lift, dfp, seed 0 "):
            read_runs(results)

    def test_experiment_that_is_not_listed(self, tmp_path: Path):
        results, _ = one_run(tmp_path)
        runs = pd.read_csv(results / "runs.csv")
        save(runs.loc[runs.experiment == "figure1"], results / "runs.csv")
        with pytest.raises(ConfigError, match="no experiment 'table2'; listed: figure1"):
            write_table(2, results)


class TestAtomicWrite:
    def test_replaces_and_leaves_nothing_behind(self, tmp_path: Path):
        path = tmp_path / "table.md"
        write_atomically(path, "old")
        assert write_atomically(path, "new ±") == path
        assert path.read_text(encoding="utf-8") == "new ±"
        assert os.listdir(tmp_path) == ["table.md"]

    def test_failure_keeps_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        path = write_atomically(tmp_path / "table.md", "old")

        def full(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="disk full"):
            write_atomically(path, "new")
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["table.md"]


def frame_of(results: Path, partial: bool = False) -> pd.DataFrame:
    runs = read_runs(results)
    return curves(collect(results, partial), runs.loc[runs.experiment == "figure1"])


def band(axes: Axes, index: int = 0) -> np.ndarray:
    """Corners of a band [P, 2]."""
    return np.asarray(axes.collections[index].get_paths()[0].vertices)


class TestFigure1:
    def test_curves(self, tmp_path: Path):
        frame = frame_of(make_results(tmp_path, {("lift", "mvp"): [0.5, 0.6, 0.7], ("lift", "dfp"): [0.8, 0.9, 0.85]}))
        assert list(frame.method.unique()) == ["mvp", "dfp"]
        dfp = frame[frame.method == "dfp"].set_index("step")
        assert list(dfp.index) == [2, 4, 6, 8, 10]
        assert list(dfp["mean"]) == pytest.approx([0.1, 0.2, 1.0, 1.0, 0.85])
        assert set(dfp.n) == {3}
        low, high = stats.t.interval(0.95, 2, loc=0.85, scale=0.05 / 3**0.5)
        assert (dfp.low[10], dfp.high[10]) == pytest.approx((low, high))
        assert (dfp.low[6], dfp.high[6]) == (1.0, 1.0)

    def test_draws_exactly_the_frame(self, tmp_path: Path):
        frame = frame_of(
            make_results(
                tmp_path,
                {
                    ("lift", "mvp"): [0.5, 0.6],
                    ("lift", "dfp"): [0.8, 0.9],
                    ("cube-double-task2", "mvp"): [0.1, 0.2],
                    ("cube-double-task2", "dfp"): [0.3, 0.4],
                },
            )
        )
        figure = draw(frame)
        assert [axes.get_title() for axes in figure.axes] == ["lift title", "cube-double-task2 title"]
        axes = figure.axes[0]
        lines = {str(line.get_label()): line for line in axes.get_lines()}
        assert list(lines) == ["MVP", "DFP (Ours)"]
        np.testing.assert_array_equal(lines["DFP (Ours)"].get_xdata(), [2, 4, 6, 8, 10])
        np.testing.assert_allclose(np.asarray(lines["DFP (Ours)"].get_ydata()), [10, 20, 100, 100, 85])
        assert lines["DFP (Ours)"].get_color() == "#D55E00"
        assert len({(line.get_linestyle(), line.get_marker()) for line in lines.values()}) == 2
        row = frame[(frame.task == "lift") & (frame.method == "mvp") & (frame.step == 10)].iloc[0]
        corners = band(axes)
        assert set(np.round(corners[corners[:, 0] == 10, 1], 6)) >= {round(100 * row.low, 6), round(100 * row.high, 6)}
        assert axes.get_xlim() == (0, OFFLINE + ONLINE)
        assert axes.get_ylim()[0] <= 0
        assert axes.get_ylim()[1] >= 100

    def test_offline_phase_is_shaded(self, tmp_path: Path):
        (axes,) = draw(frame_of(one_run(tmp_path)[0])).axes
        (span,) = axes.patches
        assert span.get_window_extent().transformed(axes.transData.inverted()).intervalx == pytest.approx([0, OFFLINE])
        assert span.get_facecolor() == to_rgba("0.91")

    def test_says_what_is_what(self, tmp_path: Path):
        figure = draw(frame_of(make_results(tmp_path, {("lift", "mvp"): [0.5, 0.6], ("lift", "dfp"): [0.8, 0.9]})))
        assert figure.get_supylabel() == "Success rate (%)"
        assert figure.get_supxlabel() == "Training steps (offline gradient steps, then online environment steps)"
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [
            "MVP",
            "DFP (Ours)",
            "offline phase",
            "online phase",
        ]
        assert legend.get_title().get_text() == "Mean over 2 seeds; band: 95 % t-interval"

    def test_one_seed_has_no_band_and_says_so(self, tmp_path: Path):
        frame = frame_of(one_run(tmp_path)[0])
        assert frame.low.isna().all()
        assert note(frame) == "One seed per line, so no interval"
        (axes,) = draw(frame).axes
        assert not axes.collections[0].get_paths()

    def test_missing_runs_are_named_in_the_panel(self, tmp_path: Path):
        finals: Finals = {
            ("lift", "mvp"): [0.5, 0.6, 0.7],
            ("lift", "dfp"): [0.8, None, None],
            ("cube-double-task2", "mvp"): [None, None, None],
            ("cube-double-task2", "dfp"): [None, None, None],
        }
        results = make_results(tmp_path, finals)
        with pytest.raises(ConfigError, match="no such file"):
            write_figure(1, results)
        frame = frame_of(results, partial=True)
        lift, cube = draw(frame).axes
        assert lift.get_title() == "lift title (1 to 3 of 3 finished)"
        assert cube.get_title() == "cube-double-task2 title (0 of 3 finished)"
        assert not cube.get_lines()
        assert [text.get_text() for text in cube.texts] == ["no evaluation yet"]
        assert note(frame) == "Mean over 3 seeds (0 to 3 of 3 finished); band: 95 % t-interval"

    def test_files(self, tmp_path: Path):
        results = make_results(tmp_path, {("lift", "mvp"): [0.5, 0.6], ("lift", "dfp"): [0.8, 0.9]})
        paths = write_figure(1, results)
        assert [path.name for path in paths] == ["figure1.png", "figure1.pdf", "figure1.csv"]
        first = [path.read_bytes() for path in paths]
        assert first[0].startswith(b"\x89PNG")
        assert first[1].startswith(b"%PDF")
        assert b"CreationDate" not in first[1]
        assert [path.read_bytes() for path in write_figure(1, results)] == first
        numbers = pd.read_csv(paths[2])
        assert len(numbers) == 2 * 5
        assert numbers["mean"].between(0, 1).all()

    def test_unknown_number(self, tmp_path: Path):
        with pytest.raises(ConfigError, match=r"figure 6: .*: 1"):
            write_figure(6, tmp_path)
