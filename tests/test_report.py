"""Tables and figures from run folders with known contents."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from scipy import stats

from dfp.files import write_atomically
from dfp.report.collect import METRIC_TYPES, collect, read_runs, write_metrics
from dfp.report.figures import curves, draw, note, write_figure
from dfp.report.statistics import dense_rank, over_seeds, t_interval
from dfp.report.tables import write_table
from dfp.spec import ConfigError

OFFLINE, ONLINE = 4, 6
TASKS = {
    "lift": ("Robomimic", "lift"),
    "cube-double-task2": ("Cube-double", "task2"),
    "cube-double-task3": ("Cube-double", "task3"),
    "cube-single-task2": ("Cube-single", "task2"),
}
METHODS = {
    "mvp": ("MVP", "MeanFlow", "", "#0072B2"),
    "mvp-topk": ("MVP w/ top-K", "MeanFlow", "✓", "#56B4E9"),
    "dfp": ("DFP (Ours)", "Drifting", "✓", "#D55E00"),
}

Finals = Mapping[tuple[str, str], Sequence[float | None]]


def metrics(phase: str, rates: Mapping[int, float]) -> pd.DataFrame:
    """Rows of a ``metrics.csv`` with the given success rate per step."""
    rows = [(phase, step, rate, 100, -40.5, 80.25, 1.5 * step, max(0, step - OFFLINE)) for step, rate in rates.items()]
    return pd.DataFrame(rows, columns=pd.Index(METRIC_TYPES))


def save(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)


def make_results(folder: Path, finals: Finals) -> Path:
    """A results folder with one run per (task, method) and rate; None is a run that has not started.

    Offline evaluations at 2 and 4 give 0.1 and 0.2; online ones at 6 and 8 give 1.0, above the last one at 10.
    """
    rows = []
    for (task, method), rates in finals.items():
        label, backbone, top_k, color = METHODS[method]
        for seed, rate in enumerate(rates):
            run, pretrained = f"runs/{task}/{method}/seed{seed}", f"pretrained/{task}/{backbone}/seed{seed}"
            rows.append(
                {
                    "stage": "finetune",
                    "task": task,
                    "group": TASKS[task][0],
                    "column": TASKS[task][1],
                    "task_title": f"{task} title",
                    "method": method,
                    "label": label,
                    "backbone": backbone,
                    "top_k": top_k,
                    "color": color,
                    "seed": seed,
                    "run": run,
                    "pretrained": pretrained,
                    "offline_steps": OFFLINE,
                    "online_steps": ONLINE,
                }
            )
            if rate is not None:
                save(metrics("offline", {2: 0.1, 4: 0.2}), folder / pretrained / "metrics.csv")
                save(metrics("online", {6: 1.0, 8: 1.0, 10: rate}), folder / run / "metrics.csv")
    table = pd.DataFrame(rows)
    experiments = {"table2": "Ablation on the top-K loss", "figure1": "Success rate over steps"}
    both = [table.assign(experiment=key, title=title) for key, title in experiments.items()]
    save(pd.concat(both), folder / "runs.csv")
    return folder


def one_run(folder: Path) -> tuple[Path, Path]:
    """A results folder with a single finished run, and the run's ``metrics.csv``."""
    results = make_results(folder, {("lift", "dfp"): [0.5]})
    return results, results / "runs/lift/dfp/seed0/metrics.csv"


def paper_like(folder: Path) -> Path:
    """Three methods on three tasks, five seeds: a tie for the best, a tie for the second, no variance."""
    return make_results(
        folder,
        {
            ("lift", "mvp"): [0.9, 0.9, 0.9, 0.9, 0.9],
            ("cube-double-task2", "mvp"): [0.2, 0.4, 0.6, 0.8, 1.0],
            ("cube-double-task3", "mvp"): [0.0, 0.0, 0.0, 0.0, 0.0],
            ("lift", "mvp-topk"): [1.0, 1.0, 1.0, 1.0, 0.99],
            ("cube-double-task2", "mvp-topk"): [0.6, 0.6, 0.6, 0.6, 0.6],
            ("cube-double-task3", "mvp-topk"): [0.3, 0.3, 0.3, 0.3, 0.3],
            ("lift", "dfp"): [0.99, 1.0, 1.0, 1.0, 1.0],
            ("cube-double-task2", "dfp"): [0.7, 0.7, 0.7, 0.7, 0.7],
            ("cube-double-task3", "dfp"): [0.2, 0.2, 0.2, 0.2, 0.2],
        },
    )


@pytest.fixture(scope="module")
def paper_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paper_like(tmp_path_factory.mktemp("paper"))


@pytest.fixture(scope="module")
def paper_table(paper_results: Path) -> tuple[pd.DataFrame, str, str]:
    return table(paper_results)


def table(results: Path, partial: bool = False) -> tuple[pd.DataFrame, str, str]:
    numbers, markdown, tex = write_table(2, results, partial)
    return pd.read_csv(numbers, index_col="method"), markdown.read_text(), tex.read_text()


def rows_of(markdown: str, block: int) -> dict[str, list[str]]:
    """Cells per method label in the ``block``-th Markdown table, without the two columns after the label."""
    lines = markdown.split("\n\n| ")[block + 1].split("\n\n")[0].splitlines()[2:]
    rows = [[field.strip() for field in line.strip().strip("|").split("|")] for line in lines]
    return {row[0]: row[3:] for row in rows}


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
            ("{", "not a run's progress"),
            ("[]", "not a run's progress"),
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
        with pytest.raises(ConfigError, match="not a CSV table with a header"):
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
        with pytest.raises(ConfigError, match=r"runs\.csv: no such file"):
            read_runs(tmp_path)

    def test_missing_column(self, tmp_path: Path):
        results, _ = one_run(tmp_path)
        save(pd.read_csv(results / "runs.csv").drop(columns="pretrained"), results / "runs.csv")
        with pytest.raises(ConfigError, match="column 'pretrained' is missing; needed: experiment, title"):
            read_runs(results)

    def test_seed_listed_twice(self, tmp_path: Path):
        results, _ = one_run(tmp_path)
        runs = pd.read_csv(results / "runs.csv")
        save(pd.concat([runs, runs]), results / "runs.csv")
        with pytest.raises(ConfigError, match="table2, lift, dfp, seed 0 is listed twice"):
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


class TestTable2:
    def test_numbers(self, paper_table: tuple[pd.DataFrame, str, str]):
        numbers, _, _ = paper_table
        assert list(numbers.index) == ["mvp", "mvp-topk", "dfp"]
        row = numbers.loc["mvp-topk"]
        assert (row["label"], row["backbone"], row["top_k"]) == ("MVP w/ top-K", "MeanFlow", "✓")
        # [1, 1, 1, 1, 0.99]: mean 0.998, deviations 4 × 0.002² + 0.008² = 8e-5, over 4 and not over 5.
        assert (row.lift_mean, row.lift_std, row.lift_seeds) == (0.998, pytest.approx(2e-5**0.5, rel=1e-5), 5)
        assert numbers.loc["mvp", "cube-double-task2_std"] == pytest.approx(0.1**0.5, rel=1e-5)
        assert numbers.loc["mvp", "cube-double-task3_std"] == 0
        assert numbers.loc["mvp", "average"] == pytest.approx((0.9 + 0.6 + 0.0) / 3)

    def test_paper_stands_beside(self, paper_table: tuple[pd.DataFrame, str, str]):
        numbers, markdown, _ = paper_table
        assert (numbers.lift_paper_mean["mvp"], numbers.lift_paper_std["mvp"]) == (0.998, 0.0)
        assert numbers.average_paper["mvp"] == pytest.approx((0.998 + 0.984 + 0.986) / 3, rel=1e-5)
        assert rows_of(markdown, 1) == {
            "MVP": ["<u>99.8 ± 0</u>", "98.4 ± 1", "98.6 ± 1", "98.9"],
            "MVP w/ top-K": ["**100.0 ± 0**", "<u>99.6 ± 1</u>", "<u>98.8 ± 1</u>", "<u>99.5</u>"],
            "DFP (Ours)": ["**100.0 ± 0**", "**100.0 ± 0**", "**99.6 ± 1**", "**99.9**"],
        }

    def test_the_last_evaluation_counts_not_the_best(self, tmp_path: Path):
        numbers, _, _ = table(make_results(tmp_path, {("lift", "dfp"): [0.25, 0.35]}))
        assert numbers.lift_mean["dfp"] == 0.3

    def test_marks(self, paper_table: tuple[pd.DataFrame, str, str]):
        _, markdown, _ = paper_table
        assert rows_of(markdown, 0) == {
            "MVP": ["<u>90.0 ± 0</u>", "<u>60.0 ± 32</u>", "0.0 ± 0", "<u>50.0</u>"],
            "MVP w/ top-K": ["**99.8 ± 0**", "<u>60.0 ± 0</u>", "**30.0 ± 0**", "**63.3**"],
            "DFP (Ours)": ["**99.8 ± 0**", "**70.0 ± 0**", "<u>20.0 ± 0</u>", "**63.3**"],
        }

    def test_ranks_are_those_of_the_printed_values(self, tmp_path: Path):
        finals = {("lift", "mvp"): [0.9, 0.9004], ("lift", "dfp"): [0.9, 0.9]}
        _, markdown, _ = table(make_results(tmp_path, finals))
        assert [row[0] for row in rows_of(markdown, 0).values()] == ["**90.0 ± 0**"] * 2

    def test_missing_seeds_are_shown(self, tmp_path: Path):
        finals: Finals = {
            ("lift", "mvp"): [0.5, 0.5, 0.5],
            ("cube-double-task2", "mvp"): [0.4, 0.6, 0.5],
            ("cube-double-task3", "mvp"): [0.1, None, None],
            ("lift", "dfp"): [0.9, 0.8, 0.7],
            ("cube-double-task2", "dfp"): [None, 0.9, 0.9],
            ("cube-double-task3", "dfp"): [None, None, None],
        }
        results = make_results(tmp_path, finals)
        with pytest.raises(ConfigError, match="no such file"):
            write_table(2, results)
        numbers, markdown, tex = table(results, partial=True)
        assert rows_of(markdown, 0) == {
            "MVP": ["<u>50.0 ± 0</u>", "50.0 ± 10", "10.0 (n=1/3)", "<u>50.0 (1 of 3 tasks)</u>"],
            "DFP (Ours)": ["**80.0 ± 10**", "90.0 ± 0 (n=2/3)", "—", "**80.0 (1 of 3 tasks)**"],
        }
        assert "neither marked nor averaged" in markdown
        assert r"90.0 $\pm$ 0 (n=2/3) & --- & \textbf{80.0 (1 of 3 tasks)} \\" in tex
        assert list(numbers.loc["dfp", ["cube-double-task2_seeds", "cube-double-task3_seeds"]]) == [2, 0]
        assert np.isnan(numbers.loc["dfp", "cube-double-task3_mean"])
        assert (numbers.average["dfp"], numbers.average_tasks["dfp"]) == (0.8, 1)

    def test_unfinished_run_does_not_count_as_its_last_row(self, tmp_path: Path):
        results = make_results(tmp_path, {("lift", "dfp"): [0.5, 0.7]})
        path = results / "runs/lift/dfp/seed1/metrics.csv"
        rows = pd.read_csv(path).iloc[:2].to_dict("records")
        path.unlink()
        path.with_name("progress.json").write_text(json.dumps({"metrics": rows}))
        _, markdown, _ = table(results, partial=True)
        assert rows_of(markdown, 0)["DFP (Ours)"] == ["50.0 (n=1/2)", "—"]

    def test_one_seed_has_no_deviation(self, tmp_path: Path):
        results, _ = one_run(tmp_path)
        numbers, markdown, _ = table(results)
        assert rows_of(markdown, 0)["DFP (Ours)"] == ["**50.0**", "**50.0**"]
        assert np.isnan(numbers.lift_std["dfp"])
        assert "of one seed, hence no deviation" in markdown

    def test_a_task_that_the_paper_lacks(self, tmp_path: Path):
        numbers, markdown, _ = table(make_results(tmp_path, {("cube-single-task2", "dfp"): [0.5, 0.5]}))
        assert rows_of(markdown, 1)["DFP (Ours)"] == ["—", "—"]
        assert np.isnan(numbers.average_paper["dfp"])
        assert numbers.average_paper_tasks["dfp"] == 0

    def test_markdown_says_what_it_shows(self, paper_table: tuple[pd.DataFrame, str, str]):
        _, markdown, _ = paper_table
        assert markdown.startswith("**Table 2.** Ablation on the top-K loss. Success rate (%) after 4 offline and 6 ")
        assert "(100 episodes), mean ± sample standard deviation over 5 seeds" in markdown
        assert "| Robomimic<br>lift | Cube-double<br>task2 | Cube-double<br>task3 | Avg. |" in markdown
        assert "**Reported in the paper, Table 2: 1,000,000 offline and 1,000,000 online steps, 5 seeds**" in markdown

    def test_latex_rows_fit_the_tabular(self, paper_table: tuple[pd.DataFrame, str, str]):
        _, _, tex = paper_table
        assert r"\begin{tabular}{lllcccc}" in tex
        assert r" &  &  & \multicolumn{1}{c}{Robomimic} & \multicolumn{2}{c}{Cube-double} &  \\" in tex
        assert r"\cmidrule(lr){4-4} \cmidrule(lr){5-6}" in tex
        assert r"MVP w/ top-K & MeanFlow & $\checkmark$ & \textbf{99.8 $\pm$ 0} & \underline{60.0 $\pm$ 0}" in tex
        rows = [line for line in tex.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert len(rows) == 1 + 2 * 3
        assert {row.count("&") for row in rows} == {6}
        assert tex.count("{") == tex.count("}")

    def test_latex_escapes(self, tmp_path: Path):
        results, _ = one_run(tmp_path)
        runs = pd.read_csv(results / "runs.csv", keep_default_na=False)
        save(runs.assign(label="DFP_λ=0.1 & 50% {x}"), results / "runs.csv")
        _, markdown, tex = table(results)
        assert r"DFP\_$\lambda$=0.1 \& 50\% \{x\} & Drifting" in tex
        assert "| DFP_λ=0.1 & 50% {x} |" in markdown

    def test_latex_compiles(self, tmp_path: Path, paper_table: tuple[pd.DataFrame, str, str]):
        engine = shutil.which("tectonic") or shutil.which("pdflatex")
        if engine is None:
            pytest.skip("neither tectonic nor pdflatex is installed")
        (tmp_path / "table2.tex").write_text(paper_table[2])
        document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table2.tex}\end{document}"
        (tmp_path / "document.tex").write_text(document)
        options = ["-interaction=nonstopmode", "-halt-on-error"] if engine.endswith("pdflatex") else []
        done = subprocess.run([engine, *options, "document.tex"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]
        assert (tmp_path / "document.pdf").exists()

    def test_same_runs_same_bytes(self, paper_results: Path, paper_table: tuple[pd.DataFrame, str, str]):
        _, markdown, tex = paper_table
        paths = write_table(2, paper_results)
        assert [path.name for path in paths] == ["table2.csv", "table2.md", "table2.tex"]
        assert [path.read_text() for path in paths[1:]] == [markdown, tex]

    def test_unknown_number(self, tmp_path: Path):
        with pytest.raises(ConfigError, match="table 11: not one of the tables made here: 2"):
            write_table(11, tmp_path)


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
        assert note(frame) == "One seed per line, hence no interval"
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
        with pytest.raises(ConfigError, match="figure 6: not one of the figures made here: 1"):
            write_figure(6, tmp_path)
