"""What a plan will take: counts, hours from the nearest rate, bytes."""

import json
from pathlib import Path

import jax
import pytest
from typer.testing import CliRunner

from dfp.__main__ import app
from dfp.catalogue import load_catalogue, load_config
from dfp.experiments import plan
from dfp.forecast import forecast, hours, known_rates, row_bytes, running_bytes, state_bytes
from dfp.session import build_agent

CONFIG = Path(__file__).resolve().parents[1] / "config"
CATALOGUE = load_catalogue()
SMOKE = load_config(CONFIG / "smoke.yaml")  # 100 offline steps, 100 online ones; table2 and figure3
PLANNED = plan(SMOKE, CATALOGUE)
RUN = "runs/cube-single-task2/dfp/seed0"


def finished(results: Path, folder: str, wall_s: float, **changes: str) -> None:
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


def test_tables_that_need_the_same_runs_take_them_once(tmp_path):
    found = forecast(SMOKE, CATALOGUE, tmp_path)
    assert [line.name for line in found.lines] == ["table2", "figure3"]
    assert found.lines[0].hours == found.lines[1].hours == found.total.hours


def test_the_nearest_measurement_counts(tmp_path):
    (tmp_path / "cost.csv").write_text("method,phase,ms,device\ndfp,online,20,gpu: X\ndfp,online,40,gpu: X\n")
    rates = known_rates(tmp_path, PLANNED.specs)
    assert rates.of(RUN, "dfp") == (pytest.approx(0.03), "cost.csv, on gpu: X")
    assert rates.of(RUN.replace("/dfp/", "/dfp_K=8/"), "dfp_K=8").seconds == pytest.approx(0.03)
    assert rates.of(RUN.replace("/dfp/", "/mvp/"), "mvp").seconds == pytest.approx(0.0132)
    finished(tmp_path, RUN, wall_s=7.0)
    rates = known_rates(tmp_path, PLANNED.specs)
    assert rates.of(RUN, "dfp") == (pytest.approx(0.07), "finished runs, on cpu: cpu")
    assert rates.of("runs/can/dfp_K=8/seed3", "dfp_K=8").seconds == pytest.approx(0.07)
    assert hours(PLANNED.specs[RUN], rates.of(RUN, "dfp")) == pytest.approx(7.0 / 3600)


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
        app, ["plan", "--tables", "2,3", "--tasks", "lift,cube-quadruple-task2", "--seeds", "0", "--json"]
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
    done = CliRunner().invoke(app, ["plan", "--config", str(CONFIG / "smoke.yaml"), *arguments])
    assert message in str(done.exception)
