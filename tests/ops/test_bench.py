"""The bench measures the real programs against a floor that can be checked by hand."""

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from dfp.__main__ import app
from dfp.ops import bench
from dfp.ops.pointwise import Pass, pointwise_passes, pointwise_work
from dfp.plan.catalogue import CATALOGUE, load_catalogue, load_config, run_spec
from dfp.plan.experiments import stage_of
from dfp.report.figures.scaling import LABELS, draw_scaling
from dfp.training.flops import update_flop
from dfp.training.session import build_agent


def small(method: str = "dfp"):
    spec = run_spec(load_config(CATALOGUE / "config.yaml"), load_catalogue(), "cube-single-task2", method, 0)
    return bench.resized(spec, width=8, depth=1, batch=4)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(bench, "SECONDS", 0.01)
    monkeypatch.setattr(bench, "gemm_rate", lambda repeats: 1e9)


@pytest.mark.parametrize("phase", ["offline", "online"])
def test_the_floor_of_an_update_is_its_products_at_the_measured_rate(phase):
    """At 1 GFLOP/s a floor in ms is the work in MFLOP. S = 28, D = 25, width 8, one hidden layer, batch 4."""
    line = bench.bench_update(small(), phase)
    one_pass = 2 * (53 * 8 + 8 * 25)  # the actor, and below one of the two critics
    one_value = 2 * (53 * 8 + 8 * 1)
    candidates = 16 * (one_pass + 2 * one_value)
    critic = 2 * (2 * 2 * 53 * 8 + 3 * 2 * 8 * 1)  # forward and backward, no gradient of the inputs
    actor = 8 * (2 * 2 * 53 * 8 + 3 * 2 * 8 * 25)
    # The field: weights of 8 samples on 8 negatives and the positives, times their 25 coordinates.
    fields = {"offline": 2 * 8 * (8 + 1) * 25, "online": 2 * 8 * (8 + 1) * 25 + 2 * 8 * (8 + 4) * 25}
    work = candidates + 2 * one_value + critic + actor + fields[phase] + (candidates if phase == "online" else 0)
    assert line["floor_ms"] == pytest.approx(4 * work * 1e-6, abs=1e-4)
    assert line["ms"] > 0
    assert line["ratio"] == pytest.approx(line["ms"] / line["floor_ms"], rel=0.01)


def test_the_full_floor_counts_each_gelu_and_layer_norm_once():
    """One hidden layer of 8, batch 4, G = 8, N = 16: actor and critics have one GELU each, the critics a layer norm."""
    agent = build_agent(small().pretraining())
    assert pointwise_passes(agent) == {
        Pass("gelu", (64, 8), False): 1,  # candidates of the target
        Pass("gelu", (2, 64, 8), False): 1,
        Pass("layer norm", (2, 64, 8), False): 1,
        Pass("gelu", (2, 4, 8), False): 1,  # the target critic's value of the best
        Pass("layer norm", (2, 4, 8), False): 1,
        Pass("gelu", (2, 4, 8), True): 1,  # the critic learns
        Pass("layer norm", (2, 4, 8), True): 1,
        Pass("gelu", (32, 8), True): 1,  # the generated samples
    }


def test_the_full_floor_is_above_the_products():
    line = bench.bench_update(small(), "offline")
    assert line["full_floor_ms"] > line["floor_ms"]
    assert line["full_ratio"] == pytest.approx(line["ms"] / line["full_floor_ms"], rel=0.01)


def test_a_work_of_twice_the_passes_takes_longer():
    """The compiler must not make a repeated pass only once."""

    def ms(times: int) -> float:
        work = pointwise_work({Pass("gelu", (512, 512), False): times, Pass("layer norm", (512, 512), True): times})
        return bench.in_turns(work)[0][0]

    assert ms(20) > 5 * ms(1)


def forward(inputs: int, outputs: int) -> float:
    """One hidden layer of 8."""
    return 2 * (inputs * 8 + 8 * outputs)


def learning(inputs: int, outputs: int) -> float:
    """Forward and backward: two products more for the last layer, one for the first."""
    return 2 * (2 * inputs * 8 + 3 * 8 * outputs)


VALUES = 2 * forward(33, 1) + forward(28, 1)  # two critics of state and action, and V of the state
CLONING = 2 * 2 * 34 * 8 + 3 * 2 * (3 * 2 * 4 * 8 * 8 + 8 * 5)  # three blocks, each to four times the width and back
PREDICTION = 2 * 34 * 8 + 2 * (3 * 2 * 4 * 8 * 8 + 8 * 5)
GUIDANCE = 2 * (forward(33, 1) + 2 * (8 * 1 + 33 * 8))  # two critics, and back to all that the first layer reads


@pytest.mark.parametrize(
    ("method", "actor"),
    [
        ("bc", learning(28, 5)),
        ("iql", learning(28, 5) + VALUES),
        ("ifql", learning(34, 5)),
        ("idql", CLONING),
        ("srpo", CLONING + PREDICTION + GUIDANCE + learning(28, 5)),
    ],
    ids=["bc", "iql", "ifql", "idql", "srpo"],
)
def test_the_floor_of_the_offline_tables_methods(method, actor):
    """S = 28, D = 5, width 8, one hidden layer, batch 4; a noisy action comes with its time."""
    line = bench.bench_update(small(method), "offline")
    critic = 0 if method == "bc" else VALUES + learning(28, 1) + 2 * learning(33, 1)
    assert line["floor_ms"] == pytest.approx(4 * (critic + actor) * 1e-6, abs=1e-4)
    assert line["ms"] > 0


def test_the_host_drives_the_real_loop():
    line = bench.bench_host(small(), updates=50)
    assert line["case"] == "host work per offline update"
    assert 0 < line["ms"] < 50
    assert line["ratio"] is None


def test_one_quantity_changes_at_a_time():
    spec = small()
    for quantity, read in {
        "batch": lambda s: s.training.batch_size,
        "width": lambda s: s.network.width,
        "N": lambda s: (s.agent.best_of, s.agent.top_k.candidates),
        "K": lambda s: s.agent.top_k.positives,
        "G": lambda s: s.agent.samples,
    }.items():
        other = bench.changed(spec, quantity, 3)
        assert read(other) == ((3, 3) if quantity == "N" else 3)
        assert update_flop(build_agent(other)) != update_flop(build_agent(spec))
    assert bench.changed(spec, "rows", 3) == spec
    assert set(bench.SCALING) == set(LABELS)


@pytest.mark.parametrize("method", ["fql", "dfp-no-topk", "dfp-offline"])
def test_a_method_without_the_quantities_of_the_scaling_is_refused(method):
    result = CliRunner().invoke(app, ["ops", "bench", "--scaling", "x", "--method", method])
    assert "--scaling: agent" in str(result.exception)


def test_scaling_is_drawn_as_measured():
    lines = [
        {"quantity": quantity, "value": value, "ms": 2.0 * value, "floor_ms": 1.0 * value}
        | {"full_floor_ms": 1.5 * value, "method": "dfp", "depth": 4, "width": 64, "batch": 32}
        | {"device": "cpu: cpu", "cores": 2}
        for quantity, values in bench.SCALING.items()
        for value in values
    ]
    figure = draw_scaling(pd.DataFrame(lines))
    for axes, (quantity, values) in zip(figure.axes, bench.SCALING.items(), strict=True):
        measured, full_floor, floor = axes.get_lines()
        assert list(measured.get_xdata()) == list(values)
        assert list(measured.get_ydata()) == [2.0 * value for value in values]
        assert list(floor.get_ydata()) == [1.0 * value for value in values]
        assert list(full_floor.get_ydata()) == [1.5 * value for value in values]
        assert axes.get_xlabel() == LABELS[quantity]


def test_the_command_prints_a_json_line_per_case():
    result = CliRunner().invoke(
        app, ["ops", "bench", "--width", "8", "--depth", "1", "--batch", "4", "--phase", "offline"]
    )
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["case"] for line in lines] == ["update", "act"]
    assert {"method", "phase", "width", "batch", "ms", "floor_ms", "ratio", "full_ratio", "cores"} <= set(lines[0])


@pytest.mark.slow
def test_the_loops_are_measured_on_the_steps_they_made():
    """A small network in the real simulator: the loop, and an evaluation of two episodes."""
    loop, evaluation = bench.bench_simulator(small(), steps=150, episodes=2)  # an episode has 200 steps
    assert loop["case"] == "online loop per environment step"
    # The loop contains the very steps that are its floor.
    assert loop["ratio"] > 0.8
    assert evaluation["case"] == "evaluation of 2 episodes"
    assert evaluation["ms"] > 0


def test_offline_rl_is_measured_as_it_trains():
    catalogue = load_catalogue()
    assert [stage_of(method, catalogue) for method in ("dfp-offline", "bc", "fql", "dfp")] == [
        "offline", "offline", "finetune", "finetune",
    ]  # fmt: skip
    spec = run_spec(load_config(CATALOGUE / "smoke.yaml"), catalogue, "cube-single-task2", "dfp-offline", 0, "offline")
    assert bench.offline_phase(spec) is spec
    assert spec.agent.top_k is not None
    online = run_spec(load_config(CATALOGUE / "smoke.yaml"), catalogue, "cube-single-task2", "dfp", 0)
    assert bench.offline_phase(online) == online.pretraining()
