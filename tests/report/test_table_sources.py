"""Tables that are not of success rates: settings (5, 8), cost (9) and hours (10), and LaTeX of all ten."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.report_runs import Finals, make_results, rows_of, save, table, write_manifest

from dfp.report.tables.settings import describe, shown
from dfp.report.tables.success import TABLES, write_table
from dfp.spec import ConfigError


def spec_of(suite: str, batch: int = 256, **agent: Any) -> dict[str, Any]:
    """A spec as far as the tables of settings look at it."""
    return {
        "task": {"suite": suite},
        "training": {"batch_size": batch},
        "online": None,
        "data": {"source": "generate", "seed": None},
        "agent": {"name": "dfp", "version": 1, **agent},
    }


def with_settings(folder: Path) -> Path:
    """MVP and DFP on a Robomimic and an OGBench task, one seed; DFP's batch on OGBench is not the others'."""
    finals: Finals = {(task, method): [0.5] for task in ("lift", "cube-single-task2") for method in ("mvp", "dfp")}
    results = make_results(folder, finals, {"table5": "Hyperparameters"})
    for task, suite, positives in (("lift", "robomimic", 2), ("cube-single-task2", "ogbench", 8)):
        top_k = {"positives": positives, "weight": 0.5}
        batch = 64 if suite == "ogbench" else 256
        dfp = spec_of(suite, batch, chunk=5, top_k=top_k, bandwidths=[0.005, 0.05], mask_invalid=False)
        write_manifest(results / f"runs/{task}/dfp/seed0", spec=dfp)
        write_manifest(results / f"runs/{task}/mvp/seed0", spec=spec_of(suite, chunk=4, top_k=None, alpha=10000.0))
    return results


class TestTable5:
    def test_reads_what_ran_and_names_where_it_differs(self, tmp_path: Path):
        numbers, markdown, tex = table(with_settings(tmp_path), 5)
        shared = rows_of(markdown, 0, heads=2)
        # The one task has both values, so that no name of a task would tell them apart.
        assert shared["Batch size training.batch_size"] == ["**256 (3 runs); 64 (1 run)**", "256"]
        assert shared["Source of the offline data data.source"] == ["generate", "—"]
        assert not [name for name in shared if "data.seed" in name or name.endswith(" online")]
        assert rows_of(markdown, 1, heads=2) == {
            "Chunking horizon (H) agent.chunk": ["**4**", "5"],
            "Alpha agent.alpha": ["10,000", "—"],
            "Top k agent.top_k": ["none", "—"],
        }
        dfp = rows_of(markdown, 2, heads=2)
        assert dfp["Chunking horizon (H) agent.chunk"] == ["5", "5"]
        assert dfp["Positive set size (K) agent.top_k.positives"] == [
            "**2 (Robomimic); 8 (OGBench)**",
            "2 (Robomimic); 4 (OGBench)",
        ]
        assert dfp["Kernel bandwidth (h) agent.bandwidths"][0] == "**{0.005, 0.05}**"
        assert dfp["Drift weight (λ) agent.top_k.weight"] == ["0.5", "0.5"]
        assert dfp["Mask invalid agent.mask_invalid"] == ["no", "—"]
        assert r"Drift weight ($\lambda$) & agent.top\_k.weight & 0.5 & 0.5 \\" in tex
        rows = numbers[(numbers.method == "dfp") & (numbers.setting == "agent.top_k.positives")]
        assert rows[["value", "tasks", "runs", "paper"]].to_numpy().tolist() == [
            ["2", "lift", 1, "2"],
            ["8", "cube-single-task2", 1, "4"],
        ]

    def test_a_run_that_has_begun_counts_in_a_partial_table(self, tmp_path: Path):
        results = with_settings(tmp_path)
        folder = results / "runs/lift/dfp/seed0"
        (folder / "manifest.json").rename(folder / "run.json")
        (folder / "metrics.csv").unlink()
        shutil.rmtree(results / "runs/cube-single-task2/dfp/seed0")
        with pytest.raises(ConfigError, match=r"runs/lift/dfp/seed0/manifest\.json: no such file"):
            write_table(5, results)
        _, markdown, _ = table(results, 5, partial=True)
        assert "**DFP (Ours) (n=1/2 runs)**" in markdown
        assert rows_of(markdown, 2, heads=2)["Positive set size (K) agent.top_k.positives"] == ["2", "2"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [("{", "manifest.json: not JSON"), ("[]", "manifest.json: not a JSON object"), ("{}", "'spec' is missing")],
    )
    def test_damaged_manifests_are_refused(self, tmp_path: Path, content: str, message: str):
        results = with_settings(tmp_path)
        (results / "runs/lift/dfp/seed0/manifest.json").write_text(content)
        for partial in (False, True):
            with pytest.raises(ConfigError, match=message):
                write_table(5, results, partial)

    def test_with_nothing_begun_the_paper_stands_alone(self, tmp_path: Path):
        results = make_results(tmp_path, {("lift", "dfp"): [None]}, {"table5": "Hyperparameters"})
        numbers, markdown, _ = table(results, 5, partial=True)
        assert rows_of(markdown, 1, heads=2)["Positive set size (K) agent.top_k.positives"] == [
            "—",
            "4 (OGBench); 2 (Robomimic)",
        ]
        assert set(numbers.runs) == {0}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1000000, "1,000,000"),
        (3e-4, "0.0003"),
        (10000.0, "10,000"),
        ([0.005, 0.05], "{0.005, 0.05}"),
        (None, "none"),
        (True, "yes"),
        ("joint", "joint"),
    ],
)
def test_values_as_printed(value: object, text: str):
    assert shown(json.dumps(value)) == text


def test_the_coarsest_name_that_tells_values_apart():
    rows = pd.DataFrame(
        {"suite": "OGBench", "group": ["A", "A", "B"], "task": ["a1", "a2", "b1"], "run": list("xyz"), "value": "1"}
    )
    assert describe(rows) == "1"
    assert describe(rows.assign(value=["1", "1", "2"])) == "1 (A); 2 (B)"
    assert describe(rows.assign(value=["1", "2", "2"])) == "1 (a1); 2 (a2, b1)"


class TestTable8:
    def results(self, folder: Path) -> Path:
        finals: Finals = {(task, "dfp-offline"): [0.5, 0.5] for task in ("cube-single-task2", "cube-double-task2")}
        results = make_results(folder, finals, {"table8": "Offline settings"}, "offline")
        for task, weight in (("cube-single-task2", 0.45), ("cube-double-task2", 0.5)):
            for seed in range(2):
                spec = spec_of("ogbench", samples=8, top_k={"weight": weight})
                write_manifest(results / f"offline/{task}/dfp-offline/seed{seed}", spec=spec)
        return results

    def test_by_task_beside_the_paper(self, tmp_path: Path):
        numbers, markdown, _ = table(self.results(tmp_path), 8)
        assert "| Cube-single<br>task2 | Cube-double<br>task2 |" in markdown
        ours, paper = rows_of(markdown, 0), rows_of(markdown, 1)
        assert ours["Drift weight (λ)"] == ["agent.top_k.weight", "0.45", "**0.5**"]
        assert ours["Generated actions"] == ["agent.samples", "8", "8"]
        assert paper["Drift weight (λ)"] == ["agent.top_k.weight", "0.45", "0.55"]
        assert paper["Generated actions"] == ["agent.samples", "—", "—"]
        assert "training" not in markdown
        row = numbers.set_index("setting").loc["agent.top_k.weight"]
        assert [float(row["cube-double-task2"]), float(row["cube-double-task2_paper"])] == [0.5, 0.55]

    def test_two_values_on_one_task_are_both_shown(self, tmp_path: Path):
        results = self.results(tmp_path)
        spec = spec_of("ogbench", top_k={"weight": 0.1})
        write_manifest(results / "offline/cube-single-task2/dfp-offline/seed1", spec=spec)
        _, markdown, _ = table(results, 8)
        assert rows_of(markdown, 0)["Drift weight (λ)"][1] == "**0.45; 0.1**"

    def test_partial(self, tmp_path: Path):
        finals: Finals = {("cube-single-task2", "dfp-offline"): [None]}
        results = make_results(tmp_path, finals, {"table8": "Offline settings"}, "offline")
        _, markdown, _ = table(results, 8, partial=True)
        assert "**Ran here (n=0/1 runs)**" in markdown
        assert rows_of(markdown, 0)["Drift weight (λ)"][1] == "—"


def cost(folder: Path, **changes: Any) -> Path:
    """Two methods on two tasks; the clock of the inference step is a CPU's."""
    rows = [
        (method, label, phase, ms, task, 512, 4, 256, "cpu: cpu" if phase == "evaluation" else "gpu: H100")
        for method, label, times in (("bfn", "BFN", (4.0, 6.0, 20.5)), ("dfp", "DFP (Ours)", (3.0, 4.0, 2.25)))
        for phase, task, ms in zip(("online", "online", "evaluation"), ("lift", "can", "lift"), times, strict=True)
    ]
    columns = ["method", "label", "phase", "ms", "task", "width", "depth", "batch", "device"]
    frame = pd.DataFrame(rows, columns=pd.Index(columns))
    for column, value in changes.items():
        frame.loc[0, column] = value
    save(frame, folder / "cost.csv")
    return folder


class TestTable9:
    def test_means_over_tasks_and_both_devices(self, tmp_path: Path):
        numbers, markdown, _ = table(cost(tmp_path), 9)
        assert rows_of(markdown, 0) == {"BFN": ["—", "5.00", "20.50"], "DFP (Ours)": ["—", "3.50", "2.25"]}
        assert rows_of(markdown, 1) == {"BFN": ["—", "15.30", "291.33"], "DFP (Ours)": ["—", "13.60", "29.27"]}
        assert "**Measured here: online step on gpu: H100; inference step on cpu: cpu**" in markdown
        assert "online step on NVIDIA RTX 3090; inference step on a CPU (Intel Xeon Gold 6342)**" in markdown
        assert "Networks of 4 layers of 512, batches of 256 online; mean over 2 tasks." in markdown
        row = numbers.set_index("method").loc["bfn"]
        assert (row.online_ms, row.online_tasks, row.online_device, row.online_paper_ms) == (5.0, 2, "gpu: H100", 15.3)
        assert row.offline_tasks == 0

    def test_needs_no_run(self, tmp_path: Path):
        with pytest.raises(ConfigError, match=r"cost\.csv: no such file"):
            write_table(9, tmp_path)
        _, markdown, _ = table(tmp_path, 9, partial=True)
        assert "**Measured here: nothing yet**" in markdown
        assert rows_of(markdown, 0)["DFP (Ours)"] == ["—", "—", "—"]
        assert len(rows_of(markdown, 0)) == 8

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"phase": "training"}, "row 1: phase is training; allowed: offline, online, evaluation"),
            ({"ms": -1.0}, "row 1: ms is -1.0; allowed: a positive number"),
            ({"task": "can"}, "row 2: task is can; allowed: each method, phase and task once"),
            ({"width": 64}, "online: more than one width: 64, 512; allowed: one"),
            ({"device": "gpu: A100"}, "online: more than one device: gpu: A100, gpu: H100; allowed: one"),
        ],
    )
    def test_times_that_do_not_compare_are_refused(self, tmp_path: Path, changes: dict[str, Any], message: str):
        with pytest.raises(ConfigError, match=message):
            write_table(9, cost(tmp_path, **changes))


def with_hours(folder: Path) -> Path:
    """One task and seed. Table 2 needs MVP (1 h + 2 h), MVP w/ top-K (the same 1 h + 3 h) and DFP (4 h + 5 h)."""
    finals: Finals = {("lift", method): [0.5] for method in ("mvp", "mvp-topk", "dfp")}
    results = make_results(folder, finals, {"table2": "Ablation", "figure1": "Curves"})
    runs = pd.read_csv(results / "runs.csv", keep_default_na=False)
    # Table 1 needs no top-K; it stands first.
    table1 = runs[(runs.experiment == "table2") & (runs.method != "mvp-topk")].assign(experiment="table1", title="Main")
    save(pd.concat([table1, runs]), results / "runs.csv")
    hours = {"pretrained/lift/MeanFlow": 1, "runs/lift/mvp": 2, "runs/lift/mvp-topk": 3}
    for name, value in (hours | {"pretrained/lift/Drifting": 4, "runs/lift/dfp": 5}).items():
        device = "cpu: cpu" if value == 5 else "gpu: H100"
        write_manifest(results / name / "seed0", spent_s=3600 * value, wall_s=1.0, device=device)
    return results


class TestTable10:
    def test_hours_by_hand(self, tmp_path: Path):
        numbers, markdown, _ = table(with_hours(tmp_path), 10)
        # Without sharing, MVP w/ top-K would have pretrained for an hour too.
        assert {name: row[1:] for name, row in rows_of(markdown, 0).items()} == {
            "Table 1": ["4", "12.0", "12.0", "3,500"],
            "Table 2": ["5", "15.0", "3.0", "900"],
            "Figure 1": ["5", "15.0", "0.0", "—"],
            "Total": ["5", "15.0", "15.0", "6,500"],
            "Total, one pretraining per run": ["5", "16.0", "—", "—"],
            "Saved by shared pretraining": ["5", "1.0", "—", "—"],
        }
        assert "**Measured here, on gpu: H100 (4 runs), cpu: cpu (1 run)**" in markdown
        rows = numbers.set_index("experiment")
        assert rows.hours_added[["table1", "table2", "figure1"]].sum() == rows.hours["total"] == 15
        assert (rows.hours["unshared"], rows.hours["saved"]) == (16, 1)

    def test_a_run_without_the_time_of_all_attempts_is_an_error(self, tmp_path: Path):
        results = with_hours(tmp_path)
        write_manifest(results / "runs/lift/dfp/seed0", wall_s=1.0, device="cpu")
        for partial in (False, True):
            with pytest.raises(ConfigError, match="runs/lift/dfp/seed0: 'spent_s' is missing"):
                write_table(10, results, partial)

    def test_partial(self, tmp_path: Path):
        results = with_hours(tmp_path)
        shutil.rmtree(results / "runs/lift/mvp-topk/seed0")
        with pytest.raises(ConfigError, match=r"mvp-topk/seed0/manifest\.json: no such file"):
            write_table(10, results)
        _, markdown, _ = table(results, 10, partial=True)
        rows = rows_of(markdown, 0)
        assert rows["Table 2"][1:3] == ["n=4/5", "12.0"]
        assert rows["Saved by shared pretraining"][2] == "0.0"
        for kind in ("pretrained", "runs"):
            shutil.rmtree(results / kind)
        _, markdown, _ = table(results, 10, partial=True)
        assert "**Measured here, on nothing yet**" in markdown
        assert rows_of(markdown, 0)["Total"][1:] == ["n=0/5", "—", "—", "6,500"]


def all_tables(folder: Path) -> list[str]:
    """LaTeX of all ten tables."""
    methods = ("mvp", "dfp", "dfp_lambda=0.5")
    finals: Finals = {(task, method): [0.5, None] for task in ("lift", "cube-double-task2") for method in methods}
    online = make_results(folder / "online", finals, {f"table{number}": "λ × 50% & more" for number in range(1, 7)})
    offline = make_results(
        folder / "offline", {("cube-single-task2", "bc"): [0.5, 0.7]}, {"table7": "Offline", "table8": "K"}, "offline"
    )
    places = {number: offline if number in (7, 8) else online for number in range(1, 11)}
    return [write_table(number, place, partial=True)[2].read_text() for number, place in places.items()]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return all_tables(tmp_path_factory.mktemp("latex"))


class TestLatex:
    def test_there_are_ten(self, texts: list[str]):
        assert len(texts) == len(TABLES) == 10

    def test_rows_fit_the_tabular(self, texts: list[str]):
        for tex in texts:
            columns = tex.split(r"\begin{tabular}{")[1].split("}")[0]
            rows = [line for line in tex.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
            assert {row.replace(r"\&", "").count("&") for row in rows} == {len(columns) - 1}
            assert tex.count("{") == tex.count("}")

    def test_they_compile(self, tmp_path: Path, texts: list[str]):
        engine = shutil.which("tectonic") or shutil.which("pdflatex")
        if engine is None:
            pytest.skip("neither tectonic nor pdflatex is installed")
        for number, tex in enumerate(texts, start=1):
            (tmp_path / f"table{number}.tex").write_text(tex)
        body = "".join(rf"\input{{table{number}.tex}}\newpage " for number in range(1, 11))
        document = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + body + r"\end{document}"
        (tmp_path / "document.tex").write_text(document)
        options = ["-interaction=nonstopmode", "-halt-on-error"] if engine.endswith("pdflatex") else []
        done = subprocess.run([engine, *options, "document.tex"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]
        assert (tmp_path / "document.pdf").exists()
