"""What Figures 1 and 3 to 5 draw beyond `tests/report/test_report.py`: the online phase, variants, published curves."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import rgb_to_hsv, to_rgb, to_rgba
from support.report_runs import OFFLINE, ONLINE, make_results
from typer.testing import CliRunner

from dfp.__main__ import app
from dfp.report.figures.curves import draw, learning_curves, note, write_figure
from dfp.report.figures.drawing import pens, scale, short_labels
from dfp.report.figures.published import PUBLISHED, SOURCE, published_curves


def figure_of(results: Path, number: int) -> Path:
    """The same runs as those of another figure."""
    runs = pd.read_csv(results / "runs.csv", keep_default_na=False)
    runs[runs.experiment == "figure1"].assign(experiment=f"figure{number}").to_csv(results / "runs.csv", index=False)
    return results


def scaled(frame: pd.DataFrame) -> pd.DataFrame:
    """Curves as if every step were 1M / 4 offline steps, then 1M / 6 online ones."""
    steps = {2: 500_000, 4: 1_000_000, 6: 1_333_333, 8: 1_666_667, 10: 2_000_000}
    return frame.assign(step=frame.step.map(steps), offline_steps=1_000_000, online_steps=1_000_000)


# --------------------------------------------------------------------------- the online phase


@pytest.mark.parametrize("number", [3, 4, 5])
def test_online_figures_begin_at_the_switch(tmp_path: Path, number: int):
    results = figure_of(make_results(tmp_path, {("lift", "mvp"): [0.5, 0.6], ("lift", "dfp"): [0.8, 0.9]}), number)
    frame = learning_curves(number, results)
    assert list(frame[frame.method == "dfp"].step) == [4, 6, 8, 10]
    assert list(frame[frame.method == "dfp"]["mean"]) == pytest.approx([0.2, 1.0, 1.0, 0.85])
    figure = draw(frame, online=True)
    (axes,) = figure.axes
    assert axes.get_xlim() == pytest.approx((OFFLINE - 0.08 * ONLINE, OFFLINE + ONLINE))
    (span,) = axes.patches
    edges = span.get_window_extent().transformed(axes.transData.inverted()).intervalx
    assert edges == pytest.approx([OFFLINE - 0.08 * ONLINE, OFFLINE])
    assert figure.get_supxlabel() == "Online environment steps, counted on from the offline gradient steps"


def test_figure_1_has_both_phases(tmp_path: Path):
    results = make_results(tmp_path, {("lift", "dfp"): [0.8, 0.9]})
    assert list(learning_curves(1, results).step) == [2, 4, 6, 8, 10]


def test_an_unfinished_offline_phase_is_no_point_of_an_online_figure(tmp_path: Path):
    results = figure_of(make_results(tmp_path, {("lift", "dfp"): [None]}), 3)
    for path in results.glob("pretrained/**/metrics.csv"):
        path.unlink()
    frame = learning_curves(3, results, partial=True)
    assert list(frame.n) == [0]
    (axes,) = draw(frame, online=True).axes
    assert [text.get_text() for text in axes.texts] == ["no evaluation yet"]
    assert [path.name for path in write_figure(3, results, partial=True)] == [
        "figure3.png",
        "figure3.pdf",
        "figure3.csv",
    ]


def test_zero_variance_is_a_band_without_height(tmp_path: Path):
    frame = learning_curves(1, make_results(tmp_path, {("lift", "dfp"): [0.7, 0.7, 0.7]}))
    last = frame[frame.step == 10].iloc[0]
    assert (last.low, last.high, last.n) == (pytest.approx(0.7), pytest.approx(0.7), 3)


# --------------------------------------------------------------------------- lines


def methods(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=pd.Index(["method", "label", "color"]))


VARIANTS = methods(*((f"dfp_K={k}", f"DFP (Ours), K={k}", "#D55E00") for k in (1, 2, 4, 8)))


def luminance(color: str) -> float:
    return float(np.dot(to_rgb(color), (0.299, 0.587, 0.114)))


def test_variants_are_an_ordered_scale_that_grey_keeps():
    lines = pens(VARIANTS)
    greys = [luminance(pen["color"]) for pen in lines.values()]
    assert all(lighter - darker > 0.1 for lighter, darker in itertools.pairwise(greys))
    assert [pen["label"] for pen in lines.values()] == ["K=1", "K=2", "K=4", "K=8"]
    assert len({(str(pen["linestyle"]), pen["marker"]) for pen in lines.values()}) == 4


def test_a_variant_scale_has_its_methods_hue():
    hues = [rgb_to_hsv(to_rgb(color))[0] for color in scale("#D55E00", 4)]
    assert hues == pytest.approx([rgb_to_hsv(to_rgb("#D55E00"))[0]] * 4, abs=0.02)
    assert scale("#D55E00", 1) == ["#D55E00"]


def test_a_method_has_its_own_colour():
    lines = pens(methods(("mvp", "MVP", "#0072B2"), ("dfp", "DFP (Ours)", "#D55E00")))
    assert [(pen["label"], pen["color"]) for pen in lines.values()] == [("MVP", "#0072B2"), ("DFP (Ours)", "#D55E00")]
    assert lines["dfp"]["linestyle"] == "-"


def test_short_labels():
    assert short_labels(["DFP, lambda=0.1", "DFP, lambda=5.0"]) == ("DFP", ["λ=0.1", "λ=5.0"])
    assert short_labels(["DFP, K=1", "DFP"]) == ("", ["DFP, K=1", "DFP"])
    assert short_labels(["MVP, K=1", "DFP, K=1"]) == ("", ["MVP, K=1", "DFP, K=1"])


def test_the_note_names_the_method_that_variants_share(tmp_path: Path):
    frame = learning_curves(1, make_results(tmp_path, {("lift", "mvp"): [0.5, 0.6], ("lift", "dfp"): [0.8, 0.9]}))
    labels = {"mvp": "DFP (Ours), K=1", "dfp": "DFP (Ours), K=2"}
    text = note(frame.assign(label=frame.method.map(labels)))
    assert text == "DFP (Ours). Mean over 2 seeds; band: 95 % t-interval"


# --------------------------------------------------------------------------- published curves


def cells(*rows: tuple[str, str, int]) -> pd.DataFrame:
    return pd.DataFrame(
        [(task, method, offline, 1_000_000) for task, method, offline in rows],
        columns=pd.Index(["task", "method", "offline_steps", "online_steps"]),
    )


def test_published_curves_of_our_tasks_and_methods():
    curves, reason = published_curves(cells(("lift", "qc-bfn", 1_000_000), ("lift", "dfp", 1_000_000)))
    assert reason == ""
    assert set(curves.method) == {"qc-bfn"}
    assert list(curves.step) == list(range(0, 2_000_001, 100_000))
    # The file's second and last rows of QC on lift.
    assert (curves["mean"].iloc[1], curves["mean"].iloc[-1]) == (0.980014, 1.0)


def test_published_curves_of_another_scale_are_left_out_and_it_says_so():
    curves, reason = published_curves(cells(("lift", "fql", 5000), ("can", "fql", 1_000_000)))
    assert set(curves.task) == {"can"}
    assert reason == (
        "published curves are left out: theirs are of 1,000,000 + 1,000,000 steps, lift has 5,000 + 1,000,000"
    )


def test_published_curves_are_rates_with_their_source():
    frame = pd.read_csv(PUBLISHED)
    assert len(frame) == 12 * 4 * 21
    assert ((frame.low <= frame["mean"] + 1e-6) & (frame["mean"] <= frame.high + 1e-6)).all()
    assert frame[["low", "mean", "high"]].stack().between(0, 1).all()
    assert "github.com/ColinQiyangLi/qc at 48283b4" in PUBLISHED.with_name("README.md").read_text()


def as_fql(tmp_path: Path) -> Path:
    """A finished run of FQL on lift of 1M + 1M steps."""
    results = make_results(tmp_path, {("lift", "dfp"): [0.8, 0.9]})
    runs = pd.read_csv(results / "runs.csv", keep_default_na=False)
    steps = {"offline_steps": 1_000_000, "online_steps": 1_000_000}
    runs.assign(method="fql", label="FQL", color="#C06A9C", **steps).to_csv(results / "runs.csv", index=False)
    to = {2: 500_000, 4: 1_000_000, 6: 1_200_000, 8: 1_500_000, 10: 2_000_000}
    for path in results.glob("**/metrics.csv"):
        frame = pd.read_csv(path)
        frame.assign(step=frame.step.map(to)).to_csv(path, index=False)
    return results


def test_published_curves_are_marked_and_never_ours(tmp_path: Path):
    results = as_fql(tmp_path)
    frame = learning_curves(1, results)
    others, _ = published_curves(frame)
    figure = draw(frame, others)
    ours, theirs = figure.axes[0].get_lines()
    assert (ours.get_label(), theirs.get_label()) == ("FQL", "FQL, published, Li et al. 2025")
    assert to_rgba(theirs.get_color()) == to_rgba(ours.get_color())
    assert theirs.get_linewidth() < ours.get_linewidth()
    assert theirs.get_marker() == "None"
    np.testing.assert_allclose(np.asarray(theirs.get_ydata()), 100 * others["mean"])
    assert SOURCE in [text.get_text() for text in figure.legends[0].get_texts()]

    write_figure(1, results)
    drawn = pd.read_csv(results / "figure1.csv")
    assert drawn.source.value_counts().to_dict() == {SOURCE: 21, "this run": 5}
    assert drawn[drawn.source == SOURCE].n.isna().all()
    write_figure(1, results, published=False)
    assert set(pd.read_csv(results / "figure1.csv").source) == {"this run"}


def test_the_command_says_why_published_curves_are_missing(tmp_path: Path):
    results = make_results(tmp_path, {("lift", "dfp"): [0.8]})
    runs = pd.read_csv(results / "runs.csv", keep_default_na=False)
    runs.assign(method="fql").to_csv(results / "runs.csv", index=False)
    done = CliRunner().invoke(app, ["report", "figure", "1", "--results-dir", str(results)])
    assert done.exit_code == 0, done.output
    assert "published curves are left out: theirs are of 1,000,000 + 1,000,000 steps, lift has 4 + 6" in done.stderr
    silent = CliRunner().invoke(app, ["report", "figure", "1", "--results-dir", str(results), "--no-published"])
    assert silent.stderr == ""
