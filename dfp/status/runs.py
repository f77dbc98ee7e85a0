"""The state of every run in ``runs.csv``, read from its folder.

A run counts as running while its lease has a heartbeat. Steps are those of the run's own stage: gradient steps of a
pretraining or an offline run, environment steps of a fine-tuning.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from dfp.attempts import Attempt, last_sign_of_life, read_attempts, read_progress, seconds_since_1970, spent_s
from dfp.lease import LEASE, STALE_S
from dfp.report.collect import read_runs

State = Literal["running", "stalled", "failed", "waiting", "done"]
STATES: tuple[State, ...] = get_args(State)
QUIET_S = 1800.0  # a running run without a step for so long is worth a note: evaluations take minutes, not half hours
TAIL_BYTES = 4096


class Planned(NamedTuple):
    """A run of ``runs.csv``: one folder, however many cells need it."""

    folder: str  # relative to the results
    stage: str  # pretrain | finetune | offline
    task: str
    methods: tuple[str, ...]  # that need it; one, but for a pretraining
    seed: int
    total: int  # steps
    experiments: tuple[str, ...]
    after: str | None  # folder of the pretraining that a fine-tuning starts from


class RunState(NamedTuple):
    """A run and how far it is."""

    planned: Planned
    state: State
    step: int
    rate: float | None  # steps per second of this attempt, evaluations included
    eta_s: float | None  # seconds to its end
    host: str | None  # of the latest attempt
    job: str | None  # SLURM's id, likewise
    attempts: int
    spent_s: float  # of all attempts
    device: str | None  # known when it is done
    note: str  # why it failed, what it waits for


def planned_runs(results_dir: Path) -> list[Planned]:
    """The runs of ``runs.csv``, each once: pretrainings before what starts from them.

    Raises :class:`dfp.spec.ConfigError` where the table is missing or malformed.
    """
    rows = read_runs(results_dir).to_dict("records")
    found: dict[str, Planned] = {}
    for row in rows:
        tuned = row["stage"] == "finetune"
        if tuned:
            _add(found, row, row["pretrained"], "pretrain", row["offline_steps"], None)
        steps = row["online_steps"] if tuned else row["offline_steps"]
        _add(found, row, row["run"], row["stage"], steps, row["pretrained"] if tuned else None)
    return list(found.values())


def _add(
    found: dict[str, Planned], row: dict[Any, Any], folder: str, stage: str, total: int, after: str | None
) -> None:
    run = found.get(folder) or Planned(folder, stage, row["task"], (), row["seed"], total, (), after)
    found[folder] = run._replace(
        methods=_with(run.methods, row["method"]), experiments=_with(run.experiments, row["experiment"])
    )


def _with(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return names if name in names else (*names, name)


def run_states(results_dir: Path) -> list[RunState]:
    """The state of every run, in the order of :func:`planned_runs`."""
    now, states, done = time.time(), [], set()
    for planned in planned_runs(results_dir):
        state = read_state(results_dir, planned, now)
        if state.state == "done":
            done.add(planned.folder)
        elif state.state == "waiting" and planned.after is not None and planned.after not in done:
            state = state._replace(note=f"starts after {planned.after}")
        states.append(state)
    return states


def read_state(results_dir: Path, planned: Planned, now: float) -> RunState:
    """The state of one run at time ``now`` (seconds since 1970)."""
    folder = results_dir / planned.folder
    attempts = read_attempts(folder)
    last = attempts[-1] if attempts else None
    if (folder / "metrics.csv").exists():
        return _finished(planned, folder / "manifest.json", last)
    progress = read_progress(folder)
    heartbeat = _modified(folder / LEASE)
    step = progress.get("step", 0) if last and progress.get("attempts") == last.number else 0
    step = max(step, (last.step or last.from_step) if last else 0)
    state = judge(last, heartbeat, now)
    rate = _rate(last, progress) if state == "running" else None
    note = _note(state, last, progress, heartbeat, now)
    if state == "waiting" and last is None and (error := job_error(job_log(results_dir, planned.folder))):
        state, note = "failed", error
    # A stalled run's last attempt has no end: what it spent, as far as is known, ends with its last sign of life.
    until = last_sign_of_life(folder) if state == "stalled" else now
    return RunState(
        planned=planned,
        state=state,
        step=step,
        rate=rate,
        eta_s=(planned.total - step) / rate if rate else None,
        host=last.host if last else None,
        job=last.job if last else None,
        attempts=len(attempts),
        spent_s=spent_s(attempts, until),
        device=None,
        note=note,
    )


def judge(last: Attempt | None, heartbeat: float | None, now: float) -> State:
    """The state of an unfinished run.

    Args:
      last: the latest attempt, if there was one.
      heartbeat: of the lease, seconds since 1970; none where nobody holds it.
    """
    if heartbeat is not None:
        return "running" if now - heartbeat < STALE_S else "stalled"
    if last is None or last.reason == "unfinished":
        return "waiting"
    # Without a lease and without an end: the disk was full, or somebody removed the lease.
    return "failed" if last.failed else "stalled"


def job_log(results_dir: Path, folder: str) -> Path:
    """The log of the Snakemake job that makes a run; it also has what went wrong before the run began."""
    kind, rest = folder.split("/", 1)
    rule = {"runs": "finetune", "pretrained": "pretrain"}.get(kind, kind)
    return results_dir / "logs" / rule / f"{rest}.log"


def job_error(log: Path) -> str | None:
    """The line with which a command refused its input, where that is how the log ends."""
    lines = tail(log, 1)
    return lines[0].removeprefix("dfp: ") if lines and lines[0].startswith("dfp: ") else None


def tail(path: Path, count: int) -> list[str]:
    """The last ``count`` lines of a text that are not empty; none of a file that is missing."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES * max(1, count // 10)))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def counts(states: Iterable[RunState]) -> dict[State, int]:
    """How many runs are in which state."""
    found: dict[State, int] = dict.fromkeys(STATES, 0)
    for run in states:
        found[run.state] += 1
    return found


def _finished(planned: Planned, path: Path, last: Attempt | None) -> RunState:
    """A run that ended with its metrics. The manifest came before them, so without one the folder is damaged."""
    try:
        manifest = json.loads(path.read_text())
        attempts, spent, device = manifest["attempts"], manifest["spent_s"], manifest["device"]
        state, note = "done", ""
    except (OSError, ValueError, KeyError) as error:
        attempts, spent, device = last.number if last else 0, 0.0, None
        state, note = "failed", f"{path.name} beside metrics.csv: {type(error).__name__}: {error}"
    return RunState(
        planned=planned,
        state=state,
        step=planned.total,
        rate=None,
        eta_s=None,
        host=last.host if last else None,
        job=last.job if last else None,
        attempts=attempts,
        spent_s=spent,
        device=device,
        note=note,
    )


def _note(
    state: State, last: Attempt | None, progress: dict[str, Any], heartbeat: float | None, now: float
) -> str:  # fmt: skip
    if state == "failed":
        assert last is not None
        assert last.reason is not None
        return last.reason.removeprefix("failed: ")
    if state == "stalled":
        if heartbeat is None:
            return "the latest attempt left no word of its end"
        return f"no heartbeat for {duration(now - heartbeat)}: killed, or its node is gone"
    if state == "waiting" and last is not None:
        return "met its deadline; continues when it is started again"
    if state == "running" and last is not None:
        quiet = now - (_updated(progress) if progress.get("attempts") == last.number else last.started)
        if quiet > QUIET_S:
            return f"no step for {duration(quiet)}"
    return ""


def _rate(last: Attempt | None, progress: dict[str, Any]) -> float | None:
    """Steps per second of an attempt, from its start to its latest progress."""
    if last is None or progress.get("attempts") != last.number:
        return None
    steps, seconds = progress["step"] - last.from_step, _updated(progress) - last.started
    return steps / seconds if steps > 0 and seconds > 0 else None


def _updated(progress: dict[str, Any]) -> float:
    return seconds_since_1970(progress["updated"])


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def duration(seconds: float) -> str:
    """Two units at most: ``45 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
