"""The drifting field against hand-worked arrays and its own identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from dfp.drift import Field, drift_loss, drifting_field, joint_field, joint_force, mean_shift, mean_shift_field

NONE = jnp.zeros((1, 0, 1))


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
    ("samples", "positives", "named"),
    [((2, 4, 3), (5, 1, 3), "positives"), ((2, 4, 3), (2, 1, 6), "positives"), ((4, 3), (2, 1, 3), "samples")],
)
def test_shapes_that_do_not_fit_each_other_are_refused_while_tests_run(samples, positives, named):
    with pytest.raises(TypeCheckError, match=f"parameter '{named}'"):
        drifting_field(normal(0, *samples), normal(1, *positives), bandwidths=(0.1,))


# --------------------------------------------------------------------------- Eq. 3


def test_mean_shift_by_hand():
    # One point at 0, targets at 1 and 2, h = 1: weights e^-0.5 and e^-2.
    points, targets = jnp.array([[[0.0]]]), jnp.array([[[1.0], [2.0]]])
    near, far = np.exp(-0.5), np.exp(-2.0)
    expected = (near * 1 + far * 2) / (near + far)  # 1.18242552
    assert expected == pytest.approx(1.18242552)
    np.testing.assert_allclose(mean_shift(points, targets, 1.0)[0, 0, 0], expected, rtol=1e-6)


def test_mean_shift_field_by_hand():
    # Samples 0 and 1, positive 2, h = 1. The only negative of a sample is the other one, whatever its distance:
    # V(0) = (2 - 0) - (1 - 0) = 1, V(1) = (2 - 1) - (0 - 1) = 2.
    samples, positives = jnp.array([[[0.0], [1.0]]]), jnp.array([[[2.0]]])
    field = drifting_field(samples, positives, bandwidths=(1.0,), normalisation="mean_shift")
    np.testing.assert_allclose(field.velocity, [[[1.0], [2.0]]], atol=1e-6)
    assert field.scale == 1.0
    # Distances to (0, 1, 2): 0 1 2 and 1 0 1.
    np.testing.assert_allclose(field.distance, 5 / 6, rtol=1e-6)
    np.testing.assert_allclose(field.strength, np.sqrt(2.5), rtol=1e-6)


def test_a_sample_that_is_its_own_negative_switches_the_repulsion_off():
    samples, positives = jnp.array([[[0.0], [1.0]]]), jnp.array([[[2.0]]])
    kept = mean_shift_field(samples, positives, NONE, (0.1,), exclude_self=False)
    # k(0, 1) = e^-50: the sample itself takes all the weight, and its displacement is 0.
    np.testing.assert_allclose(kept.velocity, [[[2.0], [1.0]]], atol=1e-6)


def test_several_bandwidths_are_averaged():
    samples, positives = normal(0, 2, 4, 3), normal(1, 2, 2, 3)
    one, other = (mean_shift_field(samples, positives, jnp.zeros((2, 0, 3)), (h,)).velocity for h in (0.3, 1.0))
    both = drifting_field(samples, positives, bandwidths=(0.3, 1.0), normalisation="mean_shift").velocity
    np.testing.assert_allclose(both, (one + other) / 2, rtol=1e-5)


def test_anti_symmetry():
    # V_{p,q} = -V_{q,p} at a point of neither: the one sample of its state, with all of q as extra negatives.
    x, p, q = normal(0, 5, 1, 2), normal(1, 5, 7, 2), normal(2, 5, 6, 2)
    forward, backward = mean_shift_field(x, p, q, (0.7,)).velocity, mean_shift_field(x, q, p, (0.7,)).velocity
    assert np.abs(forward).min() > 0.01
    np.testing.assert_allclose(forward, -backward, rtol=1e-5)


def test_no_drift_where_the_policy_is_the_target():
    samples = normal(0, 2, 6, 3)
    field = mean_shift_field(samples, samples, jnp.zeros((2, 0, 3)), (0.5,), exclude_self=False)
    np.testing.assert_allclose(field.velocity, 0.0, atol=1e-6)


def test_eq_7_and_8_against_autodiff_of_the_log_kde():
    x, p, q, h = normal(0, 5, 2), normal(1, 9, 2), normal(2, 8, 2), 0.6

    def log_kde(point, targets):
        return jax.nn.logsumexp(-jnp.sum((point[None] - targets) ** 2, axis=-1) / (2 * h**2))

    score = jax.vmap(jax.grad(log_kde), in_axes=(0, None))
    np.testing.assert_allclose(h**2 * score(x, p), mean_shift(x[None], p[None], h)[0], rtol=1e-4, atol=1e-5)
    velocity = mean_shift(x[None], p[None], h) - mean_shift(x[None], q[None], h)
    np.testing.assert_allclose(h**2 * (score(x, p) - score(x, q)), velocity[0], rtol=1e-4, atol=1e-5)


def test_mean_shift_states_are_independent():
    samples, positives = normal(0, 3, 4, 2), normal(1, 3, 2, 2)
    whole = drifting_field(samples, positives, bandwidths=(0.5,), normalisation="mean_shift").velocity
    alone = drifting_field(samples[:1], positives[:1], bandwidths=(0.5,), normalisation="mean_shift").velocity
    np.testing.assert_allclose(whole[:1], alone, rtol=1e-6)


def test_mean_shift_of_far_points_is_finite():
    # Every kernel value underflows; the softmax of the log-kernel does not.
    field = drifting_field(
        jnp.array([[[0.0], [1.0]]]), jnp.array([[[2.0]]]), bandwidths=(0.005,), normalisation="mean_shift"
    )
    np.testing.assert_allclose(field.velocity, [[[1.0], [2.0]]], atol=1e-5)


# --------------------------------------------------------------------------- the released algorithm


def joint_by_hand(x: np.ndarray, y: np.ndarray, h: float) -> tuple[np.ndarray, float]:
    """The steps of the released algorithm on scalars, in plain loops: samples [B, G], positives [B, K]."""
    targets = np.concatenate([x, y], axis=1)
    batch, generated = x.shape
    distance = np.abs(x[:, :, None] - targets[:, None, :])
    scale = distance.mean()
    logits = -(distance / scale + 100.0 * np.eye(generated, targets.shape[1])) / h
    force = np.zeros_like(x)
    for b in range(batch):
        over_targets = np.exp(logits[b]) / np.exp(logits[b]).sum(axis=1, keepdims=True)
        over_samples = np.exp(logits[b]) / np.exp(logits[b]).sum(axis=0, keepdims=True)
        weight = np.sqrt(np.maximum(over_targets * over_samples, 1e-6))
        for i in range(generated):
            negative, positive = weight[i, :generated], weight[i, generated:]
            pull = negative.sum() * (positive * (y[b] - x[b, i])).sum()
            push = positive.sum() * (negative * (x[b] - x[b, i])).sum()
            force[b, i] = (pull - push) / scale
    return force / np.sqrt((force**2).mean()), scale


def test_joint_by_hand():
    x = np.array([[0.0, 0.5], [-0.2, 0.1]])
    y = np.array([[1.0, 0.7], [0.3, -0.9]])
    expected, scale = joint_by_hand(x, y, 0.5)
    field = drifting_field(jnp.asarray(x)[..., None], jnp.asarray(y)[..., None], bandwidths=(0.5,))
    np.testing.assert_allclose(field.velocity[..., 0], expected, rtol=1e-4)
    np.testing.assert_allclose(field.scale, scale, rtol=1e-6)  # D = 1
    np.testing.assert_allclose(field.distance, scale, rtol=1e-6)


def test_joint_literal_values():
    # x = (0, 1), y+ = 3: distances (0 1 3; 1 0 2), mean 7/6; h = 1; the self pairs are out of reach.
    # A negative is the only one that the other sample sees, so its softmax over samples is 1.
    field = drifting_field(jnp.array([[[0.0], [1.0]]]), jnp.array([[[3.0]]]), bandwidths=(1.0,))
    a = np.exp(-6 / 7) / (np.exp(-6 / 7) + np.exp(-18 / 7))  # sample 0 on sample 1
    b = np.exp(-6 / 7) / (np.exp(-6 / 7) + np.exp(-12 / 7))  # sample 1 on sample 0
    c = np.exp(-18 / 7) / (np.exp(-18 / 7) + np.exp(-12 / 7))  # the positive's share of sample 0
    m0, p0 = np.sqrt(a), np.sqrt((1 - a) * c)
    m1, p1 = np.sqrt(b), np.sqrt((1 - b) * (1 - c))
    tiny = 1e-3  # sqrt of the floor 1e-6, the weight of a sample on itself
    force0 = (m0 + tiny) * p0 * 3 - p0 * m0 * 1
    force1 = (m1 + tiny) * p1 * 2 + p1 * m1 * 1
    expected = np.array([force0, force1]) / np.sqrt((force0**2 + force1**2) / 2)
    np.testing.assert_allclose(field.velocity[0, :, 0], expected, rtol=1e-4)
    np.testing.assert_allclose(expected, [0.457354, 1.338218], atol=1e-5)


def test_joint_bandwidths_are_added_each_at_unit_rms():
    samples, positives = normal(0, 4, 3, 2), normal(1, 4, 2, 2)
    parts = [drifting_field(samples, positives, bandwidths=(h,)).velocity for h in (0.05, 0.5)]
    for part in parts:
        np.testing.assert_allclose(np.sqrt(np.mean(np.square(part))), 1.0, rtol=1e-4)
    both = drifting_field(samples, positives, bandwidths=(0.05, 0.5)).velocity
    np.testing.assert_allclose(both, parts[0] + parts[1], rtol=1e-4, atol=1e-5)


def test_joint_a_force_below_the_floor_is_smaller_than_unit_rms():
    """The release divides by max(RMS, 1e-4). Points that lie within 1e-7 of each other hardly move."""
    points, positive = jnp.array([[[0.0], [1.0]]]), jnp.array([[[2.0]]])
    for size, strength, rms in ((1e-5, 5.613e-3, 1.0), (1e-6, 5.598e-4, 1.0), (1e-7, 5.597e-5, 0.5597)):
        field = drifting_field(size * points, size * positive, bandwidths=(0.5,))
        np.testing.assert_allclose(field.strength, strength, rtol=1e-3)
        np.testing.assert_allclose(np.sqrt(np.mean(np.square(field.velocity))), rms, rtol=1e-3)


def test_joint_targets_depend_on_the_rest_of_the_batch():
    # The length scale is a mean over the whole batch: a far state changes the others' targets.
    samples, positives = normal(0, 2, 4, 2), normal(1, 2, 2, 2)
    near = drifting_field(samples, positives, bandwidths=(0.3,))
    far = drifting_field(samples.at[1].multiply(10.0), positives, bandwidths=(0.3,))
    assert not np.allclose(near.velocity[0] * near.scale, far.velocity[0] * far.scale, rtol=0.05)


def test_joint_does_not_depend_on_the_unit_of_the_actions():
    # A sample is out of its own reach however large the distances are before they are normalised.
    samples, positives = normal(0, 2, 4, 3), normal(1, 2, 2, 3)
    field = drifting_field(samples, positives, bandwidths=(0.4,))
    larger = drifting_field(1000.0 * samples, 1000.0 * positives, bandwidths=(0.4,))
    np.testing.assert_allclose(larger.velocity, field.velocity, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(larger.scale, 1000.0 * field.scale, rtol=1e-6)


@pytest.mark.parametrize("normalisation", ["joint", "mean_shift"])
def test_order_of_samples_and_positives_does_not_matter(normalisation):
    samples, positives = normal(0, 2, 5, 3), normal(1, 2, 4, 3)
    order, other = jnp.array([3, 0, 4, 1, 2]), jnp.array([2, 3, 0, 1])
    field = drifting_field(samples, positives, bandwidths=(0.4,), normalisation=normalisation)
    permuted = drifting_field(samples[:, order], positives[:, other], bandwidths=(0.4,), normalisation=normalisation)
    np.testing.assert_allclose(permuted.velocity, field.velocity[:, order], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("normalisation", ["joint", "mean_shift"])
def test_equal_samples_are_each_others_negatives_as_nearly_equal_ones_are(normalisation):
    # The clip takes many samples to the same corner. Left out of each other's negatives they would stay there.
    samples, positives = jnp.array([[[1.0], [1.0], [0.0]]]), jnp.array([[[2.0]]])
    apart = samples.at[0, 1].add(1e-4)
    equal, nearly = (
        drifting_field(points, positives, bandwidths=(0.1,), normalisation=normalisation) for points in (samples, apart)
    )
    np.testing.assert_allclose(equal.velocity, nearly.velocity, atol=0.01)


@pytest.mark.parametrize("normalisation", ["joint", "mean_shift"])
def test_field_does_not_depend_on_the_origin(normalisation):
    samples, positives = normal(0, 2, 4, 3), normal(1, 2, 2, 3)
    field = drifting_field(samples, positives, bandwidths=(0.4,), normalisation=normalisation)
    moved = drifting_field(samples + 3.0, positives + 3.0, bandwidths=(0.4,), normalisation=normalisation)
    np.testing.assert_allclose(moved.velocity, field.velocity, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("normalisation", ["joint", "mean_shift"])
def test_extra_negatives_push(normalisation):
    samples, positives = jnp.array([[[0.0], [0.1]]]), jnp.array([[[1.0]]])
    field = drifting_field(samples, positives, bandwidths=(1.0,), normalisation=normalisation)
    extra = drifting_field(samples, positives, jnp.array([[[-0.5]]]), bandwidths=(1.0,), normalisation=normalisation)
    assert field.velocity.shape == extra.velocity.shape == (1, 2, 1)
    # In action coordinates the first sample, whose only neighbour was ahead of it, is now also pushed from behind.
    assert extra.velocity[0, 0, 0] * extra.scale > field.velocity[0, 0, 0] * field.scale


def test_joint_force_is_a_difference_of_attractions():
    # All weights equal: two negatives at 0 and two positives at 1 give P M (1 - 0) with P = M = 2 w.
    distances, targets = jnp.zeros((1, 1, 4)), jnp.array([[[0.0], [0.0], [1.0], [1.0]]])
    force = joint_force(distances, targets, jnp.zeros((1, 1, 1)), 2, 1.0)
    weight = np.sqrt(0.25 * 1.0)
    np.testing.assert_allclose(force, (2 * weight) ** 2, rtol=1e-6)


def test_identical_samples_and_positive_give_no_force_and_no_nan():
    same = jnp.full((2, 4, 3), 0.5)
    field = joint_field(same, same[:, :1], jnp.zeros((2, 0, 3)), (0.05,))
    # Zero but for rounding, which the floor of the scale magnifies a thousandfold.
    np.testing.assert_allclose(field.velocity * field.scale, 0.0, atol=1e-4)
    gradient = jax.grad(lambda x: drift_loss(x, drifting_field(x, same[:, :1], bandwidths=(0.05,))))(same)
    assert np.all(np.isfinite(gradient))


def test_the_length_scale_is_at_least_a_thousandth_whatever_the_dimension():
    # D = 4, a sample at 0 and a positive at x (1, 1, 1, 1): their distance is 2 x, that of the sample to itself 0. The
    # mean is x, and the scale x / sqrt(4).
    for x, scale in ((0.0, 1e-3), (1e-3, 1e-3), (1e-2, 5e-3)):
        field = joint_field(jnp.zeros((1, 1, 4)), jnp.full((1, 1, 4), x), jnp.zeros((1, 0, 4)), (0.05,))
        np.testing.assert_allclose(field.scale, scale, rtol=1e-6)


# --------------------------------------------------------------------------- Eq. 4


def test_loss_is_the_squared_field_and_its_gradient_points_along_it():
    samples = jnp.array([[[0.0, 1.0], [2.0, 3.0]]])
    velocity = jnp.array([[[1.0, 0.0], [0.0, -2.0]]])
    field = Field(velocity, jnp.asarray(0.5), jnp.ones(()), jnp.ones(()))
    loss, gradient = jax.value_and_grad(drift_loss)(samples, field)
    np.testing.assert_allclose(loss, (1 + 4) / 4)
    # d/dx mean((x - sg(x + s V))^2 / s^2) = -2 V / s / 4
    np.testing.assert_allclose(gradient, -2 * velocity / 0.5 / 4)


def test_weights_leave_coordinates_out():
    samples = jnp.zeros((2, 1, 2))
    field = Field(jnp.ones((2, 1, 2)), jnp.ones(()), jnp.ones(()), jnp.ones(()))
    np.testing.assert_allclose(drift_loss(samples, field, jnp.array([[1.0, 0.0], [1.0, 1.0]])), 3 / 4)


def test_drifting_moves_samples_onto_the_target():
    # Eq. 4's descent on particles: from N(0, 1) to a target at two modes, keeping both.
    target = jnp.concatenate([normal(1, 1, 64, 1) * 0.1 - 1.0, normal(2, 1, 64, 1) * 0.1 + 1.0], axis=1)
    x = normal(0, 1, 128, 1)
    for _ in range(400):
        x = x + 0.5 * drifting_field(x, target, bandwidths=(0.3,), normalisation="mean_shift").velocity
    left = np.asarray(x) < 0
    assert 0.35 < left.mean() < 0.65
    assert np.asarray(x)[left].mean() == pytest.approx(-1.0, abs=0.15)
    assert np.asarray(x)[~left].mean() == pytest.approx(1.0, abs=0.15)
