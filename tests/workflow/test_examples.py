"""The example runs, and its points end where the data is."""

import runpy
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "field_on_a_toy.py"
MODE_SPREAD = 0.188  # mean distance of N(0, 0.15^2 I) in two dimensions to its centre, 0.15 * sqrt(pi / 2)


def test_the_points_drift_onto_both_modes_and_are_drawn(tmp_path: Path):
    toy = runpy.run_path(str(EXAMPLE))
    data = toy["two_modes"](jax.random.key(1), 100)[None]
    start = 0.3 * jax.random.normal(jax.random.key(2), (1, 100, 2)) + jnp.array([[[0.0, 0.8]]])
    frames = list(toy["drift"](start, data, max(toy["SHOWN"]) + 1))

    # A gradient step of the loss is a step along the field.
    (first, field), (second, _) = frames[:2]
    np.testing.assert_allclose(second - first, 0.1 * field.velocity, atol=1e-6)

    end = np.asarray(frames[-1][0][0])
    distances = np.linalg.norm(end[:, None] - np.array([[-1.0, 0.0], [1.0, 0.0]]), axis=-1)
    assert 35 <= np.sum(distances.argmin(axis=1) == 0) <= 65  # half of the data is at either mode
    assert abs(distances.min(axis=1).mean() - MODE_SPREAD) < 0.08

    toy["draw"](frames, data).savefig(tmp_path / "field.png")
    assert (tmp_path / "field.png").stat().st_size > 10_000


def test_the_script_needs_no_argument(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert (tmp_path / "field.png").stat().st_size > 10_000
