"""Tables of success rates (1 to 4, 6, 7) from results folders with known contents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from support.report_runs import Finals, make_results, one_run, paper_like, rows_of, save, table

from dfp.report.tables.grid import reported
from dfp.report.tables.success import write_table
from dfp.spec import ConfigError


@pytest.fixture(scope="module")
def paper_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paper_like(tmp_path_factory.mktemp("paper"))


@pytest.fixture(scope="module")
def paper_table(paper_results: Path) -> tuple[pd.DataFrame, str, str]:
    return table2(paper_results)


def table2(results: Path, partial: bool = False) -> tuple[pd.DataFrame, str, str]:
    numbers, markdown, tex = table(results, 2, partial)
    return numbers.set_index("method"), markdown, tex


def cells_of(markdown: str, block: int) -> dict[str, list[str]]:
    """Cells of Table 2 by method, without its two other heads."""
    return {method: cells[2:] for method, cells in rows_of(markdown, block).items()}


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
        assert cells_of(markdown, 1) == {
            "MVP": ["<u>99.8 ± 0</u>", "98.4 ± 1", "98.6 ± 1", "98.9"],
            "MVP w/ top-K": ["**100.0 ± 0**", "<u>99.6 ± 1</u>", "<u>98.8 ± 1</u>", "<u>99.5</u>"],
            "DFP (Ours)": ["**100.0 ± 0**", "**100.0 ± 0**", "**99.6 ± 1**", "**99.9**"],
        }

    def test_the_last_evaluation_counts_not_the_best(self, tmp_path: Path):
        numbers, _, _ = table2(make_results(tmp_path, {("lift", "dfp"): [0.25, 0.35]}))
        assert numbers.lift_mean["dfp"] == 0.3

    def test_marks(self, paper_table: tuple[pd.DataFrame, str, str]):
        _, markdown, _ = paper_table
        assert cells_of(markdown, 0) == {
            "MVP": ["<u>90.0 ± 0</u>", "<u>60.0 ± 32</u>", "0.0 ± 0", "<u>50.0</u>"],
            "MVP w/ top-K": ["**99.8 ± 0**", "<u>60.0 ± 0</u>", "**30.0 ± 0**", "**63.3**"],
            "DFP (Ours)": ["**99.8 ± 0**", "**70.0 ± 0**", "<u>20.0 ± 0</u>", "**63.3**"],
        }

    def test_ranks_are_those_of_the_printed_values(self, tmp_path: Path):
        finals = {("lift", "mvp"): [0.9, 0.9004], ("lift", "mvp-topk"): [0.9, 0.9], ("lift", "dfp"): [0.8, 0.8]}
        _, markdown, _ = table2(make_results(tmp_path, finals))
        marked = ["**90.0 ± 0**", "**90.0 ± 0**", "<u>80.0 ± 0</u>"]
        assert [row[0] for row in cells_of(markdown, 0).values()] == marked

    def test_where_all_are_equal_none_is_the_best(self, tmp_path: Path):
        _, markdown, _ = table2(make_results(tmp_path, {("lift", "mvp"): [0.0, 0.0], ("lift", "dfp"): [0.0, 0.0]}))
        assert list(cells_of(markdown, 0).values()) == [["0.0 ± 0", "0.0"]] * 2

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
        numbers, markdown, tex = table2(results, partial=True)
        assert cells_of(markdown, 0) == {
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
        _, markdown, _ = table2(results, partial=True)
        assert cells_of(markdown, 0)["DFP (Ours)"] == ["50.0 (n=1/2)", "—"]

    def test_one_seed_has_no_deviation(self, tmp_path: Path):
        results, _ = one_run(tmp_path)
        numbers, markdown, _ = table2(results)
        assert cells_of(markdown, 0)["DFP (Ours)"] == ["50.0", "50.0"]
        assert np.isnan(numbers.lift_std["dfp"])
        assert "of one seed, so no deviation" in markdown

    def test_a_task_that_the_paper_lacks(self, tmp_path: Path):
        numbers, markdown, tex = table2(make_results(tmp_path, {("cube-single-task2", "dfp"): [0.5, 0.5]}))
        assert "ties share a mark. The paper reports none of these cells.\n" in markdown
        assert "Reported in the paper" not in markdown + tex
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
        _, markdown, tex = table2(results)
        assert r"DFP\_$\lambda$=0.1 \& 50\% \{x\} & Drifting" in tex
        assert "| DFP_λ=0.1 & 50% {x} |" in markdown

    def test_same_runs_same_bytes(self, paper_results: Path, paper_table: tuple[pd.DataFrame, str, str]):
        _, markdown, tex = paper_table
        paths = write_table(2, paper_results)
        assert [path.name for path in paths] == ["table2.csv", "table2.md", "table2.tex", "table2.html"]
        assert [path.read_text() for path in paths[1:3]] == [markdown, tex]

    def test_unknown_number(self, tmp_path: Path):
        with pytest.raises(ConfigError, match=r"made here: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10$"):
            write_table(11, tmp_path)


class TestTable1:
    def test_one_head_and_the_papers_numbers(self, tmp_path: Path):
        results = make_results(tmp_path, {("lift", "mvp"): [0.5], ("lift", "dfp"): [0.7]}, {"table1": "Main"})
        _, markdown, _ = table(results, 1)
        assert "| Method | Robomimic<br>lift | Avg. |" in markdown
        assert rows_of(markdown, 0) == {"MVP": ["<u>50.0</u>", "<u>50.0</u>"], "DFP (Ours)": ["**70.0**", "**70.0**"]}
        assert rows_of(markdown, 1)["MVP"] == ["<u>99.8 ± 0</u>", "<u>99.8</u>"]
        assert "Reported in the paper, Table 1: " in markdown


class TestTable3:
    def test_rows_are_the_weights(self, tmp_path: Path):
        finals: Finals = {
            ("cube-quadruple-task2", "dfp_lambda=0.1"): [0.5, 0.7],
            ("cube-quadruple-task2", "dfp_lambda=0.5"): [0.7, 0.7],
        }
        numbers, markdown, tex = table(make_results(tmp_path, finals, {"table3": "Weight"}), 3)
        # [0.5, 0.7]: deviation sqrt(2 x 0.1² / 1) = 0.1414.
        assert rows_of(markdown, 0) == {"λ = 0.1": ["<u>60.0 ± 14</u>"], "λ = 0.5": ["**70.0 ± 0**"]}
        assert rows_of(markdown, 1) == {"λ = 0.1": ["<u>99.0 ± 1</u>"], "λ = 0.5": ["**99.6 ± 1**"]}
        assert r"$\lambda$ = 0.1 & \underline{60.0 $\pm$ 14} \\" in tex
        assert "Avg." not in markdown + tex
        assert list(numbers["cube-quadruple-task2_paper_mean"]) == [0.99, 0.996]


class TestTable4:
    finals: ClassVar[Finals] = {
        ("lift", "dfp_K=2"): [0.9, 0.9],
        ("cube-double-task2", "dfp_K=2"): [0.5, 0.7],
        ("cube-double-task3", "dfp_K=2"): [0.2, 0.2],
        ("lift", "dfp_K=4"): [0.8, 0.9],
        ("cube-double-task2", "dfp_K=4"): [0.5, 0.5],
        ("cube-double-task3", "dfp_K=4"): [0.4, None],
    }

    def test_a_cell_is_the_mean_of_its_tasks(self, tmp_path: Path):
        finals = {**self.finals, ("cube-double-task3", "dfp_K=4"): [0.4, 0.6]}
        numbers, markdown, _ = table(make_results(tmp_path, finals, {"table4": "K"}), 4)
        # K = 2: (0.6 + 0.2) / 2 = 0.4, average (0.9 + 0.4) / 2. K = 4: (0.5 + 0.5) / 2 = 0.5, (0.85 + 0.5) / 2.
        assert rows_of(markdown, 0) == {
            "K = 2": ["**90.0**", "<u>40.0</u>", "<u>65.0</u>"],
            "K = 4": ["<u>85.0</u>", "**50.0**", "**67.5**"],
        }
        assert rows_of(markdown, 1) == {
            "K = 2": ["**94.6**", "**100.0**", "**97.3**"],
            "K = 4": ["<u>93.9</u>", "<u>99.7</u>", "<u>96.8</u>"],
        }
        assert "mean over the tasks of a group and 2 seeds" in markdown
        assert list(numbers["Cube-double_mean"]) == [0.4, 0.5]
        assert list(numbers["Cube-double_seeds"]) == [4, 4]
        assert list(numbers.average_groups) == list(numbers.average_paper_groups) == [2, 2]

    def test_missing_runs_count_and_take_the_marks_away(self, tmp_path: Path):
        _, markdown, _ = table(make_results(tmp_path, self.finals, {"table4": "K"}), 4, partial=True)
        assert rows_of(markdown, 0) == {
            "K = 2": ["**90.0**", "40.0", "**90.0 (1 of 2 groups)**"],
            "K = 4": ["<u>85.0</u>", "45.0 (n=3/4)", "<u>85.0 (1 of 2 groups)</u>"],
        }
        assert "of a cell's runs have finished" in markdown

    def test_a_group_without_one_of_its_tasks_has_no_mean(self, tmp_path: Path):
        finals = {**self.finals, ("cube-double-task3", "dfp_K=4"): [None, None]}
        _, markdown, _ = table(make_results(tmp_path, finals, {"table4": "K"}), 4, partial=True)
        assert rows_of(markdown, 0)["K = 4"][1] == "— (n=2/4)"

    def test_the_papers_own_averages_stand_where_all_its_columns_do(self):
        groups = ["Robomimic", "Cube-double", "Cube-triple", "Cube-quadruple-100m"]
        rows = ["dfp_K=1", "dfp_K=8"]
        # The four printed groups give 85.85 for K = 1; 85.8 is printed.
        whole = reported(4, pd.DataFrame(index=rows, columns=groups))
        assert list(whole.average()) == [0.858, 0.925]
        part = reported(4, pd.DataFrame(index=rows, columns=groups[2:]))
        assert list(part.average()) == pytest.approx([(0.545 + 0.942) / 2, (0.855 + 0.962) / 2])


class TestTable6:
    finals: ClassVar[Finals] = {("lift", "mvp"): [0.5, 0.7], ("lift", "mvp-topk"): [0.8, 0.8]}

    def test_both_phases_stand_in_a_cell(self, tmp_path: Path):
        numbers, markdown, tex = table(make_results(tmp_path, self.finals, {"table6": "Both"}), 6)
        assert rows_of(markdown, 0, heads=2) == {
            "Robomimic lift": ["20.0 ± 0.0 → <u>60.0 ± 14.1</u>", "20.0 ± 0.0 → **80.0 ± 0.0**"],
            "Average": ["20.0 → <u>60.0</u>", "20.0 → **80.0**"],
        }
        assert rows_of(markdown, 1, heads=2)["Robomimic lift"] == [
            "61.4 ± 5.7 → <u>99.8 ± 0.4</u>",
            "61.4 ± 5.7 → **100.0 ± 0.0**",
        ]
        assert r"20.0 $\pm$ 0.0 $\rightarrow$ \textbf{80.0 $\pm$ 0.0} \\" in tex
        assert "Best per row, by the online rate, in bold" in markdown
        rows = numbers.set_index(["method", "phase"])
        assert list(rows.lift_mean) == [0.2, 0.2, 0.6, 0.8]
        assert rows.lift_paper_mean["mvp", "offline"] == 0.614

    def test_an_unfinished_online_phase_keeps_its_offline_value(self, tmp_path: Path):
        results = make_results(tmp_path, self.finals, {"table6": "Both"})
        (results / "runs/lift/mvp/seed1/metrics.csv").unlink()
        for seed in (0, 1):
            (results / f"runs/lift/mvp-topk/seed{seed}/metrics.csv").unlink()
        _, markdown, _ = table(results, 6, partial=True)
        cells = rows_of(markdown, 0, heads=2)
        assert cells["Robomimic lift"] == ["20.0 ± 0.0 → 50.0 (n=1/2)", "20.0 ± 0.0 → —"]
        assert cells["Average"] == ["20.0 → —", "20.0 → —"]


class TestTable7:
    finals: ClassVar[Finals] = {
        ("cube-single-task2", "bc"): [0.04, 0.06],
        ("cube-single-task2", "dfp-offline"): [0.93, 0.93],
    }

    def test_offline_runs_at_their_last_evaluation_beside_the_reported(self, tmp_path: Path):
        numbers, markdown, _ = table(make_results(tmp_path, self.finals, {"table7": "Offline"}, "offline"), 7)
        # [0.04, 0.06]: deviation sqrt(2 x 0.01²) = 0.014.
        assert rows_of(markdown, 0) == {"BC": ["<u>5 ± 1</u>"], "DFP (Ours)": ["**93 ± 0**"]}
        assert rows_of(markdown, 1) == {"BC": ["<u>3 ± 1</u>"], "DFP (Ours)": ["**95 ± 3**"]}
        assert "Success rate (%) after 4 offline steps." in markdown
        assert "online" not in markdown
        assert "8 seeds; the paper took all rows but DFP from the FQL paper**" in markdown
        assert list(numbers["cube-single-task2_mean"]) == [0.05, 0.93]
        assert list(numbers["cube-single-task2_paper_std"]) == [0.01, 0.03]

    def test_missing_seeds(self, tmp_path: Path):
        finals = {**self.finals, ("cube-single-task2", "bc"): [0.04, None]}
        results = make_results(tmp_path, finals, {"table7": "Offline"}, "offline")
        with pytest.raises(ConfigError, match=r"offline/cube-single-task2/bc/seed1/metrics\.csv: no such file"):
            write_table(7, results)
        _, markdown, _ = table(results, 7, partial=True)
        assert rows_of(markdown, 0) == {"BC": ["4 (n=1/2)"], "DFP (Ours)": ["93 ± 0"]}


@pytest.mark.parametrize(("number", "stage"), [(1, "finetune"), (3, "finetune"), (6, "finetune"), (7, "offline")])
def test_with_nothing_finished_a_partial_table_still_shows_the_paper(tmp_path: Path, number: int, stage: str):
    finals: Finals = {("cube-single-task2", "dfp"): [None, None]}
    results = make_results(tmp_path, finals, {f"table{number}": "Title"}, stage)
    numbers, markdown, tex = table(results, number, partial=True)
    assert markdown.count("**Measured here") == 1
    assert "Incomplete: n says how many" in markdown
    assert numbers["cube-single-task2_mean"].isna().all()
    assert tex.endswith("\\end{tabular}\n")
