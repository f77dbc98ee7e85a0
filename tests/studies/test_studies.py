"""The studies beyond the paper: what they measure, on small agents and by hand, and what they draw."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from support.report_runs import make_results
from support.small_agents import S, make, start
from typer.testing import CliRunner

from dfp.__main__ import app
from dfp.agents import dfp
from dfp.agents.base.actor_critic import AgentState
from dfp.runs.checkpoint import CheckpointError
from dfp.spec import ConfigError
from dfp.studies import candidates, field
from dfp.studies.candidates import candidate_rows, dataset_chunks, measure, normalisation_rows
from dfp.studies.draw import draw_candidates, draw_field, draw_normalisation, draw_theory, write_study
from dfp.tasks import Dataset

AGENT = make(dfp, top_k={"candidates": 6, "positives": 2})


@functools.cache
def state() -> AgentState:
    """A fresh policy, compiled once."""
    return start(AGENT)


def dataset(rows: int, terminals: list[int]) -> Dataset:
    """Observations and actions of row i are i and i / 100."""
    index = np.arange(rows, dtype=np.float32)[:, None]
    ends = np.isin(np.arange(rows), terminals)
    zero = np.zeros(rows, np.float32)
    return Dataset(
        np.repeat(index, S, 1), np.repeat(index / 100, 2, 1), zero, zero, ends, np.zeros((len(terminals), S))
    )


# --------------------------------------------------------------------------- candidates


def test_measure_is_what_training_draws():
    fresh = state()
    observations, actions = np.ones((5, S), np.float32), np.zeros((5, 4), np.float32)
    found = measure(AGENT, fresh, observations, actions, 6)
    keys = jax.random.split(jax.random.key(0), 5)
    drawn, scores = AGENT.scored_candidates(fresh.anchor, fresh.critic, jnp.asarray(observations), keys, 6)
    np.testing.assert_allclose(found.q, np.sort(scores, axis=1).mean(axis=0)[::-1], rtol=1e-5)
    assert found.spread == pytest.approx(float(np.std(np.asarray(drawn), axis=1, ddof=1).mean()), rel=1e-5)
    data = AGENT.values(fresh.critic, jnp.asarray(observations), jnp.asarray(actions))
    assert found.q_data == pytest.approx(float(np.mean(data)), rel=1e-5)


def test_candidates_are_those_of_the_old_policy():
    fresh = state()
    still = fresh._replace(anchor=jax.tree.map(jnp.zeros_like, fresh.actor))
    observations, actions = np.ones((5, S), np.float32), np.zeros((5, 4), np.float32)
    assert measure(AGENT, still, observations, actions, 6).spread == 0.0
    without = measure(AGENT, still._replace(anchor=None), observations, actions, 6)
    assert without.spread == measure(AGENT, fresh, observations, actions, 6).spread > 0.0


def test_chunks_stay_inside_their_episode(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(candidates, "load_dataset", lambda *_: dataset(9, [3, 8]))
    states, chunks = dataset_chunks(SimpleNamespace(task=None, data=None), Path(), 3, 99)  # pyright: ignore
    assert sorted(states[:, 0]) == [0, 1, 4, 5, 6]
    first = chunks[list(states[:, 0]).index(4)]
    np.testing.assert_allclose(first, [0.04, 0.04, 0.05, 0.05, 0.06, 0.06])
    again, _ = dataset_chunks(SimpleNamespace(task=None, data=None), Path(), 3, 2)  # pyright: ignore
    assert len(again) == 2


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs whose policies are fresh; the second has saved nothing online."""
    folder = make_results(tmp_path, {("lift", "mvp"): [0.5], ("lift", "dfp"): [0.8]})
    runs = pd.read_csv(folder / "runs.csv", keep_default_na=False)
    parts = [runs[runs.experiment == "figure1"].assign(experiment=name) for name in ("normalisation", "candidates")]
    pd.concat(parts).to_csv(folder / "runs.csv", index=False)
    spec = SimpleNamespace(agent=AGENT.config, task=None, data=None)

    def load(path: Path) -> SimpleNamespace:
        if path == folder / "runs/lift/dfp/seed0":
            raise CheckpointError(f"{path}: nothing is saved yet")
        return SimpleNamespace(spec=spec, agent=AGENT, state=state(), step=4 if "pretrained" in str(path) else 6)

    monkeypatch.setattr(candidates, "load_policy", load)
    monkeypatch.setattr(candidates, "load_dataset", lambda *_: dataset(40, [19, 39]))
    return folder


def test_candidate_rows(results: Path):
    with pytest.raises(CheckpointError, match="nothing is saved yet"):
        candidate_rows("candidates", results, Path())
    frame = candidate_rows("candidates", results, Path(), partial=True)
    assert frame.groupby(["method", "phase"], sort=False).size().to_dict() == {
        ("mvp", "offline"): 6,
        ("mvp", "online"): 6,
        ("dfp", "offline"): 6,
        ("dfp", "online"): 1,
    }
    missing = frame[(frame.method == "dfp") & (frame.phase == "online")].iloc[0]
    assert (missing.seed, missing.listed) == (0, 1)
    assert missing[["step", "rank", "q", "q_data", "spread", "candidates", "positives", "states"]].isna().all()
    online = frame[frame.phase == "online"].drop(missing.name)
    assert list(online["rank"]) == [1, 2, 3, 4, 5, 6]
    assert online.q.is_monotonic_decreasing
    assert (set(online.step), set(online.candidates), set(online.positives), set(online.listed)) == (
        {10},
        {6},
        {2},
        {1},
    )


def test_normalisation_rows(results: Path):
    frame = normalisation_rows(results, Path(), partial=True)
    assert frame.groupby("quantity").size().to_dict() == {"q": 19, "spread": 4, "success_rate": 10}
    worth = frame[frame.quantity == "q"].groupby(["method", "phase"]).value.sum()
    np.testing.assert_allclose(worth, 0.0, atol=1e-5)
    success = frame[(frame.quantity == "success_rate") & (frame.method == "dfp")]
    assert dict(zip(success.x, success.value, strict=True))[10] == 0.8


# --------------------------------------------------------------------------- the toy


def test_favourites_are_the_best_of_the_old_policy():
    actor = field.NETWORK.init(jax.random.key(0), jnp.zeros((1, 2)))
    chosen = field.favourites(actor, jax.random.key(1), 128)
    everyone = field.generate(actor, jax.random.key(1), 128)
    assert chosen.shape == (32, 2)
    values = np.sort(np.asarray(field.q_value(everyone)))
    assert float(field.q_value(chosen).min()) == pytest.approx(values[-32])


def test_q_of_the_toy():
    # |(-0.6, -0.2) - (0.6, 0.2)|^2 = 1.44 + 0.16
    np.testing.assert_allclose(field.q_value(jnp.asarray(field.MODES)), [-1.6, 0.0], atol=1e-6)


@pytest.mark.slow
def test_the_toy_learns_both_modes_and_then_prefers_the_better_one():
    frame = field.field_rows()
    samples = frame[frame.kind == "sample"]
    right = (samples.x > 0).groupby(samples.stage, sort=False).mean()
    assert 0.35 < right["after L_BC"] < 0.65
    assert right["after L_BC + λ L_topK"] > 0.85
    strength = np.hypot(frame.dx, frame.dy).groupby(frame.stage, sort=False).mean()
    assert strength["after L_BC"] < 0.5 * strength["before training"]
    assert len(draw_field(frame).axes) == 4


# --------------------------------------------------------------------------- drawings


def candidate_frame(seeds: int) -> pd.DataFrame:
    rows = [
        (
            "lift",
            "lift title",
            "dfp",
            "DFP (Ours)",
            "#D55E00",
            seed,
            "online",
            10,
            rank,
            -rank - seed,
            -2.5,
            0.1,
            4,
            2,
            9,
        )
        for seed in range(seeds)
        for rank in (1, 2, 3, 4)
    ]
    names = [
        *candidates.RUN_COLUMNS, "phase", "step", "rank", "q", "q_data", "spread", "candidates", "positives", "states",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=pd.Index(names)).assign(listed=3)


def test_draw_candidates():
    figure = draw_candidates(candidate_frame(2))
    (axes,) = figure.axes
    curve, data = axes.get_lines()
    np.testing.assert_allclose(np.asarray(curve.get_ydata()), [1.0, 0.0, -1.0, -2.0])
    assert set(np.asarray(data.get_ydata())) == {0.0}
    (span,) = axes.patches
    assert span.get_window_extent().transformed(axes.transData.inverted()).intervalx == pytest.approx([0.5, 2.5])
    assert figure.get_suptitle() == "n = 2 of 3 seeds; band: 95 % t-interval of the mean"
    # Two seeds, half a unit from the mean: t(0.975, 1) = 12.7062 times 0.5.
    corners = np.asarray(axes.collections[0].get_paths()[0].vertices)
    assert corners[corners[:, 0] == 1, 1].min() == pytest.approx(1.0 - 12.7062 * 0.5, abs=1e-3)
    assert draw_candidates(candidate_frame(1)).get_suptitle() == "n = 1 of 3 seeds, so no interval"


def test_a_run_without_a_state_counts_as_missing():
    empty = ["step", "rank", "q", "q_data", "spread", "candidates", "positives", "states"]
    other = candidate_frame(1).head(1).assign(task="can", task_title="can title", **dict.fromkeys(empty, np.nan))
    figure = draw_candidates(pd.concat([candidate_frame(2), other]))
    assert figure.get_suptitle() == "n = 0 to 2 of 3 seeds; band: 95 % t-interval of the mean"
    lift, can = figure.axes
    assert lift.get_title() == "lift title (9 states of the data)"
    assert [text.get_text() for text in can.texts] == ["no state of the online phase yet"]
    assert not can.get_lines()
    assert draw_candidates(other).get_suptitle() == "n = 0 of 3 seeds"


def test_draw_nothing_yet():
    nothing = candidate_frame(1).iloc[:0]
    assert draw_candidates(nothing).get_suptitle() == "no run has saved a state yet"
    empty = pd.DataFrame(columns=pd.Index([*candidates.RUN_COLUMNS, "quantity", "phase", "x", "value", "listed"]))
    assert draw_normalisation(empty).get_suptitle() == "no run has saved a state yet"


def test_draw_normalisation():
    cell = ("lift", "lift title", "dfp_field=joint", "DFP (Ours), field=joint", "#D55E00", 0)
    rows = [
        (*cell, "spread", "offline", 4, 0.2), (*cell, "spread", "online", 10, 0.1),
        (*cell, "q", "offline", 1, 0.3), (*cell, "q", "offline", 2, -0.3),
        (*cell, "q", "online", 1, 0.5), (*cell, "q", "online", 2, -0.5),
        (*cell, "success_rate", "offline", 4, 0.0), (*cell, "success_rate", "online", 10, 0.75),
    ]  # fmt: skip
    names = [*candidates.RUN_COLUMNS, "quantity", "phase", "x", "value"]
    frame = pd.DataFrame(rows, columns=pd.Index(names)).assign(listed=1)
    figure = draw_normalisation(frame)
    assert figure.get_suptitle() == "n = 1 of 1 seed, so no interval"
    spread, before, worth, success = figure.axes
    np.testing.assert_allclose(np.asarray(before.get_lines()[0].get_ydata()), [0.3, -0.3])
    assert before.get_ylim() == worth.get_ylim()
    np.testing.assert_allclose(np.asarray(spread.get_lines()[0].get_ydata()), [0.2, 0.1])
    np.testing.assert_allclose(np.asarray(worth.get_lines()[0].get_ydata()), [0.5, -0.5])
    np.testing.assert_allclose(np.asarray(success.get_lines()[0].get_ydata()), [0, 75])
    unsaved = frame.assign(value=frame.value.where((frame.quantity != "spread") | (frame.phase == "offline")))
    assert draw_normalisation(unsaved).get_suptitle() == "n = 0 to 1 of 1 seed, so no interval"


LIMITS = {"measured": 1.0, "low": 0.9, "high": 1.2}  # times N^-1/2
FLOWS = ("measured", "closed form", "two modes", "masses")


def test_draw_theory():
    points = [("decomposition", "closed form", h, h**2) for h in (0.2, 0.1)]
    points += [("decomposition", "measured", h, 1.1 * h**2) for h in (0.2, 0.1)]
    points += [("candidates", series, n, c * n**-0.5) for n in (16, 64) for series, c in LIMITS.items()]
    points += [("bound", "measured", 0.1, 0.01), ("bound", "bound", 0.1, 9.0)]
    points += [("flow", series, t, 1.0 - t) for series in FLOWS for t in (0.0, 0.5)]
    figure = draw_theory(pd.DataFrame(points, columns=pd.Index(["panel", "series", "x", "y"])))
    decomposition, limit, bound, flow = figure.axes
    labels = [str(line.get_label()) for line in decomposition.get_lines()]
    assert labels == ["closed form (normal KDEs)", "h² guide", "Eq. 3 on 5,001 samples each"]
    guide, measured = limit.get_lines()
    np.testing.assert_allclose(np.asarray(measured.get_ydata()), [0.25, 0.125])
    np.testing.assert_allclose(np.asarray(guide.get_ydata()), [0.25, 0.125])
    (bars,) = limit.collections
    ends = np.array([np.asarray(path.vertices) for path in bars.get_paths()])
    np.testing.assert_allclose(ends[:, :, 1], [[0.225, 0.3], [0.1125, 0.15]])
    assert [float(np.asarray(line.get_ydata())[0]) for line in bound.get_lines()] == [9.0, 0.01]
    np.testing.assert_allclose(np.asarray(bound.collections[0].get_paths()[0].vertices), [[0.1, 0.01], [0.1, 9.0]])
    assert len(flow.get_lines()) == 4


def test_bad_input_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"'fields': .*: theory, field"):
        write_study("fields", tmp_path)
    with pytest.raises(ConfigError, match=r"field.csv: .*`dfp study field`"):
        write_study("field", tmp_path)
    (tmp_path / "theory_points.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"theory_points.csv: .*'theory'"):
        write_study("theory", tmp_path)
    done = CliRunner().invoke(app, ["study", "fields", "--results-dir", str(tmp_path)])
    assert done.exit_code == 2
    assert "fields" in done.output
