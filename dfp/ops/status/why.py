"""What became of one run: its attempts, what SLURM says of its jobs, the last lines of its logs, and what to type."""

from __future__ import annotations

import datetime
import itertools
import os
import re
import shlex
import time
from pathlib import Path
from typing import NamedTuple

from dfp.errors import BAD_INPUT, CRASHED, MEANING, STOPPED
from dfp.ops.status.runs import STAGE_OF, Planned, RunState, duration, job_log, read_state, tail
from dfp.runs import slurm
from dfp.runs.attempts import Attempt, read_attempts
from dfp.runs.layout import RUN, TEXT_LOG, VALUE_LOG, read_object
from dfp.spec import ConfigError

LOG_LINES = 15


class Place(NamedTuple):
    """The place of a run folder: ``<results>/<kind>/<task>/<method>/seed<k>``."""

    results_dir: Path
    folder: str  #: relative to the results


def place_of(folder: Path) -> Place:
    """Raises :class:`ConfigError` if the path is not that of a run folder."""
    parts = Path(os.path.abspath(folder)).parts
    if len(parts) < 5 or parts[-4] not in STAGE_OF or not re.fullmatch(r"seed\d+", parts[-1]):
        raise ConfigError(
            f"{folder}: not a run folder, <results>/<kind>/<task>/<method>/seed<k>; kinds: {', '.join(STAGE_OF)}"
        )
    return Place(Path(os.path.abspath(folder)).parents[3], "/".join(parts[-4:]))


def why(folder: Path, query: slurm.Ask = slurm.ask) -> str:
    """The page that the command prints. Raises :class:`ConfigError` if there is no trace of such a run."""
    place = place_of(folder)
    log = job_log(place.results_dir, place.folder)
    if not folder.is_dir() and not log.exists():
        raise ConfigError(f"{folder}: no such folder, and no {log}: nothing was started here")
    attempts = read_attempts(folder)
    steps, command = read_start(folder)
    kind, task, method, seed = place.folder.split("/")
    planned = Planned(place.folder, STAGE_OF[kind], task, (method,), int(seed.removeprefix("seed")), steps, (), None)
    run = read_state(place.results_dir, planned, time.time())
    jobs = slurm.jobs(list(dict.fromkeys(one.job for one in attempts if one.job)), query)
    sections = [
        [f"{folder}: {run.state}" + (f", step {run.step:,} of {steps:,}" if steps else ""), *filter(None, [run.note])],
        ["Attempts", *map(attempt_line, attempts)] if attempts else [],
        ["SLURM", *(" ".join(job.values()) for job in jobs)] if jobs else [],
        _values_section(folder, run),
        *(_log_section(path) for path in (folder / TEXT_LOG, log)),
        ["Next", *advice(folder, run, attempts, jobs, command or "snakemake --profile slurm all", log)],
    ]
    blocks = ["\n".join([head, *(f"  {line}" for line in rest)]) for head, *rest in filter(None, sections)]
    return "\n\n".join(blocks)


def read_start(folder: Path) -> tuple[int, str | None]:
    """Steps of the stage, and the command of the latest attempt; 0 and none if no run began.

    Unlike :func:`dfp.runs.folder.read_run`, this does not check the spec: a check would load the agent and JAX.
    """
    content = read_object(folder / RUN)
    try:
        spec, command = content["spec"], content["command"]
        steps = spec["online"]["steps"] if spec["online"] else spec["training"]["offline_steps"]
        return int(steps), shlex.join(command)
    except (KeyError, TypeError, ValueError):
        return 0, None


def attempt_line(one: Attempt) -> str:
    """Number, start, length, place, steps, and how it ended with what the exit code means."""
    started = datetime.datetime.fromtimestamp(one.started, datetime.UTC)
    job = f", job {one.job}" if one.job else ""
    text = f"{one.number}. {started:%Y-%m-%d %H:%M:%SZ}  {one.host} process {one.pid}{job}; from step {one.from_step:,}"
    if one.ended is None or one.code is None:
        return f"{text}; no end yet"
    text += f" to {one.step:,} in {duration(one.ended - one.started)}; exit code {one.code}: {one.reason}"
    text = text if one.reason == "finished" else f"{text} ({MEANING[one.code]})"
    return text if one.peak_mb is None else f"{text}; {one.peak_mb / 1e3:.1f} GB of memory at most"


def advice(
    folder: Path, run: RunState, attempts: list[Attempt], jobs: list[dict[str, str]], command: str, log: Path
) -> list[str]:  # fmt: skip
    """What to type next, by the state of the run, its last exit code and the states of its jobs in SLURM."""
    last = attempts[-1] if attempts else None
    code, reason = (last.code, last.reason or "") if last else (BAD_INPUT, "")  # refused before the run began
    again = f"the same command goes on from the last checkpoint: {command}"
    # A run that is done has got past what ended its earlier jobs.
    states = {job["State"].split()[0] for job in jobs if job["State"] and run.state != "done"}
    lines = []
    if "OUT_OF_MEMORY" in states:
        lines.append("SLURM killed it for memory: raise mem_mb of its rule, under set-resources in your profile")
    if "TIMEOUT" in states:
        lines.append("SLURM's time limit came before the run's own deadline: raise runtime of its rule in your profile")
    if (count := fruitless(attempts)) > 1:
        lines.append(f"{count} attempts in a row got no further than step {run.step:,}: the next one may not either")
    match run.state:
        case "done":
            lines.append(f"nothing; its settings: dfp run show {shlex.quote(str(folder))}")
        case "running":
            lines.append(f"nothing; to watch it: tail -f {folder / TEXT_LOG}")
        case "waiting":
            lines.append(again if last else f"start the workflow, or by hand: {command}")
        case "stalled":
            lines += ["its process is gone; the next attempt takes over the lease", again]
        case "failed" if code == BAD_INPUT:
            lines += ["put right what the message above names; to look at everything: dfp ops doctor", again]
        case "failed" if code == STOPPED and ("no GPU" in reason or "JAX_PLATFORMS" in reason):
            lines += ["dfp ops doctor --gpu, on a node of that partition", again]
        case "failed" if code == STOPPED and "not the data" in reason:
            lines += ["put right what the message above names", again]
        case "failed" if code == STOPPED:
            lines.append("on a CPU it would fail again at the same step: change its configuration")
            lines.append(f"on a GPU, whose sums differ, it may pass; {again}")
        case "failed" if code == CRASHED:
            lines += [f"read the traceback in {log}, or SLURM's own log of the job", again]
        case _:
            lines.append(again)
    return lines


def fruitless(attempts: list[Attempt]) -> int:
    """How many of the latest attempts ended at or below the step that they began with."""
    ended = [one for one in attempts if one.step is not None]
    return len(list(itertools.takewhile(lambda one: (one.step or 0) <= one.from_step, reversed(ended))))


def _values_section(folder: Path, run: RunState) -> list[str]:
    if run.values:
        return [f"{folder / VALUE_LOG}, last values", *(f"{name} {value:.4g}" for name, value in run.values.items())]
    if run.step and not (folder / VALUE_LOG).exists():
        return [f"{folder / VALUE_LOG}: missing, an earlier version began the run; its losses are in {TEXT_LOG} alone"]
    return []


def _log_section(path: Path) -> list[str]:
    lines = tail(path, LOG_LINES)
    return [f"{path}, last lines", *lines] if lines else []
