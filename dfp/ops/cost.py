"""What an online step and an inference step cost on this machine (Table 9), all methods in one process.

An online step is one environment step of the real loop: its share of choosing a chunk, the simulator, one update. An
inference step chooses one chunk for one state and copies it to the host. Neither time depends on what was learnt, so
the policies are untrained and the rows are noise.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dfp.ops.bench import bench_act, bench_update, case, never_evaluated, random_rows, untrained
from dfp.report.tables.cost import COST_TYPES
from dfp.spec import RunSpec, TaskSpec
from dfp.tasks import Step
from dfp.training.online import OnlineLoop
from dfp.training.rollout import RemoteEnvironment
from dfp.training.session import Options, Session

WARM_STEPS = 20  # environment steps before the clock starts: the first ones compile and load


def cost_rows(spec: RunSpec, method: str, label: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Rows of :data:`COST_TYPES`: milliseconds per offline update, online step and inference step on a task.

    Args:
      spec: a fine-tuning.
      method: the key of the method.
      label: the name of the method in the table.
      seconds: how long the online loop is timed (> 0).
    """
    cases = {
        "offline": bench_update(spec, "offline"),
        "online": case(spec, "step", "online", online_step_ms(spec, seconds), None),
        "evaluation": bench_act(spec),
    }
    for phase, measured in cases.items():
        row = {**measured, "method": method, "label": label, "phase": phase, "task": spec.task.key}
        yield {name: row[name] for name in COST_TYPES}


def online_step_ms(spec: RunSpec, seconds: float) -> float:
    """Milliseconds per environment step of the online loop, past its warm-up, without evaluations."""
    assert spec.online is not None
    forever = 1 << 30
    run = never_evaluated(spec, forever)
    with (
        tempfile.TemporaryDirectory() as folder,
        Session(run, Path(folder) / "run", Options(Path(folder)), forever) as session,
        Metered(run.task, seconds) as environment,
    ):
        loop = OnlineLoop(session, environment, untrained(run, Path(folder) / "pretrained"), random_rows(run))
        try:
            while True:
                loop.episode()
        except Enough:
            return environment.ms_per_step


class Enough(Exception):
    """The clock has run out."""


class Metered(RemoteEnvironment):
    """An environment that is played for a number of seconds after its first :data:`WARM_STEPS`.

    The clock is read where a chunk begins. By then the updates of all steps before it are done, because they decide it.
    """

    def __init__(self, task: TaskSpec, seconds: float) -> None:
        super().__init__(task)
        self._seconds = seconds
        self._started: float | None = None
        self._elapsed = 0.0
        self._steps = self._before = 0

    @property
    def ms_per_step(self) -> float:
        """Milliseconds per environment step while the clock ran."""
        return 1e3 * self._elapsed / (self._steps - self._before)

    def play(self, actions: np.ndarray) -> Iterator[Step]:
        """See :meth:`RemoteEnvironment.play`. Raises :class:`Enough` at the first chunk after the time."""
        now = time.perf_counter()
        if self._started is None and self._steps >= WARM_STEPS:
            self._started, self._before = now, self._steps
        elif self._started is not None and now - self._started >= self._seconds:
            self._elapsed = now - self._started
            raise Enough
        for step in super().play(actions):
            self._steps += 1
            yield step
