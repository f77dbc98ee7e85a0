"""Table 10: hours of the devices that the runs took, by table and figure, and what shared pretraining saved."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd

from dfp.plan.run_table import read_runs
from dfp.report.manifests import entry, read_manifests
from dfp.report.paper import paper_table
from dfp.report.tables.grid import NOTHING
from dfp.report.tables.sheet import Block, Sheet, unmarked

PAPER_DEVICE = "NVIDIA RTX 3090"
SUMS = {"total": "Total", "unshared": "Total, one pretraining per run", "saved": "Saved by shared pretraining"}
CAPTION = (
    "GPU-hours. Wall-clock hours of every pretraining and run, restarts and lost work included, from the runs' "
    "manifests; runs that shared a device count in full each. A run that two experiments need counts in both, and once "
    "in the total; the column beside leaves out what a row above needs too, so that it adds up. Table 7: the paper ran "
    "DFP alone, and took its other rows from the FQL paper."
)
UNFINISHED = "n: how many of the runs have finished; only these count."
COLUMNS = ["experiment", "title", "runs", "runs_finished", "hours", "hours_added", "paper_gpu_hours"]


def table10(results_dir: Path, partial: bool) -> tuple[pd.DataFrame, Sheet]:
    """Table 10: hours by table and figure, from the manifests of all runs, lost and repeated work included.

    The CSV has one row per experiment of the run table, then ``total``, ``unshared`` (a pretraining for every run) and
    ``saved``: :data:`COLUMNS`. ``hours`` are those of all the pretrainings and runs that it needs; ``hours_added``
    leaves out what an experiment above it needs too, so that they add up to the total.
    """
    runs = read_runs(results_dir)
    manifests = read_manifests(results_dir, runs, partial)
    hours = pd.Series(
        {
            folder: entry(manifest, "spent_s", (int, float), results_dir / folder) / 3600
            for folder, manifest in manifests.items()
        },
        dtype="float64",
    )
    numbers = by_experiment(runs, hours)
    devices = Counter(entry(manifest, "device", str, results_dir / folder) for folder, manifest in manifests.items())
    return numbers, _sheet(numbers, devices)


def by_experiment(runs: pd.DataFrame, hours: pd.Series) -> pd.DataFrame:
    """The rows that :func:`table10` describes, from the run table and the hours of the finished folders."""
    paper = paper_table(10).set_index("experiment").gpu_hours
    rows, seen = [], set()
    for experiment, own in runs.groupby("experiment", sort=False):
        needed = set(own.run) | set(own.pretrained)
        rows.append((experiment, own.title.iloc[0], *_counted(needed, hours), _sum(needed - seen, hours)))
        seen |= needed
    rows.append(("total", "", *_counted(seen, hours), _sum(seen, hours)))
    saved = saved_hours(runs, hours)
    for name, value in (("unshared", rows[-1][-1] + saved), ("saved", saved)):
        rows.append((name, "", *_counted(seen, hours)[:2], value, float("nan")))
    frame = pd.DataFrame(rows, columns=pd.Index(COLUMNS[:-1]))
    return frame.assign(paper_gpu_hours=frame.experiment.map(paper))


def saved_hours(runs: pd.DataFrame, hours: pd.Series) -> float:
    """Hours of pretraining that would come on top if each finished run had made its own: all but one per checkpoint."""
    finished = runs.run.isin(hours.index) & runs.pretrained.isin(hours.index)
    online = runs.loc[finished & (runs.run != runs.pretrained)].drop_duplicates("run")
    starts = online.pretrained.value_counts()
    return float(sum((count - 1) * hours[folder] for folder, count in starts.items()))


def _counted(folders: set[str], hours: pd.Series) -> tuple[int, int, float]:
    """The number of runs, of finished runs, and their hours."""
    return len(folders), len(folders & set(hours.index)), _sum(folders, hours)


def _sum(folders: set[str], hours: pd.Series) -> float:
    return float(hours[hours.index.isin(list(folders))].sum())


def _sheet(numbers: pd.DataFrame, devices: Counter[str]) -> Sheet:
    decimals = 1 if numbers.hours.max() >= 10 else 4
    heads, text = [], []
    for row in numbers.to_dict("records"):
        heads.append([SUMS.get(row["experiment"]) or _title(row["experiment"]), row["title"]])
        own, added = (
            NOTHING if row["runs_finished"] == 0 or pd.isna(row[name]) else f"{row[name]:,.{decimals}f}"
            for name in ("hours", "hours_added")
        )
        count, finished = f"{row['runs']:,}", f"{row['runs_finished']:,}"
        paper = NOTHING if pd.isna(row["paper_gpu_hours"]) else f"{row['paper_gpu_hours']:,.0f}"
        text.append([count if count == finished else f"n={finished}/{count}", own, added, paper])
    used = (
        ", ".join(f"{device} ({count:,} run{'s' if count > 1 else ''})" for device, count in devices.most_common())
        or "nothing yet"
    )
    complete = (numbers.runs == numbers.runs_finished).all()
    columns = ["Runs", "Hours", "Not needed above", f"Reported in the paper, {PAPER_DEVICE}"]
    return Sheet(
        number=10,
        caption=CAPTION + ("" if complete else f" {UNFINISHED}"),
        head=["Experiment", "Content"],
        columns=[("", column) for column in columns],
        blocks=[Block(f"Measured here, on {used}", heads, [unmarked(pd.DataFrame(text))])],
    )


def _title(experiment: str) -> str:
    """`Table 2` of `table2`; an experiment without a number as it is."""
    name = experiment.rstrip("0123456789")
    return f"{name.capitalize()} {experiment.removeprefix(name)}".strip()
