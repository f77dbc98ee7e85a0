"""The drifting field without the rest of the project: 200 points drift onto data with two modes.

    python examples/field_on_a_toy.py field.png    # the name is optional

The points take gradient steps on the drifting loss (Eq. 4). Each step moves a point along the field (Eq. 3): towards
the data, and away from the other points. A policy is trained with the same loss, through its network.
"""

import sys

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

from dfp.drift import drift_loss, drifting_field

BANDWIDTH, STEP = 0.3, 0.1
SHOWN = (0, 20, 200)  # steps in the picture


def two_modes(key, count):
    """``[count, 2]`` points around (-1, 0) and (1, 0)."""
    mode_key, error_key = jax.random.split(key)
    modes = jnp.array([[-1.0, 0.0], [1.0, 0.0]])[jax.random.bernoulli(mode_key, 0.5, (count,)).astype(int)]
    return modes + 0.15 * jax.random.normal(error_key, (count, 2))


def drift(points, data, steps):
    """Yields ``(points, field)`` before each step, for points ``[1, G, 2]`` and data ``[1, K, 2]``."""
    for _ in range(steps):
        field = drifting_field(points, data, bandwidths=[BANDWIDTH], normalisation="mean_shift")
        yield points, field
        # The loss is a mean over all coordinates, so its gradient is -2 V / points.size, and this step is STEP * V.
        points = points - STEP / 2 * points.size * jax.grad(drift_loss)(points, field)


def draw(frames, data):
    figure = Figure(figsize=(9, 2.7), layout="constrained")
    panels = figure.subplots(1, len(SHOWN), sharex=True, sharey=True)
    for step, panel in zip(SHOWN, panels, strict=True):
        points, field = (jnp.asarray(array[0]).T for array in (frames[step][0], frames[step][1].velocity))
        panel.scatter(*data[0].T, s=8, color="#BBBBBB", label="data")
        arrows = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.004, "color": "#0072B2", "alpha": 0.4}
        panel.quiver(*points[:, ::2], *field[:, ::2], **arrows)
        panel.scatter(*points, s=8, color="#D55E00", label="points")
        panel.set(title=f"step {step}", xticks=(-1, 0, 1), yticks=(0, 1), aspect="equal")
    panels[1].legend(loc="upper center", frameon=False, ncols=2)
    return figure


if __name__ == "__main__":
    picture = sys.argv[1] if len(sys.argv) > 1 else "field.png"
    data_key, point_key = jax.random.split(jax.random.key(0))
    data = two_modes(data_key, 200)[None]
    start = 0.3 * jax.random.normal(point_key, (1, 200, 2)) + jnp.array([[[0.0, 0.8]]])
    draw(list(drift(start, data, max(SHOWN) + 1)), data).savefig(picture, dpi=120)
