"""The statistics of the tables, figures and the verdict, over seeds: one value per seed, never per episode.

``n`` denotes the number of seeds. Rates are fractions in [0, 1]. Resampling starts from :data:`SEED` in every call, so
that the same runs give the same interval. A *stratum* holds the scores of one task, [n]; the numbers of seeds may
differ between tasks.

Interquartile mean, stratified bootstrap, probability of improvement and performance profile are those of Agarwal et
al. 2021 (arXiv 2108.13264), computed with SciPy. Given several samples, :func:`scipy.stats.bootstrap` resamples each by
itself: here, the seeds of each task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtrit

SEED = 0
RESAMPLES = 5000
LEVEL = 0.95
THRESHOLDS = np.arange(20) / 20  # of a performance profile

Strata = Sequence[np.ndarray]


def over_seeds(evaluations: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean and standard deviation of ``success_rate`` per group of ``by``.

    Columns: ``by``, then ``mean``, ``std``, ``n``. ``std`` is the sample standard deviation (n - 1), NaN for one seed.
    The paper's text does not say which deviation it prints, but Table 6 shows it. A mean of 0.4 % over five seeds of
    100 episodes allows a sample deviation of 0.9 or 0.5 and a population deviation of 0.8 or 0.5; Table 6 prints 0.9.
    `tests/report/test_paper_numbers.py` checks every entry.
    """
    rates = evaluations.groupby(by, sort=False)["success_rate"]
    return rates.agg(mean="mean", std="std", n="count").reset_index()


def t_interval(summary: pd.DataFrame) -> pd.DataFrame:
    """Rows of :func:`over_seeds` with a 95 % Student-t interval for their mean, ``low`` to ``high``; NaN for one seed.

    The bounds are cut to [0, 1], where the true rate lies. The paper draws a "95 % confidence interval over five
    runs" (Figure 1) and does not say which. A bootstrap interval of five normal values covers their mean in only about
    85 % of cases. The t quantile takes into account that the deviation is an estimate.
    """
    # This is `scipy.stats.t.ppf`, without the wait for importing `scipy.stats`.
    quantile = stdtrit(np.maximum(summary["n"] - 1, 1), (1 + LEVEL) / 2)
    half = quantile * summary["std"] / np.sqrt(summary["n"])
    low, high = ((summary["mean"] + sign * half).clip(0.0, 1.0) for sign in (-1, 1))
    return summary.assign(low=low, high=high)


def dense_rank(values: pd.DataFrame) -> pd.DataFrame:
    """Rank within each column: 1 for the largest value, 2 for the next different one; NaN has none.

    Equal values share a rank, and the next value has the next rank. The paper ranks like this: on cube-double-task3
    two methods have 99.8, and it calls DFP with 99.6 "second-best" (Table 1, Section 5.2).
    """
    return values.rank(method="dense", ascending=False)


# --------------------------------------------------------------------------- differences of means


def welch_half_width(weights: np.ndarray, std: np.ndarray, n: np.ndarray) -> float:
    r"""Half width of the 95 % interval of $\sum_i w_i \bar x_i$, where the $\bar x_i$ are means of ``n`` seeds each.

    $t_\nu \sqrt{\sum_i v_i}$ with $v_i = w_i^2 s_i^2 / n_i$ and $\nu = (\sum v_i)^2 / \sum v_i^2 / (n_i - 1)$ (Welch
    1947). Weights (1, -1) give Welch's t-test of two means; 1/T and -1/T over T tasks, that of two averages. The
    arguments have the same shape. Returns 0 if all deviations are 0, and NaN if a deviation is NaN (one seed).
    """
    variance = weights**2 * std**2 / n
    total = variance.sum()
    if total == 0:
        return 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = total**2 / (variance**2 / (n - 1)).sum()
    return float(stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(total))


def at_least_sampling_std(std: np.ndarray, mean: np.ndarray, n: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """``std`` of seeds' rates, or the deviation of a rate over E episodes if larger: $\\sqrt{p (1 - p) / E}$.

    Five seeds with 100 of 100 successes have deviation 0, and yet the next episode may fail. $p$ is the rate of all
    seeds together with one success and one failure added (Laplace), so that it is neither 0 nor 1. E is ``episodes``,
    those of one evaluation. The arguments have the same shape.
    """
    pooled = n * episodes
    p = (mean * pooled + 1) / (pooled + 2)
    return np.maximum(std, np.sqrt(p * (1 - p) / episodes))


# --------------------------------------------------------------------------- aggregates over tasks


def task_mean(*strata: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean over tasks of each task's mean over seeds: the paper's average."""
    return np.mean([stratum.mean(axis=axis) for stratum in strata], axis=0)


def interquartile_mean(*strata: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean of the middle half of all tasks' scores together: of 4 m scores, without the m lowest and m highest."""
    from scipy import stats

    return np.asarray(stats.trim_mean(np.concatenate(strata, axis=axis), 0.25, axis=axis))


def performance_profile(*strata: np.ndarray, axis: int = -1) -> np.ndarray:
    """The share of all tasks' scores above each of :data:`THRESHOLDS`; a first axis of that length."""
    pooled = np.concatenate(strata, axis=axis)
    return np.stack([(pooled > threshold).mean(axis=axis) for threshold in THRESHOLDS])


def probability_of_improvement(*strata: np.ndarray, axis: int = -1) -> np.ndarray:
    """The chance that a run of X scores higher than one of Y on the same task, a tie counting half; mean over tasks.

    ``strata`` are X's tasks, then Y's, in the same order: $P(X > Y)$ on a task is Mann and Whitney's U / (n_x n_y).
    """
    half = len(strata) // 2
    chances = []
    for x, y in zip(strata[:half], strata[half:], strict=True):
        x, y = np.moveaxis(x, axis, -1)[..., :, None], np.moveaxis(y, axis, -1)[..., None, :]
        chances.append(((x > y) + 0.5 * (x == y)).mean(axis=(-2, -1)))
    return np.mean(chances, axis=0)


def stratified_bootstrap(statistic: Callable[..., np.ndarray], strata: Strata) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile interval of ``statistic(*strata)``, low and high, resampling seeds within each task.

    NaN if a task has one seed: there is nothing to resample, and an interval without its spread would be too narrow.
    """
    if min(map(len, strata)) < 2:
        unknown = np.full_like(statistic(*strata), np.nan)
        return unknown, unknown
    from scipy import stats

    interval = stats.bootstrap(
        strata,
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        vectorized=True,
        axis=-1,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return np.asarray(interval.low), np.asarray(interval.high)


# --------------------------------------------------------------------------- the online phase of one run


def online_regret(steps: np.ndarray, rates: np.ndarray) -> float:
    """The mean distance of the success rate from 1 over a run's online phase: 0 if it never fails, 1 if it always does.

    ``steps`` [T] are those of the evaluations, from the end of the offline phase to the end of the online one, and
    ``rates`` [T] their success rates, joined by lines. The result is the area between the curve and 1, divided by the
    length of the phase. This is the cumulative regret of Nakamoto et al. 2023 (Cal-QL, arXiv 2303.05479; CORL reports
    it too, arXiv 2210.07105) per step, with a success rate of 1 for the unknown optimum. Unlike the last evaluation,
    it depends on how fast the run learned.
    """
    return float(np.trapezoid(1.0 - rates, steps) / (steps[-1] - steps[0]))
