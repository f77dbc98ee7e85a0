"""``summary.md``: what came out and what was run, short enough to paste into an issue or a mail."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dfp.files import pipe_table, write_atomically
from dfp.report.pages import render
from dfp.report.provenance import folders, provenance, short
from dfp.report.verdict.found import headline
from dfp.report.verdict.page import counts
from dfp.report.verdict.verdict import verdict

PLAIN = {"finetune": "offline-to-online", "pretrain": "pretraining", "offline": "offline RL"}


def write_summary(results_dir: Path, partial: bool = False) -> Path:
    """Write ``summary.md`` below ``results_dir`` and return its path. Raises as the verdict does."""
    judged = verdict(results_dir, partial)
    known, best = provenance(results_dir, judged.runs), headline(judged.rates, judged.runs)
    small = known.loc[known.scale != "paper", "scale"]
    seeds = known.groupby(["stage", "task", "method"]).size()
    total = counts(judged.cells).loc["all"]
    text = render(
        "summary.md",
        found=best.sentence if best else "",
        here={task: rows.to_dict("records") for task, rows in judged.here.items()},
        known=len(known),
        listed=len(folders(judged.runs)),
        small=len(small),
        scales=list(dict.fromkeys(setting for scale in small for setting in scale.split(", "))),
        stages=", ".join(f"{count} {PLAIN[str(stage)]}" for stage, count in known.stage.value_counts().items()),
        tasks=known.task.nunique(),
        seeds=" to ".join(map(str, dict.fromkeys((seeds.min(), seeds.max())))),
        devices=_counted(known.device),
        commits=_counted(known.git_commit.map(short)),
        hours=known.hours.sum(),
        attempts=known.attempts.sum(),
        phase=best.phase if best else "",
        grid=pipe_table(
            ["Method", *best.tasks, "Avg."], [[label, *best.cells(method)] for method, label in best.labels.items()]
        )
        if best
        else [],
        total=total.sum(),
        cells=", ".join(f"{count} {name}" for name, count in total.items()),
        claims=judged.claims.to_dict("records"),
        outcomes=_counted(judged.claims.verdict),
    )
    return write_atomically(results_dir / "summary.md", text)


def _counted(values: pd.Series) -> str:
    """Each value with how often it is there, the most frequent first."""
    return ", ".join(f"{value} ({count})" for value, count in values.value_counts().items())
