"""The theory's checks: they hold, their closed forms by hand, and each fails when something is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
import pytest

from dfp import drift
from dfp.studies.theory import CHECKS, example, flow, identities, proposition
from dfp.studies.theory.check import Check
from dfp.studies.theory.example import Gaussian

# As they are, for perturbations that are made of them.
mean_shift, mean_shift_field, kl = drift.mean_shift, drift.mean_shift_field, Gaussian.kl
level_set, total_variation = proposition.level_set, proposition.total_variation


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing measured before is used, and nothing measured with a perturbed function stays."""
    cached = (proposition.top_k_losses, flow.flow_of_gaussians, flow.flow_to_two_modes)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_holds(check: Callable[[], Check]):
    found = check()
    assert found.holds, found


# --------------------------------------------------------------------------- closed forms by hand


def test_the_improved_policy():
    # Precision 1 + 1 / (1/2) = 3; mean (1 * 0 + 2 * 1) / 3. Its score at 0.3: -(0.3 - 2/3) * 3 = 1.1.
    assert pytest.approx((2 / 3, 1 / 3)) == example.IMPROVED
    assert float(example.IMPROVED.score(0.3)) == pytest.approx(1.1)
    assert identities.improved_score().measured == pytest.approx(1.1, abs=1e-4)


def test_terms_of_eq_14():
    # grad Q / alpha = 0.7 / 0.5 = 1.4; score of pi_old -0.3; of pi_theta -(0.8) / 0.25 = -3.2.
    assert identities.decomposition(0.3) == pytest.approx(1.4 - 0.3 + 3.2)
    # h = 0.5: 0.25 * (0.366667 / 0.583333 + 0.8 / 0.5)
    assert identities.field_of_gaussians().expected == pytest.approx(0.557143, abs=1e-6)
    assert identities.field_of_gaussians().measured == pytest.approx(0.557143, abs=1e-4)


def test_kl_of_gaussians():
    # (1/4 - 1 + ln 4 + 1/4) / 2
    assert Gaussian(0.0, 1.0).kl(Gaussian(1.0, 4.0)) == pytest.approx(0.443147, abs=1e-6)
    assert Gaussian(0.5, 2.0).kl(Gaussian(0.5, 2.0)) == 0


def test_samples_that_stand_for_a_distribution():
    np.testing.assert_allclose(
        example.quantiles_of(Gaussian(1.0, 4.0), 3), [1 - 1.934844, 1.0, 1 + 1.934844], atol=1e-5
    )
    # A flat density from -1 to 1, in four quarters: their middles.
    np.testing.assert_allclose(example.grid_quantiles(np.ones(401), 4), [-0.75, -0.25, 0.25, 0.75], atol=1e-6)


def test_level_set_and_total_variation():
    tilted = proposition.level_set(0.25)
    old = proposition.level_set(1.0)
    assert tilted.sum() == pytest.approx(1.0)
    inside = tilted > 0
    assert example.ACTIONS[inside].min() > 0.4
    assert inside[inside.argmax() :].all()
    # Four times the old policy inside, nothing outside: TV = 1 - 1/4.
    assert proposition.total_variation(tilted, old) == pytest.approx(0.75, abs=1e-3)  # one grid point has a share
    assert proposition.total_variation(np.array([0.5, 0.5, 0.0]), np.array([0.2, 0.5, 0.3])) == pytest.approx(0.3)


def test_boltzmann():
    weights = proposition.boltzmann(0.5)
    assert weights.sum() == pytest.approx(1.0)
    # ln pi+ is ln N(0, 1) - (a - 1)^2: from a = 0 to a = 1 it rises by 1 - 1/2.
    assert np.log(weights[400] / weights[200]) == pytest.approx(0.5)


def test_bound_of_two_ends_by_hand():
    """All actions at 1, one in a hundred moved to -1, and a kernel that is 1: V+ moves by 2 * 0.01, as far as it may.

    From a policy at -1 the losses are 2^2 and 1.98^2; the bound is 2 M * M * TV = 8 * 0.01.
    """
    entry = proposition.extreme_gap()
    assert entry.variation == pytest.approx(0.01)
    assert (entry.shift, entry.shift_bound) == pytest.approx((0.02, 0.02), rel=1e-3)
    assert (entry.loss, entry.loss_bound) == pytest.approx((4.0 - 1.98**2, 0.08), rel=1e-3)


def test_divergence_of_the_masses():
    assert flow.mass_divergence(0.5) == pytest.approx(0.0, abs=1e-12)
    # ln 2 + 3/4 ln 3/4 + 1/4 ln 1/4
    assert flow.mass_divergence(0.75) == pytest.approx(0.130812, abs=1e-6)


def test_interval_of_the_error():
    # Squares 0.04 and 0.09: mean 0.065, standard error 0.025, times 1.96.
    low, high = proposition.error_interval(np.array([1.2, 1.3]))
    assert (low**2, high**2) == pytest.approx((0.065 - 0.048999, 0.065 + 0.048999), abs=1e-6)


def test_closed_form_of_the_error_of_eq_14():
    # h = 0.5: 0.557143 / 0.25 is 2.228571, not 4.3.
    assert identities.smoothed_error(0.5) == pytest.approx(4.3 - 2.228571, abs=1e-5)


def test_a_check_says_when_it_does_not_hold():
    assert Check("", "", "=", 1.0, 1.05, 0.1).holds
    assert not Check("", "", "=", 1.0, 0.8, 0.1).holds
    assert Check("", "", "<=", 1.0, 0.2, 0.0).holds
    assert not Check("", "", "<=", 1.0, 1.1, 0.0).holds
    assert not Check("", "", "=", 0.0, float("nan"), 1.0).holds


# --------------------------------------------------------------------------- each check can fail


def shift_times(factor: float):
    """The mean shift with a factor, as a wrong normaliser would give it."""
    return lambda *arguments: factor * mean_shift(*arguments)


def kernel_of(width: float):
    """The mean shift with a bandwidth that is off by a factor."""
    return lambda points, targets, bandwidth, *more: mean_shift(points, targets, width * bandwidth, *more)


def unnormalised(points, targets, bandwidth, excluded=None):
    """Eq. 3 without its denominators: the mean over the targets instead of the kernel's weights."""
    kernel = jnp.exp(-jnp.sum((points[:, :, None] - targets[:, None]) ** 2, axis=-1) / (2.0 * bandwidth**2))
    kernel = kernel if excluded is None else jnp.where(excluded, 0.0, kernel)
    return (kernel @ targets - jnp.sum(kernel, axis=-1, keepdims=True) * points) / targets.shape[1]


def repulsion_times(factor: float):
    """The field with a factor on its second term; -1 has the sign wrong, 0 has no repulsion."""

    def field(samples, positives, extra_negatives, bandwidths, *, exclude_self=True):
        whole = mean_shift_field(samples, positives, extra_negatives, bandwidths, exclude_self=exclude_self)
        (h,) = bandwidths
        attraction = mean_shift(samples, positives, h)
        return whole._replace(velocity=attraction + factor * (whole.velocity - attraction))

    return field


def without_self(samples, positives, extra_negatives, bandwidths, *, exclude_self=True):
    return mean_shift_field(samples, positives, extra_negatives, bandwidths)


def variation_times(factor: float):
    return lambda p, q: factor * total_variation(p, q)


def kl_times(factor: float):
    return lambda self, other: factor * kl(self, other)


Q_UPSIDE_DOWN = lambda a: 0.5 * (jnp.asarray(a) - example.BEST_ACTION) ** 2  # noqa: E731

# Check, what is wrong, and where it is put.
PERTURBED = [
    (identities.anti_symmetry, "half the repulsion", drift, "mean_shift_field", repulsion_times(0.5)),
    (identities.anti_symmetry, "repulsion with the wrong sign", drift, "mean_shift_field", repulsion_times(-1.0)),
    (identities.zero_at_the_target, "no self among the negatives", drift, "mean_shift_field", without_self),
    (identities.zero_at_the_target, "twice the repulsion", drift, "mean_shift_field", repulsion_times(2.0)),
    (identities.score_identity, "twice the shift", drift, "mean_shift", shift_times(2.0)),
    (identities.score_identity, "no denominator", drift, "mean_shift", unnormalised),
    (identities.score_identity, "h^2 without its 2", drift, "mean_shift", kernel_of(2**0.5)),
    (identities.field_identity, "half the repulsion", drift, "mean_shift_field", repulsion_times(0.5)),
    (identities.field_identity, "the wrong sign", drift, "mean_shift", shift_times(-1.0)),
    (identities.field_identity, "no denominator", drift, "mean_shift", unnormalised),
    (identities.improved_score, "twice the temperature", identities, "ALPHA", 2 * example.ALPHA),
    (identities.improved_score, "KL without its half", Gaussian, "kl", kl_times(2.0)),
    (identities.field_of_gaussians, "h^2 without its 2", drift, "mean_shift", kernel_of(2**0.5)),
    (identities.field_of_gaussians, "no denominator", drift, "mean_shift", unnormalised),
    (identities.decomposition_limit, "twice the field", drift, "mean_shift", shift_times(2.0)),
    (identities.decomposition_limit, "half the repulsion", drift, "mean_shift_field", repulsion_times(0.5)),
    (identities.decomposition_order, "half the field", drift, "mean_shift", shift_times(0.5)),
    (identities.decomposition_order, "no denominator", drift, "mean_shift", unnormalised),
    (proposition.top_k_limit, "the worst K", proposition, "q_value", Q_UPSIDE_DOWN),
    (proposition.top_k_limit, "no denominator", drift, "mean_shift", unnormalised),
    (proposition.top_k_rate, "half of the level set", proposition, "level_set", lambda rho: level_set(rho / 2)),
    (proposition.shift_bound, "half the bound", proposition, "DIAMETER", 1.0),
    (proposition.shift_bound, "TV of half its size", proposition, "total_variation", variation_times(0.5)),
    (proposition.loss_bound, "half the bound", proposition, "total_variation", variation_times(0.5)),
    (proposition.loss_bound, "an action space of half its size", proposition, "DIAMETER", 1.0),
    (proposition.sharp_limit, "TV without its half", proposition, "total_variation", variation_times(2.0)),
    (flow.flow_kl, "half the repulsion", drift, "mean_shift_field", repulsion_times(0.5)),
    (flow.flow_dissipates, "half the velocity", drift, "mean_shift", shift_times(0.5)),
    (flow.flow_dissipates_to_two_modes, "the wrong sign", drift, "mean_shift", shift_times(-1.0)),
    (flow.flow_keeps_the_masses, "no repulsion", drift, "mean_shift_field", repulsion_times(0.0)),
]  # fmt: skip


def test_every_check_is_perturbed():
    assert list(dict.fromkeys(check for check, *_ in PERTURBED)) == list(CHECKS)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("check", "_wrong", "where", "name", "value"), PERTURBED, ids=[f"{c.__name__}: {what}" for c, what, *_ in PERTURBED]
)
def test_a_wrong_theory_is_found_out(check, _wrong, where, name, value, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(where, name, value)
    assert not check().holds
