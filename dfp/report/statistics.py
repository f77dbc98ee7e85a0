"""The statistics of the tables and figures, over seeds: one value per seed, never per episode.

``n`` denotes the number of seeds. Rates are fractions in [0, 1].
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import stdtrit


def over_seeds(evaluations: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean and standard deviation of ``success_rate`` per group of ``by``.

    Columns: ``by``, then ``mean``, ``std``, ``n``. ``std`` is the sample one (n - 1), NaN for one seed. The paper
    doesn't say which it prints; Table 6 does: a mean of 0.4 % over five seeds of 100 episodes allows 0.9 for the
    sample's and 0.8 or 0.5 for the population's, and 0.9 is printed (`tests/test_paper_numbers.py` tries every entry).
    """
    rates = evaluations.groupby(by, sort=False)["success_rate"]
    return rates.agg(mean="mean", std="std", n="count").reset_index()


def t_interval(summary: pd.DataFrame) -> pd.DataFrame:
    """Rows of :func:`over_seeds` with a 95 % Student-t interval for their mean, ``low`` to ``high``; NaN for one seed.

    The bounds are cut to [0, 1], where the true rate lies. The paper draws a "95 % confidence interval over five
    runs" (Figure 1) and doesn't say which. With five values, resampling them covers far less than it claims; the t
    quantile pays for the deviation being estimated.
    """
    # This is `scipy.stats.t.ppf`, without the wait for importing `scipy.stats`.
    quantile = stdtrit(np.maximum(summary["n"] - 1, 1), 0.975)
    half = quantile * summary["std"] / np.sqrt(summary["n"])
    low, high = ((summary["mean"] + sign * half).clip(0.0, 1.0) for sign in (-1, 1))
    return summary.assign(low=low, high=high)


def dense_rank(values: pd.DataFrame) -> pd.DataFrame:
    """Rank within each column: 1 for the largest value, 2 for the next different one; NaN has none.

    Ties share a rank and use up only one. The paper counts so: behind two methods at 99.8 on cube-double-task3, DFP
    is "second-best" (Table 1, Section 5.2).
    """
    return values.rank(method="dense", ascending=False)
