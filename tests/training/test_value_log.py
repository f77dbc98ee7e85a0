"""The rows of ``train.csv``: means over equal intervals, across restarts too."""

import jax
import jax.numpy as jnp
from support.small_runs import make_spec, options

from dfp.runs.value_log import read_values
from dfp.training.session import Session


def test_a_row_of_the_value_log_has_the_mean_of_its_interval(tmp_path):
    """1 to 9, then nine times 2. A look inside an interval begins no new one."""
    with Session(make_spec().pretraining(), tmp_path / "pre", options(), 450) as session:
        state = jax.jit(session.agent.init)(jax.random.key(0))
        diagnostics = session.diagnostics(state)
        names = set(diagnostics.total)
        for step, value in enumerate([*range(1, 10), *[2] * 9], start=1):
            diagnostics = diagnostics.add(dict.fromkeys(names, jnp.float32(value)), jnp.int32(step - 1))
            if step in (4, 9, 18):
                diagnostics = session.check(state, diagnostics, step)
    rows = read_values(tmp_path / "pre")
    assert "critic_loss" in names
    assert {(row.step, row.name, row.value) for row in rows} == {
        (step, name, value) for step, value in ((9, 5.0), (18, 2.0)) for name in names
    }


def test_the_end_of_a_run_has_a_row_of_its_own(tmp_path):
    """Of 101 steps: after every second one, and after the last."""
    with Session(make_spec().pretraining(), tmp_path / "pre", options(), 101) as session:
        state = jax.jit(session.agent.init)(jax.random.key(0))
        diagnostics = session.diagnostics(state)
        for step in (99, 100, 101):
            values = dict.fromkeys(diagnostics.total, jnp.float32(step))
            diagnostics = session.check(state, diagnostics.add(values, jnp.int32(step - 1)), step)
    assert {(row.step, row.value) for row in read_values(tmp_path / "pre")} == {(100, 99.5), (101, 101.0)}


def test_an_attempt_that_begins_with_an_interval_has_no_sums_of_the_one_before(tmp_path):
    """Checkpoints inside an interval of nine steps, and at its end."""
    spec = make_spec().pretraining()
    for step, count in ((4, 4), (9, 0)):
        with Session(spec, tmp_path / "pre", options(), 450) as session:
            assert session.begin()
            state = jax.jit(session.agent.init)(jax.random.key(0))
            diagnostics = session.diagnostics(state)
            for number in range(int(diagnostics.count), step):
                diagnostics = diagnostics.add(dict.fromkeys(diagnostics.total, jnp.float32(1)), jnp.int32(number))
            session.check(state, diagnostics, step)
            session.save(step, state)
        with Session(spec, tmp_path / "pre", options(), 450) as session:
            assert session.begin()
            again = session.diagnostics(state)
        assert int(again.count) == count
        assert set(map(float, again.total.values())) == {float(count)}
