"""The comparisons of the study, written down before its runs, and the rule that judges them.

**The rule.** A claim has a direction: the paper says that the difference is positive. What is compared is, unless said
otherwise, the mean of the last three evaluations of a run. If the 95 % bootstrap interval of the difference of the
means over seeds excludes 0, the result has the *same direction* as the claim or the *opposite* one; else the runs
*cannot tell*. Fewer than :data:`MIN_SEEDS` seeds of a method: *too few seeds*.

A *score* is one number of a finished run: the columns of :func:`~dfp.report.study.data.run_scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from dfp.plan.catalogue import CATALOGUE
from dfp.report.statistics import LEVEL, Strata, probability_of_improvement, stratified_bootstrap, welch_half_width

MIN_SEEDS = 3
SAME, OPPOSITE, CANNOT_TELL, TOO_FEW = "same direction", "opposite", "cannot tell", "too few seeds"
SCORES = {
    "last": "mean of the last three evaluations",
    "final": "last evaluation",
    "area": "mean over the online phase",
    "offline": "mean of the last three offline evaluations",
}


class Claim(NamedTuple):
    """A sentence of the paper that says which side of a difference is larger."""

    section: str
    quote: str
    weights: dict[str, int]  #: of the methods' means; their sum is positive if the paper is right
    score: str = "last"

    @property
    def difference(self) -> str:
        """``dfp - mvp``, as text."""
        terms = "".join(f" {'+' if weight > 0 else '−'} {method}" for method, weight in self.weights.items())
        return terms.removeprefix(" + ")


def pair(better: str, worse: str) -> dict[str, int]:
    return {better: 1, worse: -1}


CLAIMS = (
    Claim("5.2", "improves the average score by +15.5 pp over MVP", pair("dfp", "mvp")),
    Claim("5.2", "faster convergence in the online stage [than MVP]", pair("dfp", "mvp"), "area"),
    Claim("5.2", "better behavior cloning capability in the offline stage [than MVP]", pair("dfp", "mvp"), "offline"),
    Claim("5.3", "Even without top-K, DFP yields a +8.1 pp [gain] over MVP", pair("dfp-no-topk", "mvp")),
    Claim("5.3", "MeanFlow gains only marginally [from top-K] (+2.4 pp)", pair("mvp-topk", "mvp")),
    Claim("5.3", "the drifting backbone gains substantially [from top-K] (+7.4 pp)", pair("dfp", "dfp-no-topk")),
    Claim(
        "5.3",
        "Adding top-K benefits the two backbones asymmetrically",
        {"dfp": 1, "dfp-no-topk": -1, "mvp-topk": -1, "mvp": 1},
    ),
    Claim("5.2", "outperforming the strongest baseline QC-FQL by +9.0 pp", pair("dfp", "qc-fql")),
    Claim("5.2", "surpasses even the best multi-step policy QC-BFN (+12.0 pp)", pair("dfp", "qc-bfn")),
    Claim("5.2", "the highest average success rate [Table 1: FQL below DFP]", pair("dfp", "fql")),
    Claim("5.2", "the highest average success rate [Table 1: BFN below DFP]", pair("dfp", "bfn")),
)


class Choice(NamedTuple):
    """What the paper leaves open or calls robust: a variant, and what this project takes."""

    question: str
    variant: str
    own: str
    row: str = ""  #: of docs/where-the-paper-is-silent.md


CHOICES = (
    Choice("bandwidth h: 0.1 against 0.05", "dfp_h=0.1", "dfp", "Bandwidth on OGBench"),
    Choice(
        "field: Eq. 3 (`mean_shift`) against the released code (`joint`)",
        "dfp_field=mean_shift",
        "dfp",
        "Normalisation of the field",
    ),
    Choice("positives K: 1 against 4", "dfp_K=1", "dfp"),
    Choice("weight λ: 0.1 against 0.5", "dfp_lambda=0.1", "dfp"),
)


def weighted(weights: list[int]) -> Callable[..., np.ndarray]:
    """The weighted sum of the means of samples, as a statistic to bootstrap."""

    def statistic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.sum(
            [weight * sample.mean(axis=axis) for weight, sample in zip(weights, samples, strict=True)], axis=0
        )

    return statistic


def sample(scores: pd.DataFrame, method: str, score: str) -> np.ndarray:
    """A score of every finished run of a method, in the order of the seeds."""
    mine = scores.loc[scores.method == method].sort_values(by="seed")
    return mine[score].dropna().to_numpy(float)


def difference(scores: pd.DataFrame, weights: dict[str, int], score: str) -> dict[str, Any]:
    """``value, low, high`` of a weighted sum of means over seeds, with its bootstrap interval, and ``n`` per method.

    Args:
      scores: rows of :func:`~dfp.report.study.data.run_scores` of one task.
      weights: of each method's mean.
      score: which column is compared.

    Returns:
      Also ``welch``: half the width of Welch's 95 % interval, the check by another method. The numbers are NaN if a
      method has fewer than :data:`MIN_SEEDS` finished seeds.
    """
    strata, factors = [sample(scores, method, score) for method in weights], list(weights.values())
    found = _estimate(weighted(factors), strata)
    if np.isnan(found["value"]):
        return found | {"welch": np.nan}
    std, n = np.array([stratum.std(ddof=1) for stratum in strata]), np.array(found["n"])
    return found | {"welch": welch_half_width(np.array(factors), std, n)}


def improvement(scores: pd.DataFrame, better: str, worse: str) -> dict[str, Any]:
    """The probability that a run of ``better`` ends higher than one of ``worse`` (``last``), as :func:`difference`."""
    return _estimate(probability_of_improvement, [sample(scores, method, "last") for method in (better, worse)])


def _estimate(statistic: Callable[..., np.ndarray], strata: Strata) -> dict[str, Any]:
    n = [len(stratum) for stratum in strata]
    if min(n) < MIN_SEEDS:
        return {"value": np.nan, "low": np.nan, "high": np.nan, "n": n}
    low, high = stratified_bootstrap(statistic, strata)
    return {"value": float(statistic(*strata)), "low": float(low), "high": float(high), "n": n}


def direction(found: dict[str, Any]) -> str:
    """What the rule says of a difference that a claim says is positive."""
    if np.isnan(found["value"]):
        return TOO_FEW
    return SAME if found["low"] > 0 else OPPOSITE if found["high"] < 0 else CANNOT_TELL


def directions(scores: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """Claims on one task's runs.

    Columns: ``section, quote, difference, score, value, low, high, n, welch, direction``; ``n`` is ``5/5``.
    """
    rows = []
    for claim in claims:
        found = difference(scores, claim.weights, claim.score)
        about = {"section": claim.section, "quote": claim.quote, "difference": claim.difference}
        about |= {"score": SCORES[claim.score], **found, "n": "/".join(map(str, found["n"]))}
        rows.append(about | {"direction": direction(found)})
    columns = ["section", "quote", "difference", "score", "value", "low", "high", "n", "welch", "direction"]
    return pd.DataFrame(rows, columns=pd.Index(columns))


# --------------------------------------------------------------------------- equality with the authors' release

RELEASE = CATALOGUE / "published" / "release_small.csv"
RELEASE_TYPES = {"method": "str", "seed": "int64", "step": "int64", "episodes": "int64", "success_rate": "float64"}
OURS_OF = {"dfp": "dfp_h=0.1", "mvp": "mvp", "qc-fql": "qc-fql"}  # by the release's name
MARGIN = 0.15  # of the equivalence test
FINAL_STEP, ONLINE_STEPS = 20_000, (12_500, 15_000, 17_500, 20_000)
EQUIVALENT, DIFFERENT = "equivalent", "different"


def release_scores(curves: pd.DataFrame) -> pd.DataFrame:
    """``method, seed, final, online`` from ``method, seed, step, success_rate``: the end, the online mean."""
    online = curves.loc[curves.step.isin(list(ONLINE_STEPS))]
    whole = online.loc[online.groupby(["method", "seed"]).step.transform("size") == len(ONLINE_STEPS)]
    runs = whole.groupby(["method", "seed"]).success_rate
    final = whole.loc[whole.step == FINAL_STEP].set_index(["method", "seed"]).success_rate
    return pd.DataFrame({"final": final, "online": runs.mean()}).reset_index()


def equality(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Per method and score: both means and n, our mean minus theirs with its 95 % Welch interval, and the test.

    ``p``: of two one-sided Welch tests that the means differ by less than :data:`MARGIN` (TOST). ``finding``:
    *equivalent* if p < 0.05; *different* if the interval excludes 0, whether or not the means are equivalent.
    """
    rows = []
    for name, method in OURS_OF.items():
        for score in ("final", "online"):
            x, y = (
                frame.loc[frame.method == key, score].to_numpy(float) for frame, key in ((ours, method), (theirs, name))
            )
            row = {"method": method, "score": score, "n": len(x), "release_n": len(y)}
            rows.append(row | (_welch(x, y) if min(len(x), len(y)) >= MIN_SEEDS else {"finding": TOO_FEW}))
    columns = ["method", "score", "n", "release_n", "mean", "release_mean", "value", "low", "high", "p", "finding"]
    return pd.DataFrame(rows).reindex(columns=columns)


def _welch(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    n, std = np.array([len(x), len(y)]), np.array([x.std(ddof=1), y.std(ddof=1)])
    value, half = x.mean() - y.mean(), welch_half_width(np.array([1.0, -1.0]), std, n)
    tests = [
        stats.ttest_ind(x + MARGIN, y, equal_var=False, alternative="greater"),
        stats.ttest_ind(x - MARGIN, y, equal_var=False, alternative="less"),
    ]
    p = float(np.max([np.asarray(test)[1] for test in tests]))
    found = [EQUIVALENT] if p < 1 - LEVEL else []
    found += [DIFFERENT] if abs(value) > half else []
    numbers = {"mean": x.mean(), "release_mean": y.mean(), "value": value, "low": value - half, "high": value + half}
    return numbers | {"p": p, "finding": " and ".join(found) or CANNOT_TELL}
