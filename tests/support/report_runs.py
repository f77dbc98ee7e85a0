"""What the tests of tables and figures share: results folders with known contents."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dfp.report.tables.success import write_table
from dfp.runs.layout import METRIC_TYPES
from dfp.runs.same_spec import digest_of

OFFLINE, ONLINE = 4, 6
TASKS = {
    "lift": ("Robomimic", "lift"),
    "cube-double-task2": ("Cube-double", "task2"),
    "cube-double-task3": ("Cube-double", "task3"),
    "cube-single-task2": ("Cube-single", "task2"),
    "cube-quadruple-task2": ("Cube-quadruple-100m", "task2"),
}
METHODS = {
    "mvp": ("MVP", "MeanFlow", "", "#0072B2"),
    "mvp-topk": ("MVP w/ top-K", "MeanFlow", "✓", "#56B4E9"),
    "dfp": ("DFP (Ours)", "Drifting", "✓", "#D55E00"),
    "bc": ("BC", "Gaussian", "", "#000000"),
}
EXPERIMENTS = {"table2": "Ablation on the top-K loss", "figure1": "Success rate over steps"}

SPENT = {"spent_s": 3600.0, "device": "cpu: cpu"}

Finals = Mapping[tuple[str, str], Sequence[float | None]]


def metrics(phase: str, rates: Mapping[int, float]) -> pd.DataFrame:
    """Rows of a ``metrics.csv`` with the given success rate per step."""
    rows = [(phase, step, rate, 100, -40.5, 80.25, 1.5 * step, max(0, step - OFFLINE)) for step, rate in rates.items()]
    return pd.DataFrame(rows, columns=pd.Index(METRIC_TYPES))


def save(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)


def make_results(
    folder: Path, finals: Finals, experiments: Mapping[str, str] | None = None, stage: str = "finetune"
) -> Path:
    """A results folder with one run per (task, method) and rate; None is a run that has not started.

    Offline evaluations at 2 and 4 give 0.1 and 0.2; online ones at 6 and 8 give 1.0, above the last one at 10. A run
    of stage ``offline`` has 1.0 at 2 and its rate at 4.
    """
    rows = []
    for (task, method), rates in finals.items():
        label, backbone, top_k, color = METHODS.get(method, METHODS["dfp"])
        for seed, rate in enumerate(rates):
            run = f"{'runs' if stage == 'finetune' else stage}/{task}/{method}/seed{seed}"
            pretrained = f"pretrained/{task}/{backbone}/seed{seed}" if stage == "finetune" else run
            rows.append(
                {
                    "stage": stage,
                    "task": task,
                    "group": TASKS[task][0],
                    "column": TASKS[task][1],
                    "task_title": f"{task} title",
                    "method": method,
                    "label": label,
                    "backbone": backbone,
                    "top_k": top_k,
                    "color": color,
                    "seed": seed,
                    "run": run,
                    "pretrained": pretrained,
                    "offline_steps": OFFLINE,
                    "online_steps": ONLINE if stage == "finetune" else 0,
                    "digest": digest_of(minimal_spec(stage, task, method, seed)),
                    "pretrained_digest": digest_of(minimal_spec("pretrain", task, backbone, seed)),
                }
            )
            if stage != "finetune":
                rows[-1]["pretrained_digest"] = rows[-1]["digest"]
            if rate is None:
                continue
            for place, spec in (
                (pretrained, minimal_spec("pretrain", task, backbone, seed)),
                (run, minimal_spec(stage, task, method, seed)),
            ):
                write_json(folder / place / "manifest.json", {"digest": digest_of(spec), "spec": spec, **SPENT})
            if stage == "finetune":
                save(metrics("offline", {2: 0.1, 4: 0.2}), folder / pretrained / "metrics.csv")
                save(metrics("online", {6: 1.0, 8: 1.0, 10: rate}), folder / run / "metrics.csv")
            else:
                save(metrics("offline", {2: 1.0, 4: rate}), folder / run / "metrics.csv")
    table = pd.DataFrame(rows)
    both = [table.assign(experiment=key, title=title) for key, title in (experiments or EXPERIMENTS).items()]
    save(pd.concat(both), folder / "runs.csv")
    return folder


def minimal_spec(stage: str, task: str, method: str, seed: int) -> dict[str, Any]:
    """What tells one run of :func:`make_results` from another."""
    agent = {"name": method}
    return {"stage": stage, "task": {"key": task, "suite": "ogbench"}, "agent": agent, "seed": seed}


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_manifest(folder: Path, **content: Any) -> None:
    """A manifest with this content; its spec, or else the one that is there, is what the run table asks for."""
    path, results = folder / "manifest.json", folder.parents[3]
    spec = content["spec"] if "spec" in content else json.loads(path.read_text())["spec"]
    write_json(path, {"digest": digest_of(spec), "spec": spec} | content)
    runs, name = pd.read_csv(results / "runs.csv", keep_default_na=False), folder.relative_to(results).as_posix()
    runs.loc[runs.run == name, "digest"] = digest_of(spec)
    runs.loc[runs.pretrained == name, "pretrained_digest"] = digest_of(spec)
    save(runs, results / "runs.csv")


def one_run(folder: Path) -> tuple[Path, Path]:
    """A results folder with a single finished run, and the run's ``metrics.csv``."""
    results = make_results(folder, {("lift", "dfp"): [0.5]})
    return results, results / "runs/lift/dfp/seed0/metrics.csv"


def paper_like(folder: Path) -> Path:
    """Three methods on three tasks, five seeds: a tie for the best, a tie for the second, no variance."""
    return make_results(
        folder,
        {
            ("lift", "mvp"): [0.9, 0.9, 0.9, 0.9, 0.9],
            ("cube-double-task2", "mvp"): [0.2, 0.4, 0.6, 0.8, 1.0],
            ("cube-double-task3", "mvp"): [0.0, 0.0, 0.0, 0.0, 0.0],
            ("lift", "mvp-topk"): [1.0, 1.0, 1.0, 1.0, 0.99],
            ("cube-double-task2", "mvp-topk"): [0.6, 0.6, 0.6, 0.6, 0.6],
            ("cube-double-task3", "mvp-topk"): [0.3, 0.3, 0.3, 0.3, 0.3],
            ("lift", "dfp"): [0.99, 1.0, 1.0, 1.0, 1.0],
            ("cube-double-task2", "dfp"): [0.7, 0.7, 0.7, 0.7, 0.7],
            ("cube-double-task3", "dfp"): [0.2, 0.2, 0.2, 0.2, 0.2],
        },
    )


def table(results: Path, number: int = 2, partial: bool = False) -> tuple[pd.DataFrame, str, str]:
    """The numbers, the Markdown and the LaTeX of a table."""
    numbers, markdown, tex, _ = write_table(number, results, partial)
    return pd.read_csv(numbers), markdown.read_text(), tex.read_text()


def rows_of(markdown: str, block: int, heads: int = 1) -> dict[str, list[str]]:
    """Cells by the first ``heads`` columns, joined by a space, in the ``block``-th Markdown table."""
    lines = markdown.split("\n\n| ")[block + 1].split("\n\n")[0].splitlines()[2:]
    rows = [[field.strip() for field in line.strip().removeprefix("|").removesuffix("|").split("|")] for line in lines]
    return {" ".join(row[:heads]).strip(): row[heads:] for row in rows}
