"""Whether recorded demonstrations succeed again here: the test of an installation, before days are spent on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dfp.spec import TaskSpec
from dfp.tasks import robomimic, robomimic_files
from dfp.tasks.robomimic import RobomimicEnvironment
from dfp.tasks.robomimic_files import Demonstration

ENOUGH = 0.5  # of the demonstrations that succeeded when they were recorded


class Replay(NamedTuple):
    """What became of recorded demonstrations whose actions were played again."""

    task: str
    demonstrations: int  # played
    recorded: int  # of these, how many succeeded when they were recorded
    reproduced: int  # of these, how many succeeded again
    exact: int  # demonstrations whose states came again bit for bit

    @property
    def passed(self) -> bool:
        """Whether this simulator does what the recording one did, as far as open-loop actions can tell."""
        return self.reproduced >= ENOUGH * self.recorded > 0

    def verdict(self) -> str:
        """One line."""
        counts = f"{self.reproduced} of {self.recorded} successes again, {self.exact} of {self.demonstrations} exactly"
        meaning = "as recorded" if self.passed else "another simulator than the recording one, or another controller"
        return f"{self.task}: {'passed' if self.passed else 'FAILED'}: {counts}: {meaning}"


def replay(task: TaskSpec, file: Path, count: int | None, report: Callable[[str], None]) -> Replay:
    """Play the actions of the first ``count`` demonstrations of ``file`` (None: all) from their recorded states.

    Open loop, a grasp that was near failing may fail when any bit differs; a demonstration from another machine or
    library version need not succeed, most do. A wrong controller, version or action scale lets next to none succeed.

    Raises:
      ConfigError, DataError: as for the environment of ``task``, and as for reading ``file``.
    """
    environment = robomimic.make_environment(task)
    played = recorded = reproduced = exact = 0
    for name, demo in robomimic_files.read_demonstrations(file, task):
        if played == count:
            break
        success, same = _play(environment, demo)
        played += 1
        recorded += demo.rewards.max() == 1
        reproduced += success and demo.rewards.max() == 1
        exact += same
        report(f"{file.name}, {name}: {'success' if success else 'no success'}{', exactly' if same else ''}")
    environment.close()
    return Replay(task.key, played, int(recorded), int(reproduced), exact)


def _play(environment: RobomimicEnvironment, demo: Demonstration) -> tuple[bool, bool]:
    """Whether the demonstration succeeded, and whether each state was the recorded one."""
    environment.restore(demo.model, demo.states[0])
    success, same = False, True
    for state, action in zip(demo.states, demo.actions, strict=True):
        same = same and np.array_equal(environment.flat_state(), state)
        success = environment.step(action).success or success
    return success, same
