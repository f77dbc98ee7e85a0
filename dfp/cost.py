"""What an online step and an inference step cost on this machine (Table 9), all methods in one process.

An online step is one environment step of the real loop: its share of choosing a chunk, the simulator, one update. An
inference step is the choice of one chunk for one state, on the host again. Neither depends on what was learnt, so the
policies are untrained and the rows noise.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from dfp.bench import bench_act, bench_update, random_rows, untrained
from dfp.online import OnlineLoop
from dfp.rollout import RemoteEnvironment
from dfp.session import Options, Session
from dfp.spec import RunSpec, TaskSpec
from dfp.tasks import Step

COLUMNS: tuple[str, ...] = ("method", "label", "phase", "ms", "task", "width", "depth", "batch", "device")
Phase = Literal["offline", "online", "evaluation"]
WARM_STEPS = 20  # environment steps before the clock starts: the first ones compile and load


def measure(spec: RunSpec, method: str, label: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Rows of :data:`COLUMNS`: milliseconds per offline update, online step and inference step of a method on a task.

    Args:
      spec: a fine-tuning.
      seconds: how long the online loop is timed (> 0).
    """
    device = jax.devices()[0]
    measured: dict[Phase, float] = {
        "offline": bench_update(spec, "offline")["ms"],
        "online": online_step_ms(spec, seconds),
        "evaluation": bench_act(spec)["ms"],
    }
    for phase, ms in measured.items():
        yield {
            "method": method,
            "label": label,
            "phase": phase,
            "ms": round(ms, 4),
            "task": spec.task.key,
            "width": spec.network.width,
            "depth": spec.network.depth,
            "batch": spec.training.batch_size,
            "device": f"{device.platform}: {device.device_kind}",
        }


def online_step_ms(spec: RunSpec, seconds: float) -> float:
    """Milliseconds per environment step of the online loop, past its warm-up, without evaluations."""
    assert spec.online is not None
    forever = 1 << 30
    dataset = random_rows(spec)
    online = spec.online.model_copy(update={"steps": forever, "warmup_steps": 0})
    never = spec.evaluation.model_copy(update={"interval": forever})
    run = spec.model_copy(update={"online": online, "evaluation": never})
    with (
        tempfile.TemporaryDirectory() as folder,
        Session(run, Path(folder) / "run", Options(Path(folder)), forever) as session,
        Metered(run.task, seconds) as environment,
    ):
        loop = OnlineLoop(session, environment, untrained(run, Path(folder) / "pretrained"), dataset)
        try:
            while True:
                loop.episode()
        except Enough:
            return environment.ms_per_step


class Enough(Exception):
    """The clock has run out."""


class Metered(RemoteEnvironment):
    """An environment that is played for so many seconds after its first :data:`WARM_STEPS`.

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
