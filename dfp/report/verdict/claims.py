"""What the paper's text says of its tables, as functions: does a claim hold on given numbers?

Each function is evaluated twice: on our runs, and on the numbers that the paper prints. Some claims fail on the paper's
own numbers (`tests/report/test_verdict.py` names them). How a claim is judged:

* a **gain in points** holds if the printed gain lies in the 95 % Welch interval of the gain found and 0 does not;
  with both in it, it cannot be told yet; a *marginal* gain need not exclude 0;
* an **order** ("first on 9 of 12", "on every task") holds on means rounded to 0.1, as the paper judges it, and fails
  only if it is contradicted by more than the seeds scatter;
* a **single comparison** ("the highest average", "widening on the harder splits", "faster") holds or fails by the means
  alone, however the seeds scatter;
* a **word** has a number here: *near-identical* and *comparable* within :data:`NEAR`, *robust* and *close* within
  :data:`ROBUST`, *roughly an order of magnitude* a factor of :data:`TENFOLD`, *negligible* a share of
  :data:`NEGLIGIBLE`.

A claim whose numbers are not all there cannot be told yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from dfp.report.statistics import dense_rank
from dfp.report.verdict.cells import REGRET
from dfp.report.verdict.numbers import Missing, Numbers

NEAR, ROBUST = 2.0, 5.0  # points
HOLDS, FAILS, CANNOT_TELL = "holds", "fails", "cannot tell yet"
TENFOLD = (5.0, 20.0)
NEGLIGIBLE = 0.05
ROUNDING = 0.1 + 1e-9  # points: of the difference of two printed averages

BASELINES = ["bfn", "qc-bfn", "fql", "qc-fql", "mvp"]
ONLINE = [*BASELINES, "dfp"]
ABLATION = ["mvp", "mvp-topk", "dfp-no-topk", "dfp"]
ONE_STEP = ["fql", "qc-fql", "mvp", "mvp-topk", "dfp-no-topk", "dfp"]
LAMBDAS = [f"dfp_lambda={weight}" for weight in ("0.1", "0.5", "1.0", "5.0")]
SIZES = [f"dfp_K={size}" for size in (1, 2, 4, 8)]
OFFLINE = ["bc", "iql", "rebrac", "idql", "srpo", "cac", "fawac", "fbrac", "ifql", "fql", "dfp-offline"]
LONG = "cube-triple|cube-quadruple"


Outcome = tuple[bool | None, str]  # whether the claim holds, None if the seeds scatter too much; the numbers used


class Claim(NamedTuple):
    """A sentence of the paper and the function that judges it."""

    section: str
    quote: str
    check: Callable[[Numbers], Outcome]

    @property
    def key(self) -> str:
        return self.check.__name__


CLAIMS: list[Claim] = []


def claim(section: str, quote: str) -> Callable[[Callable], Callable]:
    """Adds the function below to :data:`CLAIMS`."""

    def add(check: Callable[[Numbers], Outcome]) -> Callable:
        CLAIMS.append(Claim(section, quote, check))
        return check

    return add


def judge(claim: Claim, numbers: Numbers) -> tuple[str, str]:
    """``holds``, ``fails`` or ``cannot tell yet``, and the numbers used, or what is missing."""
    try:
        holds, used = claim.check(numbers)
    except Missing as error:
        return CANNOT_TELL, str(error)
    return {True: HOLDS, False: FAILS, None: CANNOT_TELL}[holds], used


# --------------------------------------------------------------------------- Table 1: against the baselines


@claim("1, 5.2", "ranking first on 9 of 12 tasks and second-best on the remaining 3")
def first_on_nine_second_on_three(numbers: Numbers) -> Outcome:
    rank = dense_rank(numbers.means(1, ONLINE)).loc["dfp"]
    first, second = int((rank == 1).sum()), int((rank == 2).sum())
    leads = [numbers.gains(1, method, "dfp") for method in BASELINES]
    # Per task, how many methods are clearly ahead of DFP.
    beaten = pd.concat([lead["gain"] > lead["half"] for lead in leads], axis=1).sum(axis=1)
    possible = bool((beaten == 0).sum() >= 9 and beaten.max() <= 1)
    holds = first >= 9 and first + second == len(rank)
    used = f"first on {first}, second on {second} of {len(rank)}; clearly beaten on {(beaten > 0).sum()}"
    return holds or (None if possible else False), used


@claim("5.2, 6", "achieves the highest average success rate of 95.8%")
def highest_average(numbers: Numbers) -> Outcome:
    average = numbers.averages(1, ONLINE)
    level, half = numbers.gain(1, {"dfp": 1})
    holds = average.idxmax() == "dfp" and abs(level - 95.8) <= max(half, ROUNDING)
    return holds, f"DFP {level:.1f} ± {half:.1f}, next {_best(average.drop('dfp'))}"


@claim("5.2", "outperforming the strongest baseline QC-FQL (86.8%)")
def qc_fql_is_the_strongest_baseline(numbers: Numbers) -> Outcome:
    average = numbers.averages(1, BASELINES)
    return average.idxmax() == "qc-fql", f"{_best(average)}, next {_best(average.drop(average.idxmax()))}"


@claim("5.2", "outperforming the strongest baseline QC-FQL by +9.0 pp")
def nine_points_over_qc_fql(numbers: Numbers) -> Outcome:
    return _gains(numbers, 1, "dfp", "qc-fql", 9.0)


@claim("5.2", "surpasses even the best multi-step policy QC-BFN (83.8%, +12.0 pp)")
def twelve_points_over_qc_bfn(numbers: Numbers) -> Outcome:
    return _gains(numbers, 1, "dfp", "qc-bfn", 12.0)


@claim("5.2", "with the gap [to QC-BFN] widening on the harder cube-triple and cube-quadruple splits")
def gap_to_qc_bfn_widens_on_the_harder_splits(numbers: Numbers) -> Outcome:
    return _larger_where_long(numbers.means(1, ONLINE), "dfp", "qc-bfn")


@claim("5.2", "improves the average score by +15.5 pp over MVP")
def fifteen_points_over_mvp(numbers: Numbers) -> Outcome:
    return _gains(numbers, 1, "dfp", "mvp", 15.5)


@claim("5.2", "and outperforms [MVP] on every task")
def better_than_mvp_on_every_task(numbers: Numbers) -> Outcome:
    gains = numbers.gains(1, "dfp", "mvp")
    return _everywhere(gains), _behind(gains)


@claim("5.2", "with particularly large gains on the multimodal long-horizon tasks")
def largest_gains_over_mvp_are_long_horizon(numbers: Numbers) -> Outcome:
    return _larger_where_long(numbers.means(1, ONLINE), "dfp", "mvp")


@claim("5.2", "outperforms MVP consistently across time [at the end of both phases, on every task]")
def better_than_mvp_in_both_phases(numbers: Numbers) -> Outcome:
    offline, online = (numbers.gains(6, "dfp", "mvp", phase) for phase in ("offline", "online"))
    return _everywhere(pd.concat([offline, online])), f"offline: {_behind(offline)}; online: {_behind(online)}"


@claim("5.2", "better behavior cloning capability in the offline stage")
def better_than_mvp_offline_on_average(numbers: Numbers) -> Outcome:
    gain, half = numbers.gain(6, {"dfp": 1, "mvp": -1}, "offline")
    return gain > 0, f"{gain:+.1f} ± {half:.1f} pp at the end of the offline phase"


@claim("5.2", "faster convergence in the online stage [than MVP: less regret over it, on average]")
def faster_online_than_mvp(numbers: Numbers) -> Outcome:
    gain, half = numbers.gain(1, {"mvp": 1, "dfp": -1}, REGRET)
    return gain > 0, f"MVP's regret is {gain:+.1f} ± {half:.1f} pp above DFP's"


# --------------------------------------------------------------------------- Table 2: backbone and top-K


@claim("5.3", "Even without top-K, DFP yields a +8.1 pp in average success rate over MVP")
def eight_points_without_topk(numbers: Numbers) -> Outcome:
    return _gains(numbers, 2, "dfp-no-topk", "mvp", 8.1)


@claim("5.3", "MeanFlow gains only marginally (80.3% → 82.7%, +2.4 pp)")
def two_points_by_topk_on_meanflow(numbers: Numbers) -> Outcome:
    return _gains(numbers, 2, "mvp-topk", "mvp", 2.4, marginal=True)


@claim("5.3", "while the drifting backbone gains substantially (88.4% → 95.8%, +7.4 pp)")
def seven_points_by_topk_on_drifting(numbers: Numbers) -> Outcome:
    return _gains(numbers, 2, "dfp", "dfp-no-topk", 7.4)


@claim("5.3", "Adding top-K benefits the two backbones asymmetrically [+7.4 against +2.4 pp]")
def topk_gains_more_on_drifting(numbers: Numbers) -> Outcome:
    gain, half = numbers.gain(2, {"dfp": 1, "dfp-no-topk": -1, "mvp-topk": -1, "mvp": 1})
    holds = True if gain > half else False if gain + half < 7.4 - 2.4 else None
    return holds, f"drifting gains {gain:+.1f} ± {half:.1f} pp more, against {7.4 - 2.4:+.1f}"


@claim("B.3", "[on MeanFlow] only a marginal gain that often falls within the seed variance")
def meanflow_gain_often_within_seed_variance(numbers: Numbers) -> Outcome:
    gains = numbers.gains(2, "mvp-topk", "mvp")
    within = int((gains.gain.abs() <= gains.half).sum())
    return within > len(gains) / 2, f"within the 95 % interval of 0 on {within} of {len(gains)} tasks"


@claim("B.3", "a substantially larger lift, most pronounced on the long-horizon cube-triple and cube-quadruple splits")
def topk_lifts_drifting_most_where_long(numbers: Numbers) -> Outcome:
    return _larger_where_long(numbers.means(2, ABLATION), "dfp", "dfp-no-topk")


@claim("B.1", "DFP and DFP w/o top-K show the largest online gains on the cube-triple and cube-quadruple splits")
def drifting_gains_most_online_where_long(numbers: Numbers) -> Outcome:
    methods = [*BASELINES, "mvp-topk", "dfp-no-topk", "dfp"]
    gain = numbers.means(6, methods, "online") - numbers.means(6, methods, "offline")
    order = gain.filter(regex=LONG).mean(axis=1).sort_values(ascending=False)
    used = ", ".join(f"{key} {rate:+.1f}" for key, rate in order.iloc[:4].items())
    return set(order.index[:2]) == {"dfp", "dfp-no-topk"}, used


# --------------------------------------------------------------------------- Tables 3 and 4: lambda and K


@claim("5.4", "DFP is robust to the weight [λ of 0.1 to 5]")
def robust_to_lambda(numbers: Numbers) -> Outcome:
    return _within(numbers.averages(3, LAMBDAS), ROBUST)


@claim("B.5", "DFP is robust for λ ≥ 0.5, with all settings yielding near-identical performance")
def near_identical_from_lambda_half(numbers: Numbers) -> Outcome:
    return _within(numbers.averages(3, LAMBDAS[1:]), NEAR)


@claim("5.4", "a sweet spot exists [for K]")
def k_has_a_sweet_spot(numbers: Numbers) -> Outcome:
    average = numbers.averages(4, SIZES)
    return average.idxmax() in SIZES[1:-1], _listed(average)


@claim("5.4", "top-K is overall robust to K")
def robust_to_k(numbers: Numbers) -> Outcome:
    return _within(numbers.averages(4, SIZES), ROBUST)


@claim("5.4", "even the worst setting (K=1, 85.8%) is already comparable to the best baseline (QC-FQL, 86.8%)")
def worst_k_is_comparable_to_the_best_baseline(numbers: Numbers) -> Outcome:
    size, baseline = numbers.averages(4, SIZES), numbers.averages(1, BASELINES)
    worst = f"{size.idxmin()} {size.min():.1f}"
    return (
        size.min() >= baseline.max() - NEAR,
        f"{worst}, best baseline {_best(baseline)}; comparable: within {NEAR} pp",
    )


# --------------------------------------------------------------------------- Table 7: offline RL


@claim("B.2", "DFP attains the best success rate on cube-double-task2 and scene-task2")
def best_offline_on_two_tasks(numbers: Numbers) -> Outcome:
    means = numbers.means(7, OFFLINE, "offline")[["cube-double-task2", "scene-task2"]]
    used = "; ".join(f"{task}: {_best(rates)}" for task, rates in means.items())
    return bool((means.loc["dfp-offline"] == means.max()).all()), used  # a tie counts, as in Table 1


@claim("B.2", "and remains close to the strongest baseline on cube-single-task2 and puzzle-4x4-task4")
def close_offline_on_two_more(numbers: Numbers) -> Outcome:
    means = numbers.means(7, OFFLINE, "offline")[["cube-single-task2", "puzzle-4x4-task4"]]
    ours, best = means.loc["dfp-offline"], means.drop("dfp-offline").max()
    used = "; ".join(f"{task}: DFP {ours[task]:.1f}, strongest {best[task]:.1f}" for task in means)
    return bool((ours >= best - ROBUST).all()), f"{used}; close: within {ROBUST} pp"


# --------------------------------------------------------------------------- Table 9: cost


@claim("B.6", "the measured overhead of top-K is small: DFP is within 0.04 ms of DFP w/o top-K")
def topk_costs_little(numbers: Numbers) -> Outcome:
    ms = numbers.cost(["dfp", "dfp-no-topk"], "online")
    share = ms["dfp"] / ms["dfp-no-topk"] - 1
    used = f"{ms['dfp']:.2f} against {ms['dfp-no-topk']:.2f} ms, {100 * share:+.1f} %; small: at most {NEGLIGIBLE:.0%}"
    return bool(share <= NEGLIGIBLE), used


@claim("B.6", "the full DFP cost is faster than the multi-step BFN and QC-BFN [per online step]")
def online_step_faster_than_multistep(numbers: Numbers) -> Outcome:
    ms = numbers.cost(["dfp", "bfn", "qc-bfn"], "online")
    return bool(ms["dfp"] < min(ms["bfn"], ms["qc-bfn"])), _listed(ms, "ms")


@claim("B.6", "all [one-step methods] roughly an order of magnitude faster than BFN and QC-BFN [at inference]")
def one_step_inference_ten_times_faster(numbers: Numbers) -> Outcome:
    slow, fast = numbers.cost(["bfn", "qc-bfn"], "evaluation"), numbers.cost(ONE_STEP, "evaluation")
    least, most = slow.min() / fast.max(), slow.max() / fast.min()
    return TENFOLD[0] <= least and most <= TENFOLD[1], f"{least:.1f} to {most:.1f} times faster"


# --------------------------------------------------------------------------- what several claims share


def _gains(numbers: Numbers, table: int, better: str, worse: str, points: float, marginal: bool = False) -> Outcome:
    gain, half = numbers.gain(table, {better: 1, worse: -1})
    holds = abs(gain - points) <= max(half, ROUNDING)
    unclear = holds and abs(gain) <= half and not marginal
    return None if unclear else holds, f"{gain:+.1f} ± {half:.1f} pp against {points:+.1f}"


def _larger_where_long(means: pd.DataFrame, better: str, worse: str) -> Outcome:
    """Whether the gain on cube-triple and on cube-quadruple is larger than on all other tasks together."""
    gain = means.loc[better] - means.loc[worse]
    triple, quadruple = (gain.filter(regex=name).mean() for name in LONG.split("|"))
    rest = gain[~gain.index.str.contains(LONG)].mean()
    used = f"{triple:+.1f} pp on cube-triple, {quadruple:+.1f} on cube-quadruple, {rest:+.1f} elsewhere"
    return min(triple, quadruple) > rest, used


def _everywhere(gains: pd.DataFrame) -> bool | None:
    """Ahead on every task; None if it is not, but nowhere behind by more than the seeds scatter."""
    if (gains.gain > 0).all():
        return True
    return False if (gains.gain < -gains.half).any() else None


def _behind(gains: pd.DataFrame) -> str:
    """On how many tasks a method is ahead, and where it is not."""
    behind = gains.index[gains.gain <= 0]
    clear = int((gains.gain > gains.half).sum())
    where = f", not on {', '.join(behind)}" if len(behind) else ""
    return f"ahead on {len(gains) - len(behind)} of {len(gains)}, beyond the seeds' scatter on {clear}{where}"


def _within(averages: pd.Series, points: float) -> Outcome:
    spread = averages.max() - averages.min()
    return spread <= points, f"{_listed(averages)}: {spread:.1f} pp apart; allowed: {points}"


def _best(averages: pd.Series) -> str:
    return f"{averages.idxmax()} {averages.max():.1f}"


def _listed(values: pd.Series, unit: str = "") -> str:
    return ", ".join(f"{key} {value:.1f}" for key, value in values.items()) + (f" {unit}" if unit else "")
