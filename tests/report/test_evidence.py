"""A table as a page: what opens behind a measured value."""

from __future__ import annotations

import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.report_runs import make_results, minimal_spec

from dfp.report.tables.success import write_table
from dfp.runs.same_spec import digest_of

FINALS = {
    ("lift", "mvp"): [0.25, 0.75],
    ("cube-double-task2", "mvp"): [0.5, None],
    ("lift", "dfp"): [0.5, 0.7],
    ("cube-double-task2", "dfp"): [None, None],
}


class Cells(HTMLParser):
    """The text of each cell of a page's outer tables, with the text of what opens behind it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.depth = 0  # of tables
        self.cells: list[list[str]] = []  # [cell, text]
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.depth += tag == "table"
        if tag == "td" and self.depth == 1:
            self.cells.append([])

    def handle_endtag(self, tag):
        self.depth -= tag == "table"

    def handle_data(self, data):
        if data.strip() and self.cells:
            self.cells[-1].append(data.strip())

    def behind(self, value: str) -> list[str]:
        return next(cell for cell in self.cells if cell[:1] == [value])[1:]


@pytest.fixture
def page(tmp_path: Path) -> str:
    return write_table(2, make_results(tmp_path / "my results", FINALS), partial=True)[3].read_text()


def test_a_value_opens_to_its_runs(page: str):
    text = " ".join(Cells(page).behind("50.0 ± 35"))
    for seed, percent in ((0, "25.0 %"), (1, "75.0 %")):
        digest = digest_of(minimal_spec("finetune", "lift", "mvp", seed))[:12]
        assert f"{seed} {percent} runs/lift/mvp/seed{seed} {digest}" in text


def test_the_command_names_the_runs_of_this_value_alone(page: str):
    (command,) = [text for text in Cells(page).behind("50.0 (n=1/2)") if text.startswith("snakemake")]
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:4] == ["snakemake", "--cores", "all", "--configfile"]
    assert words[4].endswith("/my results/config.json")
    assert words[5:] == ["--config", "results_dir=again", "--", "again/runs/cube-double-task2/mvp/seed0/metrics.csv"]


def test_curves_are_in_the_frame(page: str):
    # Offline 2 and 4 of 10 steps at 10 and 20 %, online 6 and 8 at 100 %, the last at 25 %: x = 30 + 36 step,
    # y = 95 - 90 rate.
    assert 'points="102.0,86.0 174.0,77.0 246.0,5.0 318.0,5.0 390.0,72.5 "' in page
    assert '<rect x="30" y="5" width="144.0"' in page  # 4 of 10 steps are offline


def test_without_runs_nothing_opens(page: str):
    cells = Cells(page)
    assert cells.behind("—") == []
    assert page.count("<details>") == 3


def test_a_group_opens_to_the_runs_of_its_tasks(tmp_path: Path):
    finals = {("cube-double-task2", "dfp"): [0.5], ("cube-double-task3", "dfp"): [0.7]}
    page = write_table(4, make_results(tmp_path, finals, {"table4": "Positives"}))[3].read_text()
    text = " ".join(Cells(page).behind("60.0"))
    assert "runs/cube-double-task2/dfp/seed0" in text
    assert "runs/cube-double-task3/dfp/seed0" in text


def test_both_phases_open_to_the_same_run(tmp_path: Path):
    page = write_table(6, make_results(tmp_path, {("lift", "dfp"): [0.5]}, {"table6": "Both phases"}))[3].read_text()
    assert "runs/lift/dfp/seed0" in " ".join(Cells(page).behind("20.0 → 50.0"))


def test_labels_are_text(tmp_path: Path):
    results = make_results(tmp_path, {("lift", "dfp"): [0.5]})
    runs = results / "runs.csv"
    runs.write_text(runs.read_text().replace("DFP (Ours)", "DFP <b>&"))
    assert "DFP &lt;b&gt;&amp;" in write_table(2, results)[3].read_text()
