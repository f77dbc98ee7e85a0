"""The state of every run in ``runs.csv``, read from its folder.

A run counts as running while its lease has a heartbeat. Steps are those of the run's own stage: gradient steps of a
pretraining or an offline run, environment steps of a fine-tuning.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from dfp.plan.experiments import KINDS
from dfp.plan.run_table import read_runs
from dfp.runs.attempts import Attempt, Progress, last_sign_of_life, read_attempts, read_progress, spent_s
from dfp.runs.finished import resized
from dfp.runs.layout import FINAL_STATE, LEASE, MANIFEST, METRICS, read_object
from dfp.runs.lease import STALE_S
from dfp.runs.value_log import latest_values

State = Literal["running", "stalled", "failed", "waiting", "done"]
STATES: tuple[State, ...] = get_args(State)
STAGE_OF = {kind: stage for stage, kind in KINDS.items()}  # by the first part of a run's folder
QUIET_S = 1800.0  # a running run gets a note after so long without a step; an evaluation takes minutes
TAIL_BYTES = 4096


class Planned(NamedTuple):
    """A run of ``runs.csv``: one folder, however many cells need it."""

    folder: str  #: relative to the results
    stage: str  #: pretrain, finetune or offline
    task: str
    methods: tuple[str, ...]  #: that need it: one, or of a pretraining one or more
    seed: int
    total: int  #: steps
    experiments: tuple[str, ...]
    after: str | None  #: folder of the pretraining that a fine-tuning starts from


class RunState(NamedTuple):
    """A run and how far it is."""

    planned: Planned
    state: State
    step: int
    rate: float | None  #: steps per second of this attempt, evaluations included
    eta_s: float | None  #: seconds to its end
    host: str | None  #: of the latest attempt
    job: str | None  #: SLURM's id, likewise
    attempts: int
    spent_s: float  #: of all attempts
    device: str | None  #: known when it is done
    note: str  #: why it failed, what it waits for
    values: dict[str, float]  #: the last of each that training has measured


def planned_runs(results_dir: Path) -> list[Planned]:
    """The runs of ``runs.csv``, each once: pretrainings before what starts from them.

    Raises :class:`dfp.spec.ConfigError` if the table is missing or malformed.
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
    if (folder / METRICS).exists():
        return _finished(planned, folder, last)
    progress = read_progress(folder)
    mine = progress if progress is not None and last is not None and progress.attempts == last.number else None
    heartbeat = _modified(folder / LEASE)
    step = max(0 if mine is None else mine.step, (last.step or last.from_step) if last else 0)
    state = state_of(last, heartbeat, now)
    values = latest_values(folder) if last else {}
    rate = _rate(last, mine) if state == "running" else None
    note = _note(state, last, mine, heartbeat, now)
    if progress is not None and progress.total != planned.total:
        note = (
            f"was started for {progress.total:,} steps, runs.csv has {planned.total:,}: the configuration was changed; "
            "stop the job, and the next one trains by the configuration"
        )
    if state == "waiting" and last is None and (error := job_error(job_log(results_dir, planned.folder))):
        state, note = "failed", error
    # The last attempt of a stalled run has no end. It counts until its last sign of life.
    until = last_sign_of_life(folder) if state == "stalled" else now
    return RunState(
        planned=planned,
        state=state,
        step=step,
        rate=rate,
        eta_s=(planned.total - step) / rate if rate and step <= planned.total else None,
        host=last.host if last else None,
        job=last.job if last else None,
        attempts=len(attempts),
        spent_s=spent_s(attempts, until),
        device=None,
        note=note,
        values={name: row.value for name, row in values.items()},
    )


def state_of(last: Attempt | None, heartbeat: float | None, now: float) -> State:
    """The state of an unfinished run.

    Args:
      last: the latest attempt, if there was one.
      heartbeat: the last one of the lease, seconds since 1970; none if nobody holds the lease.
    """
    if heartbeat is not None:
        return "running" if now - heartbeat < STALE_S else "stalled"
    if last is None or last.reason in ("unfinished", "finished"):  # a finished run whose results were removed
        return "waiting"
    # Without a lease and without an end: the disk was full, or somebody removed the lease.
    return "failed" if last.failed else "stalled"


def job_log(results_dir: Path, folder: str) -> Path:
    """The log of the Snakemake job that makes a run; it also has what went wrong before the run began."""
    kind, rest = folder.split("/", 1)
    return results_dir / "logs" / STAGE_OF[kind] / f"{rest}.log"


def job_error(log: Path) -> str | None:
    """The error line of a command, if the log ends with one."""
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


def _finished(planned: Planned, folder: Path, last: Attempt | None) -> RunState:
    """A run that ended with its metrics. Another result that is missing counts as damaged."""
    manifest = read_object(folder / MANIFEST)
    attempts, spent, device = manifest.get("attempts"), manifest.get("spent_s"), manifest.get("device")
    damaged = ""
    if not (isinstance(attempts, int) and isinstance(spent, int | float) and isinstance(device, str)):
        attempts, spent, device, damaged = last.number if last else 0, 0.0, None, MANIFEST
    elif not (folder / FINAL_STATE).is_file():
        damaged = FINAL_STATE
    elif (path := resized(folder)) is not None:
        damaged = path.name
    note = f"{damaged} is missing or damaged; the run's command puts it back, or else trains again" if damaged else ""
    return RunState(
        planned=planned,
        state="failed" if damaged else "done",
        step=planned.total,
        rate=None,
        eta_s=None,
        host=last.host if last else None,
        job=last.job if last else None,
        attempts=attempts,
        spent_s=spent,
        device=device,
        note=note,
        values={},
    )


def _note(
    state: State, last: Attempt | None, progress: Progress | None, heartbeat: float | None, now: float
) -> str:  # fmt: skip
    if state == "failed":
        assert last is not None
        assert last.reason is not None
        return last.reason.removeprefix("failed: ")
    if state == "stalled":
        if heartbeat is None:
            return "the latest attempt did not record its end"
        return f"no heartbeat for {duration(now - heartbeat)}: killed, or its node is gone"
    if state == "waiting" and last is not None:
        if last.reason == "finished":
            return f"finished, but {METRICS} was removed; the run's command puts it back, or else trains again"
        return "stopped at its deadline, for another job or for a full disk; continues when it is started again"
    if state == "running" and last is not None:
        quiet = now - (last.started if progress is None else progress.updated.timestamp())
        if quiet > QUIET_S:
            return f"no step for {duration(quiet)}"
    return ""


def _rate(last: Attempt | None, progress: Progress | None) -> float | None:
    """Steps per second of an attempt, from its start to its latest progress."""
    if last is None or progress is None:
        return None
    steps, seconds = progress.step - last.from_step, progress.updated.timestamp() - last.started
    return steps / seconds if steps > 0 and seconds > 0 else None


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
