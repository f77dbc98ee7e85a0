"""What the stages share: one attempt at a run, with its folder, checkpoints, evaluations, log and clock."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dfp.agents.actor_critic import ActorCritic, AgentState
from dfp.checkpoint import Rotation, save
from dfp.console import Console
from dfp.files import is_disk_full
from dfp.flops import gemm_rate
from dfp.lease import Lease
from dfp.record import identity, keep, recall
from dfp.rollout import Evaluator, episode_seed
from dfp.run_folder import RunFolder
from dfp.spec import RunSpec, agent_module
from dfp.updates import Diagnostics, act, no_diagnostics, parameters_are_finite, stream

FINAL_STATE = "agent.npz"
ONLINE_ROWS = "online_rows.bin"
MAX_CPU_HOURS = 12.0
FULL_DISK_S = 60.0  # until a write that found no space is tried again
CPU_RATIO = 1.6  # time of an update over its matrix products alone on a CPU, from `python -m dfp bench`


class TrainingError(Exception):
    """Training cannot start or go on: one line with the reason."""


class Unfinished(Exception):
    """The deadline came first. Everything is saved; the same command continues."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What may differ between two attempts at one run without changing its result."""

    data_dir: Path
    checkpoint_s: float = 600.0  # seconds between checkpoints
    deadline: float | None = None  # wall-clock time (seconds since 1970) to be finished or saved by
    workers: int | None = None  # evaluation processes; none: one per core
    allow_cpu: bool = False  # train on a CPU however long it takes


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


class Session:
    """One attempt at a run. Between two looks of :meth:`check` the host knows nothing of the updates."""

    def __init__(self, spec: RunSpec, path: Path, options: Options, total: int, start: Path | None = None) -> None:
        """``total``: steps of the stage, gradient steps or environment steps. ``start``: folder of the pretraining."""
        self.spec, self.options, self.total, self.start = spec, options, total, start
        self.agent = build_agent(spec)
        self.folder = RunFolder(path, spec)
        self.checkpoints = Rotation(path, spec.digest())
        self.console = Console(path / "train.log", spec.stage, total)
        self.log = self.console.line
        self._lease = Lease(path)
        self._restored: tuple[AgentState, dict[str, Any]] | None = None
        self._step = 0  # the last one seen
        self._stack = contextlib.ExitStack()
        self._saved = time.monotonic()

    def __enter__(self) -> Session:
        self._stack.enter_context(self._lease)
        self._stack.enter_context(self.console)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # On a full disk the error itself says more; the next attempt then closes this one, as if it had been killed.
        with contextlib.suppress(OSError):
            self.folder.attempts.end(error, self._step)
        self._stack.close()

    def begin(self) -> bool:
        """False where the run is finished already; else everything is ready for the first update."""
        if self.folder.finished() or recall(self.folder.path, self.spec, identity(self.start)):
            self.log(f"{self.folder.path}: already finished")
            return False
        self._restored = self._newest_checkpoint()
        self._step = 0 if self._restored is None else self._restored[1]["step"]
        self.folder.attempts.start(self._step)
        if self._restored is not None:
            self.folder.restore(self._restored[1]["folder"])
            self.log(f"continues from step {self._step} (attempt {self.folder.attempts.number})")
        refuse_slow_cpu(self.spec, self.options)
        self.folder.start(["python", "-m", "dfp", *sys.argv[1:]])
        cache_compilations()
        _ = self.evaluator
        return True

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """The evaluation workers; they load the simulator while the first updates compile."""
        evaluator = Evaluator(self.spec.task, self.spec.evaluation.episodes, self.options.workers)
        return self._stack.enter_context(evaluator)

    # -- restarts

    def _newest_checkpoint(self) -> tuple[AgentState, dict[str, Any]] | None:
        # The key is made inside, so that no device is needed yet: where there is none, that is this attempt's failure.
        template = jax.eval_shape(lambda: self.agent.init(jax.random.key(0)))
        found, refused = self.checkpoints.load(template)
        for line in refused:
            self.log(f"checkpoint refused: {line}")
        return found

    def restore(self) -> tuple[AgentState, dict[str, Any]] | None:
        """State and progress of the newest usable checkpoint of this very spec, if there is one; handed out once."""
        found, self._restored = self._restored, None
        return found

    def late(self) -> bool:
        """Whether the deadline has come, or another job asks for the run."""
        return self._lease.asked or (self.options.deadline is not None and time.time() >= self.options.deadline)

    def checkpoint_is_due(self) -> bool:
        """By the clock, and at the deadline."""
        return self.late() or time.monotonic() - self._saved >= self.options.checkpoint_s

    def save(self, step: int, state: AgentState, progress: Callable[[], dict[str, int]] = dict) -> None:
        """A checkpoint of a state that was checked, and of further progress; at the deadline it ends the attempt.

        A full disk ends nothing: the checkpoint before is kept, and the next one is tried soon.
        """
        self._lease.confirm()
        self._saved = time.monotonic()
        self._step = step
        try:
            self.checkpoints.save(state, {"step": step, "folder": self.folder.progress(), **progress()})
            self.log(f"checkpoint at step {step}")
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._saved -= max(self.options.checkpoint_s - FULL_DISK_S, 0.0)
            self.log(f"checkpoint at step {step} not written: {error}; the one before is kept, training goes on")
        if self.late():
            reason = "another job asks for the run" if self._lease.asked else "deadline reached"
            raise Unfinished(f"{self.folder.path}: {reason} at step {step} of {self.total}; run it again")

    # -- a look at the updates

    def check(self, state: AgentState, diagnostics: Diagnostics, step: int) -> Diagnostics:
        """Report what was logged, and stop at a term or parameter that is not finite; returns empty diagnostics."""
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
        means = {name: float(total) / updates for name, total in logged.total.items()} if updates else {}
        rate = self.console.progress(step, means)
        if rate is not None:
            self._write_progress(step, rate)
        return no_diagnostics(self.agent, state)

    def evaluate(self, state: AgentState, phase: str, step: int, env_steps: int) -> None:
        """One evaluation, a row of the metrics. It shares no random stream with training."""
        seed, episodes = self.spec.seed, self.spec.evaluation.episodes
        key = jax.random.fold_in(stream(seed, "evaluation"), step)

        def policy(observation: np.ndarray, episode: np.ndarray, chunk: np.ndarray) -> np.ndarray:
            return np.asarray(act(self.agent, state, observation, episode, chunk, key))

        started = time.monotonic()
        result = self.evaluator.evaluate(policy, [episode_seed(seed, "evaluation", step, e) for e in range(episodes)])
        self.folder.add_row(phase, step, result, env_steps)
        self.log(
            f"{phase} step {step}: success {result.success_rate:.1%} of {result.episodes} episodes, "
            f"return {result.return_mean:.1f}, length {result.length_mean:.0f} ({time.monotonic() - started:.1f} s)"
        )

    # -- the end

    def finish(self, state: AgentState) -> None:
        """Keep the final state under its name, declare the run finished, drop the checkpoints.

        Waits for space where the disk is full: the end of a run of days is in memory alone.
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
                    raise Unfinished(f"{self.folder.path}: {error}; make room and run it again") from None
                self.log(f"results not written: {error}; waiting for room")
                time.sleep(min(FULL_DISK_S, self.options.checkpoint_s))
        self._write_progress(self.total, 0.0)
        self.checkpoints.remove()
        (self.folder.path / ONLINE_ROWS).unlink(missing_ok=True)
        self.log(f"finished after {self.folder.wall_s:.0f} s")

    def _declare(self, state: AgentState) -> None:
        self._lease.confirm()
        save(self.folder.path / FINAL_STATE, state, self.spec.digest(), {"step": self.total})
        device = jax.devices()[0]
        self.folder.finish(f"{device.platform}: {device.device_kind}")
        keep(self.folder.path, identity(self.start))

    def _write_progress(self, step: int, rate: float) -> None:
        try:
            self.folder.write_progress(step, self.total, rate)
        except OSError as error:
            if not is_disk_full(error):
                raise


def cache_compilations() -> None:
    """Keep compiled programs, so that a restart, or the next seed, does not compile again.

    On the node's own disk: the programs belong to its processor, and no other user may write them.
    """
    folder = Path(tempfile.gettempdir()) / f"dfp-compiled-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid == os.getuid() and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def refuse_slow_cpu(spec: RunSpec, options: Options) -> None:
    """Stop before the first update where a CPU would need days; a broken GPU driver shows itself here too."""
    try:
        backend = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # JAX_PLATFORMS names what is broken, or not installed
        reason = str(error).partition("\n")[0] or "JAX has no such platform here"
        raise TrainingError(f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')}: {reason}") from None
    if backend != "cpu" or options.allow_cpu:
        return
    steps = spec.training.offline_steps if spec.online is None else spec.online.steps
    hours = steps * build_agent(spec).update_work() / gemm_rate() * CPU_RATIO / 3600.0
    if hours > MAX_CPU_HOURS:
        raise TrainingError(
            f"no GPU: JAX runs on the CPU here, where this {spec.stage} run would take about {hours:,.0f} hours "
            f"(more than {MAX_CPU_HOURS:.0f}); --allow-cpu starts it all the same"
        )
