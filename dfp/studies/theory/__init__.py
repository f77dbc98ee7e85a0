"""The paper's theory as checks that run: each equation's closed form or bound beside what the code measures.

Everything is measured with :func:`dfp.drift.mean_shift`, one half of Eq. 3, on samples that represent distributions.
Training's default is another field (`joint`). Samples are ``n`` quantiles of equal weight in one dimension, or seeded
draws.

``example`` has the distributions, ``identities``, ``proposition`` and ``flow`` the checks, ``points`` what the figure
draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dfp.studies.theory.check import Check
from dfp.studies.theory.flow import flow_dissipates, flow_dissipates_to_two_modes, flow_keeps_the_masses, flow_kl
from dfp.studies.theory.identities import (
    anti_symmetry,
    decomposition_limit,
    decomposition_order,
    field_identity,
    field_of_gaussians,
    improved_score,
    score_identity,
    zero_at_the_target,
)
from dfp.studies.theory.proposition import loss_bound, sharp_limit, shift_bound, top_k_limit, top_k_rate

CHECKS: tuple[Callable[[], Check], ...] = (
    anti_symmetry, zero_at_the_target, score_identity, field_identity, improved_score, field_of_gaussians,
    decomposition_limit, decomposition_order, top_k_limit, top_k_rate, shift_bound, loss_bound,
    sharp_limit, flow_kl, flow_dissipates, flow_dissipates_to_two_modes, flow_keeps_the_masses,
)  # fmt: skip


def run_checks() -> Iterator[Check]:
    """Every check, in the order of :data:`CHECKS`."""
    for check in CHECKS:
        yield check()
