"""``docs/study``: tables, figures and the page, from the CSV files in the folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dfp.files import write_atomically
from dfp.plan.catalogue import base_method
from dfp.plan.run_table import read_strings, read_table
from dfp.report.figures.curves import curves
from dfp.report.figures.drawing import csv_text, write_drawing
from dfp.report.pages import plural, points, render
from dfp.report.provenance import COLUMNS as PROVENANCE
from dfp.report.provenance import differing_data, short
from dfp.report.statistics import over_seeds, t_interval
from dfp.report.study.comparisons import (
    CANNOT_TELL,
    CHOICES,
    CLAIMS,
    MARGIN,
    MIN_SEEDS,
    ONLINE_STEPS,
    OPPOSITE,
    OURS_OF,
    RELEASE,
    RELEASE_TYPES,
    SAME,
    SCORES,
    TOO_FEW,
    difference,
    direction,
    directions,
    equality,
    improvement,
    pair,
    release_scores,
)
from dfp.report.study.data import GOAL, STUDIES, listed_runs, read_metrics, run_scores
from dfp.report.study.figures import HERE, RELEASE_COLOR, Line, draw_differences, draw_lines, method_pens
from dfp.report.tables.cost import read_cost

# Figures of learning curves: of which study, the methods that are new in it, and those that it is drawn beside.
CURVES = {
    "ablation": ("study", ["mvp", "mvp-topk", "dfp-no-topk", "dfp"], []),
    "open": ("study-dfp", ["dfp_h=0.1", "dfp_field=mean_shift"], ["dfp"]),
    "baselines": ("study-dfp", ["bfn", "qc-bfn", "fql", "qc-fql"], ["dfp"]),
    "sensitivity": ("study-dfp", ["dfp_K=1", "dfp_lambda=0.1"], ["dfp"]),
    "lift": ("study-lift", ["mvp", "mvp-topk", "dfp-no-topk", "dfp"], []),
}
TEN_STEPS = ("bfn", "qc-bfn")
STEPS = "offline updates, then online environment steps"
MINUTES = "minutes of computation, from measured ms per step"
AVERAGING_ROW = "Which evaluations count"  # of docs/where-the-paper-is-silent.md
RUN = ["stage", "method", "seed"]
# Both have one task and the same settings, but two data files: runs of one are not compared with runs of the other.
CUBE = ("study", "study-dfp")
COMPARED = (*CUBE, "study-lift")
TITLES = {"study": "Success against computation", "study-dfp": "The same, runs of study-dfp.yaml"}


def write_study_page(folder: Path) -> list[Path]:
    """Write ``README.md``, tables (CSV) and figures (PNG, PDF) from ``metrics.csv``, ``provenance.csv``, ``cost.csv``.

    ``cost.csv``, of ``dfp ops cost``, may be missing; so may any run. Raises :class:`~dfp.spec.ConfigError` if
    ``metrics.csv`` is missing or malformed.
    """
    tidy = read_metrics(folder)
    studies = {name: Study(name, tidy.loc[tidy.study == name]) for name in STUDIES}
    release, cost = read_table(RELEASE, RELEASE_TYPES), read_cost(folder / "cost.csv", partial=True)
    tables: dict[str, pd.DataFrame] = {}
    figures: dict[str, Figure] = {}
    for name in COMPARED:
        study = studies[name]
        tables |= {f"{name}-methods": study.methods(), f"{name}-pairs": study.pairs(), f"{name}-claims": study.claims()}
    for name in CUBE:
        tables[f"{name}-cost"] = cost_table(studies[name], cost)
    figures |= {f"curves-{name}": drawn for name in CURVES if (drawn := curve_figure(studies, name))}
    tables["equality"] = equality(release_scores(studies["equality"].tidy), release_scores(release))
    if len(rows := forest(*(together(tables, part) for part in ("claims", "pairs")))):
        figures["differences"] = draw_differences(rows)
    # One method alone compares nothing.
    if against := {TITLES[name]: lines for name in CUBE if len(lines := studies[name].against_minutes(cost)) > 1}:
        figures["cost"] = draw_lines(against, MINUTES)
    if panels := equality_panels(studies["equality"].tidy, release):
        figures["equality"] = draw_lines(panels, STEPS, switch=10_000)
    written = [write_atomically(folder / f"{name}.csv", csv_text(table)) for name, table in tables.items()]
    for name, figure in figures.items():
        written += write_drawing(folder / name, figure)
    origin = read_strings(folder / "provenance.csv").reindex(columns=["study", *PROVENANCE], fill_value="")
    return [*written, write_atomically(folder / "README.md", page(studies, tables, set(figures), origin))]


class Study:
    """One configuration's runs: those that it lists, the evaluations of phases that have ended, the scores."""

    def __init__(self, name: str, tidy: pd.DataFrame) -> None:
        self.name = name
        self.runs = listed_runs(name)
        self.online_methods = set(self.runs.loc[self.runs.stage == "finetune", "method"])
        scores = run_scores(tidy, self.runs)
        self.online = scores.loc[scores.stage == "finetune"]  # a pretraining whose run has not finished has `offline`
        self.scores = scores.dropna(subset="last")
        of_run = tidy.merge(scores[[*RUN, "last", "offline"]], on=RUN, how="left")
        ended = of_run["last"].notna() | ((of_run.phase == "offline") & of_run.offline.notna())
        self.tidy = of_run.loc[ended, tidy.columns]

    def methods(self) -> pd.DataFrame:
        """A row per stage and method: finished of listed seeds, mean and 95 % t-interval of every score."""
        rows = []
        for _, listed in self.runs.groupby(["stage", "method"], sort=False):
            stage, method, label = listed[["stage", "method", "label"]].iloc[0]
            mine = self.scores.loc[(self.scores.stage == stage) & (self.scores.method == method)]
            row: dict[str, Any] = {"stage": stage, "method": method, "label": label, "listed": len(listed)}
            row["n"] = len(mine)
            for score in SCORES:
                found = t_interval(over_seeds(mine.assign(success_rate=mine[score]), ["method"]))
                for name in ("mean", "low", "high"):
                    row[f"{score}_{name}"] = found[name].iloc[0] if len(found) else np.nan
            reached = mine["steps"].dropna()
            row |= {"reached": len(reached), "steps_median": reached.median() if len(reached) else np.nan}
            rows.append(row)
        return pd.DataFrame(rows)

    def pairs(self) -> pd.DataFrame:
        """A row per pair of methods that is compared: every score's difference, and the chance of improvement.

        Methods that share their pretrainings have no difference offline.
        """
        claimed = [tuple(claim.weights) for claim in CLAIMS if len(claim.weights) == 2]
        rows = []
        for better, worse in [*dict.fromkeys(claimed), *((choice.variant, choice.own) for choice in CHOICES)]:
            if not {better, worse} <= self.online_methods:
                continue
            row: dict[str, Any] = {"better": better, "worse": worse}
            found = {score: difference(self.online, pair(better, worse), score) for score in SCORES}
            if self.pretrainings(better) == self.pretrainings(worse):
                found["offline"] |= dict.fromkeys(("value", "low", "high", "welch"), np.nan)
            found["improvement"] = improvement(self.online, better, worse)
            for score, numbers in found.items():
                row |= {
                    f"{score}_{name}": numbers[name] for name in ("value", "low", "high", "welch") if name in numbers
                }
            counts = {"n": found["improvement"]["n"], "offline_n": found["offline"]["n"]}
            rows.append(row | {name: "/".join(map(str, n)) for name, n in counts.items()})
        return pd.DataFrame(rows)

    def pretrainings(self, method: str) -> set[str]:
        """Digests of the pretrainings of a method's runs."""
        return set(self.runs.loc[self.runs.method == method, "pretrained_digest"])

    def has_ended(self, method: str, beside: list[str]) -> bool:
        """Whether a run of a method has ended, or a pretraining that it shares with none of the methods ``beside``."""
        shared = {digest for other in beside for digest in self.pretrainings(other)}
        ended = self.scores if self.pretrainings(method) <= shared else self.tidy
        return method in set(ended.loc[ended.stage == "finetune", "method"])

    def claims(self) -> pd.DataFrame:
        """The claims whose methods the configuration lists, judged: the columns of :func:`directions`."""
        return directions(self.online, [claim for claim in CLAIMS if set(claim.weights) <= self.online_methods])

    def lines(self, methods: list[str]) -> list[Line]:
        """The learning curves of phases that have ended, ``x`` in steps; methods without one are left out."""
        runs = self.runs.loc[(self.runs.stage == "finetune") & self.runs.method.isin(set(self.tidy.method))]
        runs = pd.concat([runs.loc[runs.method == method] for method in methods])
        rows = curves(self.tidy.loc[self.tidy.stage == "finetune"], runs).assign(
            x=lambda frame: frame.step.astype(float)
        )
        lines = method_pens(runs) if len(runs) else {}
        return [
            Line(mine.label.iloc[0], lines[str(method)], mine) for method, mine in rows.groupby("method", sort=False)
        ]

    def against_minutes(self, cost: pd.DataFrame) -> list[Line]:
        """Learning curves over the minutes that their steps take, of the paper's methods whose cost was measured."""
        ms = cost.pivot_table(index="method", columns="phase", values="ms").reindex(columns=["offline", "online"])
        ms = ms.dropna()
        finished = set(self.scores.loc[self.scores.stage == "finetune", "method"]) & set(ms.index)
        methods = [key for key in dict.fromkeys(self.runs.method) if key in finished and base_method(key) == key]
        lines = []
        for line in self.lines(methods) if methods else []:
            cell = line.points.iloc[0]
            offline = np.minimum(line.points.x, cell.offline_steps)
            spent = offline * ms.offline[cell.method] + (line.points.x - offline) * ms.online[cell.method]
            lines.append(line._replace(points=line.points.assign(x=spent / 60_000)))
        return lines

    def missing(self) -> list[dict[str, Any]]:
        """``stage, method, seeds``, and whether some have finished (``begun``), of every method that lacks runs."""
        left = self.runs.merge(self.scores[RUN], on=RUN, how="left", indicator=True)
        left = left.loc[left["_merge"] == "left_only"]
        listed = self.runs.groupby(["stage", "method"]).size()
        return [
            {"stage": stage, "method": method, "seeds": list(rows.seed), "begun": len(rows) < listed[stage, method]}
            for (stage, method), rows in left.groupby(["stage", "method"], sort=False)
        ]


def curve_figure(studies: dict[str, Study], name: str) -> Figure | None:
    """Learning curves of :data:`CURVES`, if a phase of a method that is new in them has ended."""
    of, new, beside = CURVES[name]
    study = studies[of]
    shown = [method for method in new if study.has_ended(method, beside)]
    if not shown:
        return None
    task, switch = study.runs[["task", "offline_steps"]].iloc[0]
    return draw_lines({task: study.lines([*shown, *beside])}, STEPS, switch)


def together(tables: dict[str, pd.DataFrame], part: str) -> pd.DataFrame:
    """The claims, pairs or costs of both studies of cube-single-task2, one below the other."""
    return pd.concat([tables[f"{name}-{part}"] for name in CUBE], ignore_index=True)


def forest(claims: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """What ``differences.png`` draws: the claims, then the choices, as far as they have numbers."""
    stated = claims.assign(name=claims.difference + " (" + claims.score + ")")
    variants = pairs.loc[pairs.better.isin([choice.variant for choice in CHOICES])]
    variants = variants.assign(name=variants.better + " − " + variants.worse + f" ({SCORES['last']})")
    variants = variants.rename(columns={f"last_{name}": name for name in ("value", "low", "high")})
    rows = pd.concat([part.reindex(columns=["name", "value", "low", "high"]) for part in (stated, variants)])
    return rows.loc[rows.value.notna()]


def equality_panels(ours: pd.DataFrame, release: pd.DataFrame) -> dict[str, list[Line]]:
    """Our curves beside the release's, at our steps, of the methods of which a run of ours has finished."""
    panels: dict[str, list[Line]] = {}
    release = release.loc[release.step.isin(set(ours.step))]
    for name, method in OURS_OF.items():
        for label, color, rows in (
            ("here", HERE, ours.loc[ours.method == method]),
            ("release", RELEASE_COLOR, release.loc[release.method == name]),
        ):
            if method in set(ours.method):
                line = t_interval(over_seeds(rows, ["step"])).rename(columns={"step": "x"}).sort_values("x")
                panels.setdefault(method, []).append(Line(label, {"color": color, "linewidth": 1.6}, line))
    return panels


def cost_table(study: Study, cost: pd.DataFrame) -> pd.DataFrame:
    """A row per method whose cost was measured and of which a run has finished.

    ``method, label, n, last_mean, reached, inference_steps``; milliseconds ``offline, online, evaluation``; ``minutes``
    of a whole run, ``minutes_to_goal`` (median over the runs that got there), ``minutes_per_point`` of ``last_mean``.
    """
    ms = cost.pivot_table(index="method", columns="phase", values="ms", sort=False)
    ms = ms.reindex(columns=["offline", "online", "evaluation"])
    table = study.methods()
    table = table.loc[(table.stage == "finetune") & (table.n > 0)].merge(ms, left_on="method", right_index=True)
    length = study.runs.loc[study.runs.stage == "finetune"].iloc[0]
    pretraining = length.offline_steps * table.offline
    minutes = (pretraining + length.online_steps * table.online) / 60_000
    table = table.assign(
        inference_steps=np.where(table.method.isin(TEN_STEPS), 10, 1),
        minutes=minutes,
        minutes_to_goal=(pretraining + table.steps_median * table.online) / 60_000,
        minutes_per_point=minutes / (100 * table.last_mean),
    )
    columns = ["method", "label", "n", "last_mean", "reached", "inference_steps", *ms]
    return table.reindex(columns=[*columns, "minutes", "minutes_to_goal", "minutes_per_point"])


# --------------------------------------------------------------------------- the page


def page(studies: dict[str, Study], tables: dict[str, pd.DataFrame], figures: set[str], origin: pd.DataFrame) -> str:
    """The text of ``README.md``."""
    rows = {name: table.to_dict("records") for name, table in tables.items()}
    pairs = together(tables, "pairs").to_dict("records")
    ran = [row for row in rows["study-methods"] if row["n"]]
    claims: dict[str, list[dict[str, Any]]] = {answer: [] for answer in (OPPOSITE, SAME, CANNOT_TELL, TOO_FEW)}
    for row in together(tables, "claims").to_dict("records"):
        claims[row["direction"]].append(row)
    headline = [row for row in ran if row["method"] in CURVES["ablation"][1]]
    return render(
        "study.md",
        headline=sorted(headline, key=lambda row: -row["last_mean"]),
        online=[row for row in ran if row["stage"] == "finetune"],
        offline=[row for row in ran if row["stage"] == "offline"],
        planned=int(studies["study"].runs.seed.nunique()),
        claims=claims,
        clear=sum(row["welch"] < abs(row["value"]) for row in claims[SAME]),
        pairs=[row for row in pairs if not np.isnan([row["last_value"], row["offline_value"]]).all()],
        scores=SCORES,
        chosen=choices(pairs),
        averaging=averaging(studies["study"].scores),
        variants=[row for row in rows["study-dfp-methods"] if row["n"]],
        cost=rows["study-cost"],
        cost_of_variants=rows["study-dfp-cost"],
        lift=[row for row in rows["study-lift-methods"] if row["n"]],
        lift_claims=[row for row in rows["study-lift-claims"] if row["direction"] != TOO_FEW],
        equality=[row for row in rows["equality"] if row["n"]],
        missing={name: part.missing() for name, part in studies.items()},
        figures=figures,
        runs=len(origin),
        commits=sorted({short(commits) for commits in origin.git_commit}),
        devices=sorted(set(origin.device)),
        data_files={name: found for name, part in origin.groupby("study") if (found := differing_data(part))},
        hours=origin.hours.astype(float).sum(),
        goal=100 * GOAL,
        margin=100 * MARGIN,
        min_seeds=MIN_SEEDS,
        online_evaluations=len(ONLINE_STEPS),
    )  # fmt: skip


def choices(pairs: list[dict[str, Any]]) -> dict[str, str]:
    """A sentence for each of :data:`CHOICES` that was measured, by its question.

    It is about the end of the online phase or, as long as that was not run, of the offline phase.
    """
    words = {SAME: "the first is better", OPPOSITE: "the first is worse", CANNOT_TELL: "not told apart"}
    by_name = {(row["better"], row["worse"]): row for row in pairs}
    sentences = {}
    for choice in CHOICES:
        row = by_name.get((choice.variant, choice.own))
        for score, n in (("last", "n"), ("offline", "offline_n")):
            if row and not np.isnan(row[f"{score}_value"]):
                found = direction({name: row[f"{score}_{name}"] for name in ("value", "low", "high")})
                narrow = found != CANNOT_TELL and row[f"{score}_welch"] >= abs(row[f"{score}_value"])
                sentences[choice.question] = (
                    f"{points(row, f'{score}_')} points, {SCORES[score]} (n={row[n]}), {words[found]}"
                    + ("; Welch's t interval contains 0" if narrow else "")
                )
                break
    return sentences


def averaging(scores: pd.DataFrame) -> str:
    """How the mean of the last three evaluations and the last one differ, over the finished runs of both stages."""
    runs = scores.assign(group=scores.stage + " " + scores.method)
    runs = runs.loc[runs.group.map(runs.group.value_counts()) >= MIN_SEEDS]
    if runs.empty:
        return ""
    gap = (runs["last"] - runs.final).abs().mean()
    last, final = (np.sqrt(runs.groupby("group")[name].var().mean()) for name in ("last", "final"))
    return (
        f"over {len(runs)} runs of {plural(runs.group.nunique(), 'method')} they differ by {100 * gap:.1f} points on "
        f"average; standard deviation over seeds: {100 * last:.1f} points for the mean, {100 * final:.1f} for the last"
    )


def silent_rows(folder: Path) -> dict[str, str]:
    """What the study found about rows of ``docs/where-the-paper-is-silent.md``, by the row's question."""
    tidy = read_metrics(folder)
    study, variants = (Study(name, tidy.loc[tidy.study == name]) for name in CUBE)
    told = choices(variants.pairs().to_dict("records"))
    lines = {
        choice.row: f"measured on cube-single-task2: {choice.question}: {told[choice.question]}"
        for choice in CHOICES
        if choice.row and choice.question in told
    }
    averaged = averaging(study.scores)
    return lines | ({AVERAGING_ROW: f"measured on cube-single-task2: {averaged}"} if averaged else {})
