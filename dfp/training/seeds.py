"""Several seeds of one offline run in one program: one loop of updates, one copy of the dataset, one set of simulators.

Only the updates are made together. Each seed has its own session, in a coroutine, so its folder, lease, checkpoints and
errors are those of a single run. If one seed fails, or another job asks for it, the others continue. If the seeds start
from different steps, those furthest behind train first.
"""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import jax

from dfp.agents.base.actor_critic import AgentState
from dfp.errors import CRASHED, DONE, exit_code, one_line
from dfp.runs.console import lines_of
from dfp.spec import RunSpec
from dfp.training.offline import OfflineLoop, Shards, next_block
from dfp.training.replay import Buffer
from dfp.training.rollout import Evaluator
from dfp.training.session import Options, Session
from dfp.training.updates import Diagnostics, offline_updates, offline_updates_of_seeds


class Updated(NamedTuple):
    """The result of a block of updates, for one seed."""

    result: tuple[AgentState, Diagnostics]
    count: int  #: updates
    save: bool  #: whether to save a checkpoint, which all seeds do at the same step


Training = Generator[OfflineLoop, Updated, None]


def pretrain_seeds(runs: list[tuple[RunSpec, Path]], options: Options) -> list[int]:
    """:func:`~dfp.training.stages.pretrain` of several runs, with their folders, that differ only in the seed.

    Returns the exit code of each run. Prints the error of a run as the command of a single run does.
    """
    spec, episodes = runs[0][0], runs[0][0].evaluation.episodes
    with Shards(spec, options.data_dir) as shards, Evaluator(spec.task, episodes, options.workers) as evaluator:
        seeds = [Seed(folder, training(run, folder, options, shards, evaluator)) for run, folder in runs]
        try:
            for seed in seeds:
                seed.advance()
            block = 1
            while any(seed.loop for seed in seeds):
                block = update_together([seed for seed in seeds if seed.loop], shards, block)
        except BaseException as error:
            for seed in seeds:
                with contextlib.suppress(BaseException):
                    seed.training.throw(error)
            raise
    return [seed.code for seed in seeds]


def training(spec: RunSpec, folder: Path, options: Options, shards: Shards, evaluator: Evaluator) -> Training:
    """One run without its updates: yields its loop when it needs a block of them, and is sent the result."""
    with Session(spec, folder, options, spec.training.offline_steps) as session:
        session.evaluator = evaluator
        if not session.begin():
            return
        session.confirm_data(shards.sha256)
        loop = OfflineLoop(session, shards)
        while loop.step < session.total:
            updated = yield loop
            loop.take(updated.result, updated.count)
            loop.evaluate_if_due()
            if updated.save:
                session.save(loop.step, loop.state)
        session.finish(loop.state)


class Seed:
    """One of the runs, between two blocks of updates."""

    def __init__(self, folder: Path, training: Training) -> None:
        self.folder, self.training = folder, training
        self.loop: OfflineLoop | None = None  # none if the run has ended
        self.code = DONE

    def advance(self, updated: Updated | None = None) -> None:
        """Run until the seed needs updates or has ended."""
        self.loop = None
        with lines_of(self.folder):
            try:
                self.loop = self.training.send(updated)  # pyright: ignore[reportArgumentType] none starts it
            except StopIteration:
                pass
            except Exception as error:
                self.code = _report(error)


def update_together(seeds: list[Seed], shards: Shards, block: int) -> int:
    """At most ``block`` updates of the seeds furthest behind. Returns the length of the next block."""
    started = time.monotonic()
    loops = {seed: seed.loop for seed in seeds if seed.loop}
    step = min(loop.step for loop in loops.values())
    level = {seed: loop for seed, loop in loops.items() if loop.step == step}
    to_others = [loop.step - step for loop in loops.values() if loop.step > step]
    count = min(block, *(loop.updates_to_next_stop() for loop in level.values()), *to_others)
    results = jax.block_until_ready(updates(list(level.values()), shards.buffer(step), count))
    elapsed = time.monotonic() - started
    save = any(loop.session.checkpoint_is_due() for loop in level.values())
    for (seed, loop), result in zip(level.items(), results, strict=True):
        loop.session.folder.companions |= {other.spec.seed for other in level.values()} - {loop.spec.seed}
        seed.advance(Updated(result, count, save))
    return next_block(block, count, elapsed)


def updates(loops: list[OfflineLoop], rows: Buffer, count: int) -> list[tuple[AgentState, Diagnostics]]:
    """``count`` updates of seeds at the same step. A single seed uses the program of a single run."""
    agent, step = loops[0].agent, loops[0].step
    if len(loops) == 1:
        return [offline_updates(agent, loops[0].state, loops[0].diagnostics, rows, loops[0].key, step, count)]
    states = [(loop.state, loop.diagnostics) for loop in loops]
    return offline_updates_of_seeds(agent, states, rows, [loop.key for loop in loops], step, count)


def _report(error: Exception) -> int:
    """Print an error as the command of a single run does. Returns its exit code."""
    code = exit_code(error)
    if code is None:
        traceback.print_exception(error)
        return CRASHED
    print(f"dfp: {one_line(error)}", file=sys.stderr, flush=True)
    return code
