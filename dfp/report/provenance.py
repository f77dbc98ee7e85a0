"""Where the results come from: ``provenance.csv``, a row per finished run, and ``provenance.md``, what they share.

Everything is read from the manifests that the runs wrote themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from dfp.files import pipe_row, pipe_table, write_atomically
from dfp.plan.run_table import read_runs
from dfp.report.manifests import finished_manifests
from dfp.report.verdict.protocol import scale
from dfp.runs.layout import METRICS
from dfp.spec import ConfigError, canonical_json

COLUMNS = (
    "run", "stage", "task", "method", "seed", "digest", "git_commit", "device", "versions", "data", "data_sha256",
    "attempts", "hours", "finished", "scale",
)  # fmt: skip


def write_provenance(results_dir: Path, partial: bool = False) -> list[Path]:
    """Write ``provenance.csv`` and ``provenance.md`` below ``results_dir`` and return their paths.

    Raises :class:`~dfp.spec.ConfigError` if a listed run has not finished (without ``partial``), or as
    :func:`~dfp.report.manifests.finished_manifests` does.
    """
    runs = read_runs(results_dir)
    frame = provenance(results_dir, runs)
    absent = [folder for folder in folders(runs) if folder not in set(frame.run)]
    if absent and not partial:
        raise ConfigError(f"{results_dir / absent[0] / METRICS}: no such file")
    contents = {"csv": frame.to_csv(index=False), "md": provenance_page(frame, len(absent))}
    return [write_atomically(results_dir / f"provenance.{kind}", content) for kind, content in contents.items()]


def folders(runs: pd.DataFrame) -> list[str]:
    """Every run folder of the run table, the pretrainings before the runs that start from them."""
    return list(dict.fromkeys([*runs.pretrained, *runs.run]))


def provenance(results_dir: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """One row per finished run, in the columns of :data:`COLUMNS`; ``hours`` are those of all its attempts."""
    known = finished_manifests(results_dir, runs)
    return pd.DataFrame([_row(folder, manifest) for folder, manifest in known.items()], columns=pd.Index(COLUMNS))


def _row(folder: str, manifest: dict[str, Any]) -> dict[str, Any]:
    spec = manifest["spec"]
    codes = [*manifest.get("earlier", []), manifest]  # of all attempts
    return {
        "run": folder,
        "stage": spec["stage"],
        "task": spec["task"]["key"],
        "method": folder.split("/")[2],
        "seed": spec["seed"],
        "digest": manifest["digest"],
        "git_commit": _in_turn(code["git_commit"] or "unknown" for code in codes),
        "device": _in_turn(code["device"] for code in codes),
        "versions": canonical_json(manifest["versions"]),
        "data": canonical_json({key: value for key, value in spec["data"].items() if value is not None}),
        "data_sha256": manifest.get("data_sha256") or "",  # runs of earlier versions did not record it
        "attempts": manifest["attempts"],
        "hours": round(manifest["spent_s"] / 3600, 4),
        "finished": manifest["finished"],
        "scale": scale(spec, online=spec["stage"] == "finetune") or "paper",
    }


THEN = ", then "


def _in_turn(values: Iterable[str]) -> str:
    """``a, then b`` of a run that was continued elsewhere."""
    return THEN.join(dict.fromkeys(values))


def short(commits: str) -> str:
    """The commits of a run, each cut to twelve characters, with ``-dirty`` if the checkout was changed."""
    parts = (commit.partition("-dirty") for commit in commits.split(THEN))
    return THEN.join(commit[:12] + dirty for commit, dirty, _ in parts)


# --------------------------------------------------------------------------- for reading


def provenance_page(frame: pd.DataFrame, absent: int) -> str:
    """What the runs share and where they differ, then a line per run."""
    lines = ["# Provenance", "", "From the `manifest.json` that every run wrote when it finished.", ""]
    unfinished = f"; {absent} more listed and not finished" if absent else ""
    lines += [f"{len(frame)} finished runs{unfinished}."]
    if frame.empty:
        return "\n".join(lines) + "\n"
    found = {title: frame[column].value_counts().to_dict() for column, title in SHARED.items()}
    found |= dict(sorted(_versions(frame).items()))
    shared = [(what, value, count) for what, counts in found.items() for value, count in counts.items()]
    lines += ["", *_warnings(frame), *pipe_table(["What", "Value", "Runs"], shared, text=2)]
    lines += ["", "## Runs", "", "| Run | Spec digest | Device | Attempts | Hours | Finished |"]
    lines += ["| :-- | :-- | :-- | --: | --: | :-- |"]
    for row in frame.to_dict("records"):
        digest = row["digest"][:12]
        cells = (row["run"], f"`{digest}`", row["device"], row["attempts"], f"{row['hours']:.2f}", row["finished"])
        lines.append(pipe_row(cells))
    lines += [
        "",
        "A spec is every number that a run depends on; `dfp run show results/...` prints that of a run.",
    ]
    return "\n".join(lines) + "\n"


SHARED = {
    "stage": "Stage", "seed": "Seed", "device": "Device", "git_commit": "Code, git commit", "data": "Data",
    "scale": "Scale",
}  # fmt: skip


def _versions(frame: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Per package, each version and how many runs had it."""
    table = pd.DataFrame([json.loads(text) for text in frame.versions]).fillna("not recorded")
    return {str(package): table[package].value_counts().to_dict() for package in table}


def differing_data(frame: pd.DataFrame) -> dict[str, int]:
    """By task, how many different files of the same ``data`` section its runs were trained on, if more than one.

    Runs of earlier versions did not record the SHA-256 of their file and are not counted.
    """
    known = frame.loc[frame.data_sha256 != ""]
    counts = known.groupby(["task", "data"]).data_sha256.nunique().groupby("task").max()
    return {str(task): int(count) for task, count in counts.items() if count > 1}


def _warnings(frame: pd.DataFrame) -> list[str]:
    """What a reader must know before trusting a comparison between these runs."""
    lines = []
    if dirty := sum("-dirty" in commit for commit in frame.git_commit):
        lines.append(f"- **{dirty} runs had uncommitted changes** (`-dirty`): their commit does not say what ran.")
    for column, what in {"git_commit": "versions of the code", "device": "kinds of device"}.items():
        kinds = {kind for values in frame[column] for kind in values.split(THEN)}
        if len(kinds) > 1:
            lines.append(f"- **{len(kinds)} {what}** among the runs.")
    for task, count in differing_data(frame).items():
        lines.append(f"- **{count} different files of the same data** among the runs of {task}.")
    mixed = sorted(package for package, found in _versions(frame).items() if len(found) > 1)
    if mixed:
        lines.append(f"- **Several versions** of {', '.join(mixed)}.")
    if other := sum(scale != "paper" for scale in frame.scale):
        lines.append(f"- **{other} runs are not at the paper's scale**: not a reproduction.")
    return [*lines, ""] if lines else []
