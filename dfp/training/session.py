"""One attempt at a run, for every stage: folder, checkpoints, evaluations, log and clock."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dfp.agents.base.actor_critic import ActorCritic, AgentState
from dfp.errors import STOPPED, UNFINISHED, DfpError, is_disk_full, one_line
from dfp.runs import numerics
from dfp.runs.checkpoint import Rotation, save
from dfp.runs.console import Console, log
from dfp.runs.finished import OTHER_START, identity, keep, problem, recall
from dfp.runs.folder import RunFolder
from dfp.runs.layout import (
    FINAL_STATE,
    MANIFEST,
    METRICS,
    ONLINE_ROWS,
    TEXT_LOG,
    VALUE_LOG,
    read_object,
    require_files,
)
from dfp.runs.lease import Lease
from dfp.runs.online_rows import OnlineRows
from dfp.runs.value_log import EVALUATED, ValueLog, interval, require_names
from dfp.spec import RunSpec, agent_module
from dfp.tasks import manifest_path
from dfp.training.flops import gemm_rate, update_flop
from dfp.training.rollout import Evaluator, SimulatorError, episode_seed
from dfp.training.updates import Diagnostics, act, no_diagnostics, parameters_are_finite, stream

MAX_CPU_HOURS = 12.0
FULL_DISK_S = 60.0  # seconds until a write that found no space is tried again
SLOW_CPU = 2e9  # FLOP/s of a slow core; a run that is short even at this rate needs no measurement
CPU_RATIO = 1.6  # time of an update on a CPU over that of its matrix products, from `dfp ops bench`


class TrainingError(DfpError):
    """Training cannot start or go on: one line with the reason."""

    exit_code = STOPPED


class Unfinished(DfpError):
    """The deadline came first. Everything is saved; the same command continues."""

    exit_code = UNFINISHED


@dataclasses.dataclass(frozen=True)
class Options:
    """What may differ between two attempts at one run without changing its result."""

    data_dir: Path
    checkpoint_s: float = 600.0  #: seconds between checkpoints
    deadline: float | None = None  #: value of time.monotonic(), in seconds, by which to save; none: no limit
    workers: int | None = None  #: evaluation processes; none: one per core that this process may use
    allow_cpu: bool = False  #: train on a CPU however long it takes


def build_agent(spec: RunSpec) -> ActorCritic:
    """The agent that the spec describes."""
    module = agent_module(spec.agent.name)
    return module.Agent(
        network=spec.network,
        training=spec.training,
        observation_size=spec.task.observation_size,
        action_size=spec.task.action_size,
        config=spec.agent,
    )


def device_name() -> str:
    """Platform and kind of the device that trains: ``gpu: NVIDIA H100``."""
    device = jax.devices()[0]
    return f"{device.platform}: {device.device_kind}"


class Session:
    """One attempt at a run. The host reads values from the device only in :meth:`check`."""

    def __init__(self, spec: RunSpec, path: Path, options: Options, total: int, start: Path | None = None) -> None:
        """``total``: steps of the stage, gradient steps or environment steps. ``start``: folder of the pretraining."""
        require_files(path)
        self.spec, self.options, self.total, self.start = spec, options, total, start
        self.agent = build_agent(spec)
        self.interval = interval(total)  # steps between two rows of the value log
        self.values = ValueLog(path)
        self.rows = None if spec.online is None else OnlineRows(path / ONLINE_ROWS, spec.task)
        self._sums: dict[str, Any] = {}  # of the losses' terms since the last row, at the last check
        self.folder = RunFolder(path, spec)
        self.checkpoints = Rotation(path, spec.digest())
        self.console = Console(path / TEXT_LOG, f"{spec.stage} {Path(*path.parts[-3:])}", total)
        self._lease = Lease(path)
        self._origin: str | None = None  # what the run starts from: `identity` of the pretraining
        self._restored: tuple[AgentState, dict[str, Any]] | None = None
        self._step = 0  # the last one seen
        self._stack = contextlib.ExitStack()
        self._saved = time.monotonic()

    def __enter__(self) -> Session:
        self._stack.enter_context(self.console)
        self._stack.enter_context(self._lease)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # A full disk must not hide the error. The next attempt then records the end of this one, as of a killed one.
        with contextlib.suppress(OSError):
            self.folder.attempts.end(error, self._step)
        self._stack.close()

    def begin(self) -> bool:
        """Prepare for the first update. Returns False if the run is finished already."""
        numerics.require(os.environ)
        self._origin = identity(self.start)
        missing = problem(self.folder.path, self.spec.digest(), self._origin)
        if missing is None or recall(self.folder.path, self.spec, self._origin):
            log.info("%s: already finished", self.folder.path)
            return False
        if (self.folder.path / METRICS).exists():
            log.warning("the run was finished, but is made again: %s", missing)
        self._restored = self._newest_checkpoint()
        self._step = 0 if self._restored is None else self._restored[1]["step"]
        self.folder.attempts.start(self._step)
        if damaged := self.values.start(self._before + self._step):
            log.warning("%s: %d damaged lines left out", VALUE_LOG, damaged)
        if self._restored is not None:
            self.folder.restore(self._restored[1]["folder"])
            self._origin = self._restored[1].get("start") or self._origin
            self._sums = self._restored[1].get("sums", {})  # a checkpoint of an earlier version has none
            log.info("continues from step %d (attempt %d)", self._step, self.folder.attempts.number)
        refuse_slow_cpu(self.spec, self.options)
        self.folder.start(["python", "-m", "dfp", *sys.argv[1:]], device_name())
        cache_compilations()
        return True

    def confirm_data(self, sha256: str) -> None:
        """Record the data of this attempt.

        Raises:
          TrainingError: an earlier attempt or the pretraining used other data, for instance from another machine.
        """
        earlier = {self.folder.path: self.folder.data_sha256}
        if self.start is not None:
            earlier[self.start] = read_object(self.start / MANIFEST).get("data_sha256")
        for folder, recorded in earlier.items():
            if recorded is not None and recorded != sha256:
                raise TrainingError(
                    f"{manifest_path(self.spec.task, self.spec.data, self.options.data_dir)}: not the data that "
                    f"{folder} was trained on (sha256 {sha256[:12]}..., there {recorded[:12]}...); put that data back, "
                    f"or delete {folder} and train it again"
                )
        self.folder.data_sha256 = sha256

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """The evaluation workers, made at the first use."""
        evaluator = Evaluator(self.spec.task, self.spec.evaluation.episodes, self.options.workers)
        return self._stack.enter_context(evaluator)

    def load_simulators(self) -> None:
        """Start the evaluation workers, which load the simulator while training goes on.

        Call it after the first updates. Earlier, the workers would compete with compilation for the cores.
        """
        _ = self.evaluator

    @property
    def phase(self) -> str:
        """``offline`` or ``online``."""
        return "offline" if self.spec.online is None else "online"

    @property
    def _before(self) -> int:
        """Steps of the phase before this one."""
        return 0 if self.spec.online is None else self.spec.training.offline_steps

    # -- restarts

    def _newest_checkpoint(self) -> tuple[AgentState, dict[str, Any]] | None:
        found, refused = self.checkpoints.load(self.agent.state_shape(), self._checkpoint_problem)
        for line in refused:
            log.warning("checkpoint refused: %s", line)
        return found

    def _checkpoint_problem(self, progress: dict[str, Any]) -> str | None:
        if None not in (self._origin, progress.get("start")) and progress["start"] != self._origin:
            return OTHER_START
        return None if self.rows is None else self.rows.problem(progress["records"], progress.get("checksum"))

    def restore(self) -> tuple[AgentState, dict[str, Any]] | None:
        """State and progress of the newest usable checkpoint of this spec, or None. A second call returns None."""
        found, self._restored = self._restored, None
        return found

    def late(self) -> bool:
        """Whether the deadline has come, or another job asks for the run."""
        return self._lease.asked or (self.options.deadline is not None and time.monotonic() >= self.options.deadline)

    def checkpoint_is_due(self) -> bool:
        """Whether a checkpoint is due, by the clock or at the deadline."""
        return self.late() or time.monotonic() - self._saved >= self.options.checkpoint_s

    def save(self, step: int, state: AgentState, progress: Callable[[], dict[str, int]] = dict) -> None:
        """Save a checked state and further progress. If the disk is full, keep the previous checkpoint and go on.

        Raises:
          Unfinished: the deadline has come, or another job asks for the run.
        """
        self._lease.confirm()
        self._saved = time.monotonic()
        self._step = step
        try:
            kept = {"step": step, "start": self._origin, "folder": self.folder.progress(), "sums": self._sums}
            kept |= progress()
            self.checkpoints.save(state, kept)
            log.info("checkpoint at step %d", step)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._saved -= max(self.options.checkpoint_s - FULL_DISK_S, 0.0)
            log.warning("checkpoint at step %d not written: %s; the one before is kept", step, one_line(error))
        if self.late():
            reason = "another job asks for the run" if self._lease.asked else "deadline reached"
            raise Unfinished(f"{self.folder.path}: {reason} at step {step} of {self.total}; run it again")

    # -- a look at the updates

    def diagnostics(self, state: AgentState) -> Diagnostics:
        """The diagnostics before the first update of this attempt: the sums in its checkpoint, or empty ones."""
        empty = no_diagnostics(self.agent, state)
        require_names(empty.total, f"agent '{self.spec.agent.name}'")
        total = self._sums.get("total", {})
        if total.keys() != empty.total.keys():
            return empty
        count = jnp.int32(self._sums["count"])
        return empty._replace(count=count, total={name: jnp.float32(total[name]) for name in empty.total})

    def check(self, state: AgentState, diagnostics: Diagnostics, step: int) -> Diagnostics:
        """Log what was summed so far. At the end of an interval, write the means and return empty diagnostics.

        Raises:
          TrainingError: a term or parameter is not finite.
        """
        self._step = step
        logged, finite = jax.device_get((diagnostics, parameters_are_finite(state)))
        bad = {name: int(at) for name, at in logged.first_bad.items() if at >= 0}
        if not bad and not finite:
            bad = {"parameters": step}
        if bad:
            name = min(bad, key=lambda term: bad[term])
            raise TrainingError(
                f"{self.folder.path}: {name} is not finite at step {bad[name]}; the last checkpoint is kept; "
                f"spec {self.spec.canonical()}"
            )
        updates = int(logged.count)  # none during the warm-up
        totals = {name: float(total) for name, total in logged.total.items()}
        means = {name: total / updates for name, total in totals.items()} if updates else {}
        rate = self.console.progress(step, means)
        if rate is not None:
            self._write_progress(step, rate)
        if step % self.interval and step != self.total:
            self._sums = {"count": updates, "total": totals}
            return diagnostics
        if means:
            self.values.add(self._before + step, self.phase, means)
        self._sums = {}
        return no_diagnostics(self.agent, state)

    @contextlib.contextmanager
    def simulating(self, what: str) -> Iterator[None]:
        """Add the run, its seed and ``what`` it was doing to an error of the simulator."""
        try:
            yield
        except SimulatorError as error:
            raise type(error)(f"{self.folder.path}: {error}; seed {self.spec.seed}, {what}") from None

    def evaluate(self, state: AgentState, stage_step: int) -> None:
        """One evaluation and its row of the metrics. It shares no random stream with training."""
        seed, episodes, step = self.spec.seed, self.spec.evaluation.episodes, self._before + stage_step
        key = jax.random.fold_in(stream(seed, "evaluation"), step)

        def policy(observation: np.ndarray, episode: np.ndarray, chunk: np.ndarray) -> np.ndarray:
            return np.asarray(act(self.agent, state, observation, episode, chunk, key))

        started = time.monotonic()
        seeds = [episode_seed(seed, "evaluation", step, episode) for episode in range(episodes)]
        with self.simulating(f"evaluation at step {step}"):
            result = self.evaluator.evaluate(policy, seeds)
        self.folder.add_row(self.phase, step, result, 0 if self.spec.online is None else stage_step)
        self.values.add(step, self.phase, {name: getattr(result, name) for name in EVALUATED})
        log.info(
            f"{self.phase} step {step}: success {result.success_rate:.1%} of {result.episodes} episodes, "
            f"return {result.return_mean:.1f}, length {result.length_mean:.0f} ({time.monotonic() - started:.1f} s)"
        )

    # -- the end

    def finish(self, state: AgentState) -> None:
        """Save the final state, declare the run finished, delete the checkpoints.

        If the disk is full this waits for space, because the results of days may be in memory alone.

        Raises:
          Unfinished: the deadline came first.
        """
        self._step = self.total
        while True:
            try:
                self._declare(state)
                break
            except OSError as error:
                if not is_disk_full(error):
                    raise
                if self.late():
                    raise Unfinished(one_line(error)) from None
                log.warning("results not written: %s; waiting for room", one_line(error))
                time.sleep(min(FULL_DISK_S, self.options.checkpoint_s))
        self._write_progress(self.total, 0.0)
        self.checkpoints.remove()
        (self.folder.path / ONLINE_ROWS).unlink(missing_ok=True)
        log.info("finished after %.0f s", self.folder.wall_s)

    def _declare(self, state: AgentState) -> None:
        self._lease.confirm()
        save(self.folder.path / FINAL_STATE, state, self.spec.digest(), {"step": self.total})
        self.folder.finish()
        keep(self.folder.path, self._origin)

    def _write_progress(self, step: int, rate: float) -> None:
        try:
            self.folder.write_progress(step, self.total, rate)
        except OSError as error:
            if not is_disk_full(error):
                raise


def cache_compilations() -> None:
    """Keep compiled programs, so that a restart or the next seed does not compile again.

    They are on the node's own disk, because they fit its processor only. No other user may write there.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    try:
        folder = Path(tempfile.gettempdir()) / f"dfp-compiled-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid() or not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    except OSError as error:
        log.warning("compiled programs are not kept, each start compiles again: %s", one_line(error))
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def refuse_slow_cpu(spec: RunSpec, options: Options) -> None:
    """Stop before the first update if a CPU would need more than :data:`MAX_CPU_HOURS`, or JAX finds no device."""
    try:
        backend = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # JAX_PLATFORMS names a broken or missing platform
        reason = str(error).partition("\n")[0] or "JAX has no such platform here"
        raise TrainingError(f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')}: {reason}") from None
    if backend != "cpu" or options.allow_cpu:
        return
    steps = spec.training.offline_steps if spec.online is None else spec.online.steps
    work = steps * update_flop(build_agent(spec)) * CPU_RATIO / 3600.0
    if work / SLOW_CPU > MAX_CPU_HOURS and (hours := work / gemm_rate()) > MAX_CPU_HOURS:
        raise TrainingError(
            f"no GPU: JAX runs on the CPU here, and this {spec.stage} run would take about {hours:,.0f} hours "
            f"(more than {MAX_CPU_HOURS:.0f}); --allow-cpu starts it anyway"
        )
