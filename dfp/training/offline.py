"""The offline phase: gradient steps on a fixed dataset, many in one dispatch."""

from __future__ import annotations

import time
from pathlib import Path

import jax

from dfp.agents.base.actor_critic import AgentState
from dfp.spec import RunSpec
from dfp.tasks import Dataset
from dfp.tasks.shards import ShardReader
from dfp.training.replay import Buffer, make_buffer
from dfp.training.session import Session
from dfp.training.updates import Diagnostics, offline_updates, stream

DISPATCH_S = 1.0  # seconds that a block of updates should take


class OfflineLoop:
    """The offline phase in blocks of updates. Checkpoints are taken between blocks."""

    def __init__(self, session: Session, shards: Shards) -> None:
        self.session, self.spec, self.shards = session, session.spec, shards
        self.agent = session.agent
        self.key = stream(self.spec.seed, "data")
        self.step = 0  # gradient steps made
        self.state = self._initial_state()
        self.diagnostics = session.diagnostics(self.state)
        self._block = 1

    def _initial_state(self) -> AgentState:
        if (found := self.session.restore()) is None:
            return jax.jit(self.agent.init)(stream(self.spec.seed, "init"))
        self.step = found[1]["step"]
        return jax.device_put(found[0])

    def block(self) -> None:
        """A block of updates, at most up to the next evaluation, log row or file; then what is due."""
        started = time.monotonic()
        count = min(self._block, self.updates_to_next_stop())
        rows = self.shards.buffer(self.step)
        self.take(offline_updates(self.agent, self.state, self.diagnostics, rows, self.key, self.step, count), count)
        self._block = next_block(self._block, count, time.monotonic() - started)
        self.evaluate_if_due()
        if self.session.checkpoint_is_due():
            self.session.save(self.step, self.state)

    def updates_to_next_stop(self) -> int:
        """Updates to the next evaluation, log row, change of file or the end."""
        every = (self.spec.evaluation.interval, self.session.interval)
        stops = [self.spec.training.offline_steps - self.step, *(until_next(self.step, interval) for interval in every)]
        return min(self.shards.until_next(self.step), *stops)

    def take(self, result: tuple[AgentState, Diagnostics], count: int) -> None:
        """Accept the result of ``count`` updates, if it is finite."""
        (self.state, self.diagnostics), self.step = result, self.step + count
        self.diagnostics = self.session.check(self.state, self.diagnostics, self.step)

    def evaluate_if_due(self) -> None:
        """Evaluate after every interval and after the last update."""
        interval, steps = self.spec.evaluation.interval, self.spec.training.offline_steps
        if self.step % interval == 0 or self.step == steps:
            self.session.evaluate(self.state, self.step)


def next_block(block: int, count: int, seconds: float) -> int:
    """Updates of the next block, which should take :data:`DISPATCH_S`, given that ``count`` took ``seconds``.

    At most twice ``block``, because the time of the first block is mostly the compiler's.
    """
    return max(1, min(2 * block, int(count * DISPATCH_S / seconds)))


class Shards:
    """The dataset's files as buffers, one at a time, in the order of their names. The first follows the last.

    The release counts updates from 1 and changes the file before updates 1000, 2000, ..., the last update included. So
    does this class, and of 100 files the first is loaded at the switch.
    """

    def __init__(self, spec: RunSpec, data_dir: Path) -> None:
        self._reader = ShardReader(spec.task, spec.data, data_dir)
        self._interval = spec.task.shard_interval
        self._last_update = spec.training.offline_steps - 1
        self._loaded: tuple[int, Buffer] | None = None

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    @property
    def sha256(self) -> str:
        """:attr:`dfp.tasks.manifest.Manifest.sha256` of the dataset."""
        return self._reader.sha256

    def buffer(self, step: int) -> Buffer:
        """The rows from which update ``step`` draws, on the device. The next file is read in the background."""
        shard = self._shard(step)
        if self._loaded is None or self._loaded[0] != shard:
            self._loaded = None  # free the old rows before the new ones are read
            dataset = self._reader.read(shard)
            self._loaded = (shard, make_buffer(dataset, len(dataset.rewards)))
            del dataset
            if self._reader.count > 1:
                self._reader.prefetch(self._shard(step + self.until_next(step)))
        return self._loaded[1]

    def until_next(self, step: int) -> int:
        """Updates from ``step`` on that draw from the same file."""
        return until_next(step + 1, self._interval)

    def at_switch(self) -> Dataset:
        """The rows of the last offline update. Only these enter the online buffer."""
        return self._reader.read(self._shard(self._last_update))

    def _shard(self, step: int) -> int:
        return (step + 1) // self._interval % self._reader.count


def until_next(step: int, every: int) -> int:
    """Steps from ``step`` to the next multiple of ``every``."""
    return every - step % every
