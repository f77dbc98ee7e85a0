"""Damaged CSV files of results and of the paper: the same numbers, numbers in their range, or one line."""

import json

import numpy as np
import pandas as pd
import pytest
from support.damage import COUNT, damaged, read_or_refused
from support.report_runs import one_run, write_manifest

from dfp.plan.run_table import read_runs
from dfp.report import paper
from dfp.report.collect import collect, evaluations
from dfp.report.study.data import read_metrics
from dfp.report.tables.cost import COST_TYPES, read_cost
from dfp.runs import finished
from dfp.runs.folder import read_evaluations
from dfp.shipped import CATALOGUE


@pytest.fixture
def a_run(tmp_path):
    return one_run(tmp_path)


def record(path):
    """The SHA-256 of ``path`` in the manifest beside it, as a run writes it."""
    results = {path.name: finished.describe(path.read_bytes())}
    write_manifest(path.parent, **json.loads((path.parent / "manifest.json").read_text()) | {"results": results})


def frames(path, read, seed):
    """What each damage of ``path`` is read as; None if it is refused."""
    content = path.read_bytes()
    for data in damaged(content, seed):
        path.write_bytes(data)
        yield read_or_refused(read)
    path.write_bytes(content)


def test_metrics_whose_manifest_records_them_are_the_same_or_refused(a_run):
    results, path = a_run
    record(path)
    runs, wanted = read_runs(results), collect(results)
    found = list(frames(path, lambda: evaluations(results, runs, partial=False), seed=4))
    same = [frame for frame in found if frame is not None]
    assert len(same) < 0.1 * COUNT  # a damage that changes nothing
    for frame in same:
        pd.testing.assert_frame_equal(frame, wanted)


def test_metrics_of_an_earlier_version_are_in_range_or_refused(a_run):
    results, path = a_run
    runs, wanted = read_runs(results), collect(results)
    found = list(frames(path, lambda: evaluations(results, runs, partial=False), seed=5))
    read = [frame for frame in found if frame is not None]
    assert 0.02 * COUNT < len(read) < 0.9 * COUNT
    for frame in read:
        assert frame.success_rate.between(0, 1).all()
        assert np.isfinite(frame.select_dtypes("number")).all(axis=None)
        assert frame.step.iloc[-1] == wanted.step.iloc[-1]


def test_metrics_that_are_only_shown_never_fail(a_run):
    _, path = a_run
    wanted = len(read_evaluations(path.parent))
    for rows in frames(path, lambda: read_evaluations(path.parent), seed=6):
        assert rows is not None
        assert all(set(row) == set(rows[0]) for row in rows)
        assert len(rows) <= 2 * wanted


@pytest.mark.parametrize("number", paper.TYPES)
def test_the_papers_tables(tmp_path, monkeypatch, number):
    monkeypatch.setattr(paper, "CATALOGUE", tmp_path)
    (tmp_path / "paper").mkdir()
    path = tmp_path / "paper" / f"table{number}.csv"
    path.write_bytes((CATALOGUE / "paper" / path.name).read_bytes())
    found = list(frames(path, lambda: paper.paper_table(number), seed=number))
    read = [frame for frame in found if frame is not None]
    assert min(len(read), COUNT - len(read)) > 0.1 * COUNT
    for frame in read:
        assert list(frame) == list(paper.TYPES[number])
        for name in {"mean", "std", "ms", "gpu_hours"} & set(frame):
            numbers = frame[name].dropna().to_numpy()
            assert (numbers >= 0).all()
            assert np.isfinite(numbers).all()
        for text in frame.reindex(columns=["value"]).value.dropna():
            json.loads(text)


def test_cost(tmp_path):
    rows = "".join(f"{method},DFP,online,{ms},cube,16,2,32,cpu: cpu\n" for method, ms in (("dfp", 1.5), ("mvp", 2.25)))
    (tmp_path / "cost.csv").write_text(",".join(COST_TYPES) + "\n" + rows)
    for cost in frames(tmp_path / "cost.csv", lambda: read_cost(tmp_path / "cost.csv", partial=False), seed=11):
        assert cost is None or ((cost.ms > 0) & np.isfinite(cost.ms)).all()


def test_a_studys_metrics(tmp_path):
    path = tmp_path / "metrics.csv"
    header, *rows = (CATALOGUE.parent / "docs" / "study" / "metrics.csv").read_text().splitlines(keepends=True)
    path.write_text(header + "".join(rows[:20]))
    for tidy in frames(path, lambda: read_metrics(tmp_path), seed=12):
        assert tidy is None or tidy.success_rate.between(0, 1).all()
