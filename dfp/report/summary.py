"""``summary.md``: what was run and what came out, short enough to paste into an issue or a mail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dfp.files import write_atomically
from dfp.report.aggregates import comparisons
from dfp.report.claims import FAILS, HOLDS
from dfp.report.collect import read_runs
from dfp.report.provenance import folders, provenance
from dfp.report.statistics import over_seeds
from dfp.report.verdict import verdict
from dfp.report.verdict_page import counts

HEADLINES = ("table2", "table1", "table6")  # whose grid the summary shows, the first that was run
PLAIN = {"finetune": "offline-to-online", "pretrain": "pretraining", "offline": "offline RL"}


def write_summary(results_dir: Path, partial: bool = False) -> Path:
    """Write ``summary.md`` below ``results_dir`` and return its path. Raises as the verdict does."""
    cells, claims, rates = verdict(results_dir, partial)
    runs = read_runs(results_dir)
    known = provenance(results_dir, runs)
    lines = ["# Drifting Field Policy: summary of a reproduction", "", *_what_ran(known, len(folders(runs)))]
    lines += ["", *_headline(rates, runs), "", *_verdict(cells, claims), ""]
    return write_atomically(results_dir / "summary.md", "\n".join(lines))


def _what_ran(known: pd.DataFrame, listed: int) -> list[str]:
    if known.empty:
        return [f"None of {listed} runs has finished."]
    stages = ", ".join(f"{count} {PLAIN[str(stage)]}" for stage, count in known.stage.value_counts().items())
    seeds = known.groupby(["stage", "task", "method"]).size().tolist()
    n = " to ".join(map(str, sorted({min(seeds), max(seeds)})))
    other = known.loc[known.scale != "paper", "scale"]
    lines = [
        f"- **Runs**: {len(known)} of {listed} finished ({stages}); tasks: {known.task.nunique()}; seeds per cell: {n}",
        f"- **Device**: {_counted(known.device)}; {known.hours.sum():.1f} hours of all attempts, "
        f"{known.attempts.sum()} attempts",
        f"- **Code**: {_counted(known.git_commit.str.slice(0, 12))}",
        "- **Scale**: the paper's (Table 5)" if other.empty else f"- **Scale**: {_settings(other)}",
    ]
    if len(other) == len(known):
        lines += ["", "**No run is at the paper's scale, so no number here confirms or contradicts the paper.**"]
    elif len(other):
        lines += ["", f"**{len(other)} of the runs are not at the paper's scale; they are not compared with it.**"]
    return lines


def _headline(rates: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """Success rate after the online phase, as Table 2 shows it, of the first experiment of :data:`HEADLINES`."""
    listed = dict(comparisons(runs))
    experiment = next((name for name in (*HEADLINES, *listed) if name in listed), None)
    if experiment is None:
        return ["No experiment of this configuration has runs of its own."]
    grid = listed[experiment]
    phase = "online" if (grid.stage == "finetune").all() else "offline"
    key = ["stage", "task", "method", "seed"]
    mine = rates[rates.phase == phase].merge(grid[key], on=key).assign(success_rate=lambda frame: frame.rate)
    summary = over_seeds(mine, ["method", "task"]).set_index(["method", "task"])
    tasks = grid.drop_duplicates("task")
    title = f"Success rate (%) at the end of the {phase} phase, mean ± sample standard deviation over seeds (n):"
    lines = [title, "", _pipes(["Method", *tasks.task, "Avg."]), _pipes([":--", *["--:"] * (len(tasks) + 1)])]
    for method, label in grid.drop_duplicates("method").set_index("method")["label"].items():
        cells = [_cell(summary, method, task) for task in tasks.task]
        whole = [summary.loc[(method, task), "mean"] for task in tasks.task if (method, task) in summary.index]
        average = f"{100 * np.mean(whole):.1f}" if len(whole) == len(tasks) else "—"
        lines.append(_pipes([str(label), *cells, average]))
    return lines


def _cell(summary: pd.DataFrame, method: object, task: str) -> str:
    if (method, task) not in summary.index:
        return "—"
    mean, std, n = summary.loc[(method, task)]
    return f"{100 * mean:.1f}{'' if np.isnan(std) else f' ± {100 * std:.1f}'} (n={int(n)})"


def _verdict(cells: pd.DataFrame, claims: pd.DataFrame) -> list[str]:
    total = counts(cells).loc["all"]
    verdicts = ", ".join(f"{count} {name}" for name, count in total.items())
    lines = [f"**Cells of the paper's Tables 1-4, 6, 7** ({total.sum()}): {verdicts}.", ""]
    lines += [f"**Claims of its text** ({len(claims)}): {_counted(claims.verdict)}.", ""]
    for row in claims.loc[claims.verdict.isin([HOLDS, FAILS])].to_dict("records"):
        lines.append(f"- {row['verdict']}: “{row['quote']}” (Section {row['section']}): {row['numbers']}")
    own = claims.loc[claims.paper == FAILS]
    lines += [
        "",
        f"On the numbers that the paper prints itself, {len(own)} of its claims fail: {', '.join(own.claim)}.",
    ]
    return lines


def _settings(scales: pd.Series) -> str:
    """Every setting in which some run differs from the paper's protocol, once."""
    return ", ".join(dict.fromkeys(setting for scale in scales for setting in scale.split(", ")))


def _counted(values: pd.Series) -> str:
    """Each value with how often it is there, the most frequent first."""
    return ", ".join(f"{value} ({count})" for value, count in values.value_counts().items())


def _pipes(fields: list[str]) -> str:
    return "| " + " | ".join(field.replace("|", r"\|") for field in fields) + " |"
