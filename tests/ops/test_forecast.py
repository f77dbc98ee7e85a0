"""What a plan will take: counts, hours from the nearest rate, bytes."""

import json
from pathlib import Path

import jax
import pytest
from typer.testing import CliRunner

from dfp.__main__ import app
from dfp.ops.forecast import (
    Rate,
    forecast,
    hours,
    hours_each,
    known_rates,
    row_bytes,
    running_bytes,
    state_bytes,
)
from dfp.plan.catalogue import load_catalogue, load_config
from dfp.plan.experiments import plan
from dfp.report.tables.cost import COST_TYPES
from dfp.spec import ConfigError
from dfp.training.flops import update_flop
from dfp.training.session import build_agent

CONFIG = Path(__file__).resolve().parents[2] / "config"
CATALOGUE = load_catalogue()
SMOKE = load_config(CONFIG / "smoke.yaml")  # 100 offline steps, 100 online ones; table2 and figure3
PLANNED = plan(SMOKE, CATALOGUE)
RUN = "runs/cube-single-task2/dfp/seed0"


def finished(results: Path, folder: str, wall_s: float, **changes: object) -> None:
    path = results / folder
    path.mkdir(parents=True)
    spec = PLANNED.specs[folder]
    manifest = {"digest": spec.digest(), "wall_s": wall_s, "device": "cpu: cpu", **changes}
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_without_measurements_hours_are_table_9s(tmp_path):
    found = forecast(SMOKE, CATALOGUE, tmp_path)
    assert (found.total.pretrain, found.total.finetune, found.total.offline) == (2, 4, 0)
    # Table 9, online: MVP 13.20, MVP w/ top-K 13.48, DFP w/o top-K 13.56, DFP 13.60 ms; a pretraining as its
    # first method.
    shared = 100 * (13.20 + 13.48 + 13.56 + 13.60 + 13.20 + 13.56) / 3.6e6
    assert found.total.hours == pytest.approx(shared)
    assert found.total.unshared_hours == pytest.approx(shared + 100 * (13.20 + 13.56) / 3.6e6)
    assert list(found.sources.values()) == [6]
    assert found.datasets == {"cube-single-play-v0": 2000}


def test_further_seeds_of_a_program_add_their_products_alone(tmp_path):
    """Table 9's seconds once for a program, and per further seed the time of its products at 12 TFLOP/s."""
    config = SMOKE.model_copy(update={"seeds": list(range(7))})
    planned = plan(config, CATALOGUE)
    alone, found = (forecast(config, CATALOGUE, tmp_path, seeds).total for seeds in (1, 5))
    assert (alone.jobs, found.jobs) == (6 * 7, 4 * 7 + 2 * 2)  # seeds 0 to 4, and 5 and 6
    assert (found.pretrain, found.finetune) == (alone.pretrain, alone.finetune)
    saved = 0.0
    for method, ms in (("meanflow", 13.20), ("drifting", 13.56)):
        flop = update_flop(build_agent(planned.specs[f"pretrained/cube-single-task2/{method}/seed0"]))
        saved += 100 * (7 - 2) * (ms / 1e3 - flop / 12e12) / 3600  # five further seeds in two programs
    assert alone.hours - found.hours == pytest.approx(saved)


def test_on_a_cpu_a_further_seed_takes_more_than_a_run_alone(tmp_path):
    spec = PLANNED.specs["pretrained/cube-single-task2/meanflow/seed0"]
    rate = Rate(0.036, "finished runs, on cpu: cpu")
    # 100 steps of 3.6 s / 100; the second seed at 1.2 times that.
    assert hours_each(spec, rate, 1) == pytest.approx(1e-3)
    assert hours_each(spec, rate, 2) == pytest.approx(1e-3 * (1 + 1.2) / 2)


def test_a_run_that_shared_its_program_is_no_measurement(tmp_path):
    finished(tmp_path, RUN, wall_s=7.0, companions=[1])
    assert "Table 9" in known_rates(tmp_path, PLANNED.specs).of(RUN, "dfp").source


def test_tables_that_need_the_same_runs_take_them_once(tmp_path):
    found = forecast(SMOKE, CATALOGUE, tmp_path)
    assert [line.name for line in found.lines] == ["table2", "figure3"]
    assert found.lines[0].hours == found.lines[1].hours == found.total.hours


def test_the_nearest_measurement_counts(tmp_path):
    cells = [f"dfp,DFP,online,{ms},{task},512,4,256,gpu: X" for ms, task in ((20, "lift"), (40, "can"))]
    (tmp_path / "cost.csv").write_text("\n".join([",".join(COST_TYPES), *cells]) + "\n")
    rates = known_rates(tmp_path, PLANNED.specs)
    assert rates.of(RUN, "dfp") == (pytest.approx(0.03), "cost.csv, on gpu: X")
    assert rates.of(RUN.replace("/dfp/", "/dfp_K=8/"), "dfp_K=8").seconds == pytest.approx(0.03)
    assert rates.of(RUN.replace("/dfp/", "/mvp/"), "mvp").seconds == pytest.approx(0.0132)
    finished(tmp_path, RUN, wall_s=7.0)
    rates = known_rates(tmp_path, PLANNED.specs)
    assert rates.of(RUN, "dfp") == (pytest.approx(0.07), "finished runs, on cpu: cpu")
    assert rates.of("runs/can/dfp_K=8/seed3", "dfp_K=8").seconds == pytest.approx(0.07)
    assert hours(PLANNED.specs[RUN], rates.of(RUN, "dfp")) == pytest.approx(7.0 / 3600)


def test_a_damaged_measurement_is_named_and_a_damaged_manifest_is_none(tmp_path):
    finished(tmp_path, RUN, wall_s=7.0)
    (tmp_path / RUN / "manifest.json").write_text("{")
    assert "Table 9" in known_rates(tmp_path, PLANNED.specs).of(RUN, "dfp").source
    (tmp_path / "cost.csv").write_text("method,phase,ms\ndfp,online,20\n")
    with pytest.raises(ConfigError, match=r"cost\.csv: column 'label' is missing"):
        known_rates(tmp_path, PLANNED.specs)


def test_a_run_of_another_spec_is_no_measurement(tmp_path):
    finished(tmp_path, RUN, wall_s=7.0, digest="another")
    assert "Table 9" in known_rates(tmp_path, PLANNED.specs).of(RUN, "dfp").source


@pytest.mark.parametrize("folder", [RUN, "pretrained/cube-single-task2/meanflow/seed0"])
def test_bytes_of_a_state_are_those_of_its_arrays(folder):
    spec = PLANNED.specs[folder]
    state = build_agent(spec).init(jax.random.key(0))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert state_bytes(spec) == size
    online = 100 * row_bytes(spec) if spec.online else 0
    assert running_bytes(spec) == 2 * size + online
    assert row_bytes(spec) == 4 * (28 + 5 + 3)


def test_the_command_counts_what_is_asked_for():
    done = CliRunner().invoke(
        app, ["ops", "plan", "--tables", "2,3", "--tasks", "lift,cube-quadruple-task2", "--seeds", "0", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert [(line["name"], line["pretrain"], line["finetune"]) for line in found["lines"]] == [
        ("table2", 4, 8),
        ("table3", 1, 4),
    ]
    # DFP and DFP with lambda = 0.5 are one run.
    assert (found["total"]["pretrain"], found["total"]["finetune"]) == (4, 11)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tables", "2,11"], "--tables: 'table11'; allowed: table2, figure3"),
        (["--tasks", "lift"], "--tasks: 'lift'; allowed: cube-single-task2"),
        (["--seeds", "1"], "--seeds: '1'; allowed: 0"),
    ],
)
def test_what_the_configuration_does_not_have_is_named(arguments, message):
    done = CliRunner().invoke(app, ["ops", "plan", "--config", str(CONFIG / "smoke.yaml"), *arguments])
    assert message in str(done.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "--seeds", "0,0"),
        ("plan", "--tasks", "cube-single-task2,cube-single-task2"),
        ("plan", "--tables", "2,2"),
        ("cost", "--method", "dfp", "--method", "dfp"),
        ("cost", "--task", "cube-single-task2", "--task", "cube-single-task2"),
        ("bench", "--method", "dfp", "--method", "dfp"),
    ],
)
def test_what_is_given_twice_is_refused(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # which these commands extend
    command, option, *_ = arguments
    value = arguments[2].split(",")[0]
    done = CliRunner().invoke(app, ["ops", command, "--config", str(CONFIG / "smoke.yaml"), *arguments[1:]])
    assert str(done.exception) == f"{option}: '{value}' is given twice; name it once"
