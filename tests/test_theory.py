"""The theory's checks: they hold, their closed forms by hand, and each fails where what it measures is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
import pytest

from dfp import drift
from dfp.theory import CHECKS, example, flow, identities, proposition
from dfp.theory.check import Check
from dfp.theory.example import Gaussian

mean_shift, mean_shift_field, gap = drift.mean_shift, drift.mean_shift_field, proposition.gap


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
    assert identities.improved_score().measured == pytest.approx(1.1)


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


def wide(points, targets, bandwidth, excluded=None):
    return mean_shift(points, targets, 1.2 * bandwidth, excluded)


def short(points, targets, bandwidth, excluded=None):
    return 0.8 * mean_shift(points, targets, bandwidth, excluded)


def backwards(points, targets, bandwidth, excluded=None):
    return -mean_shift(points, targets, bandwidth, excluded)


def without_self(samples, positives, extra_negatives, bandwidths, *, exclude_self):
    return mean_shift_field(samples, positives, extra_negatives, bandwidths)


def both_attract(points, positives, negatives, bandwidth):
    return example.attraction(points, positives, bandwidth) + example.attraction(points, negatives, bandwidth)


PERTURBED = [
    (identities.anti_symmetry, identities, "field", both_attract),
    (identities.zero_at_the_target, drift, "mean_shift_field", without_self),
    (identities.score_identity, drift, "mean_shift", wide),
    (identities.field_identity, drift, "mean_shift", short),
    (identities.improved_score, identities, "ALPHA", 0.4),
    (identities.field_of_gaussians, drift, "mean_shift", wide),
    (identities.decomposition_limit, drift, "mean_shift", short),
    (identities.decomposition_order, drift, "mean_shift", short),
    (proposition.top_k_limit, proposition, "q_value", lambda a: -jnp.asarray(a)),
    (proposition.top_k_rate, proposition, "q_value", lambda a: -jnp.asarray(a)),
    (proposition.shift_bound, proposition, "DIAMETER", 1e-2),
    (proposition.loss_factors, proposition, "gap", lambda rho, alpha: gap(rho, alpha)._replace(factorised=0.1)),
    (proposition.loss_bound, proposition, "DIAMETER", 1e-2),
    (proposition.sharp_limit, proposition, "matched_variation", lambda alpha: 0.0),
    (flow.flow_kl, drift, "mean_shift", short),
    (flow.flow_dissipates, drift, "mean_shift", backwards),
    (flow.flow_dissipates_to_two_modes, drift, "mean_shift", backwards),
    (flow.flow_keeps_the_masses, flow, "mass_divergence", lambda share: 0.0),
]


def test_every_check_is_perturbed():
    assert [entry[0] for entry in PERTURBED] == list(CHECKS)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("check", "where", "name", "wrong"), PERTURBED, ids=lambda value: getattr(value, "__name__", "")
)
def test_fails_where_the_measured_is_wrong(check, where, name, wrong, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(where, name, wrong)
    assert not check().holds
