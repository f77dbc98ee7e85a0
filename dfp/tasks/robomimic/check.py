"""Play recorded demonstrations again, to test an installation before long runs."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from dfp.spec import TaskSpec
from dfp.tasks.interface import Reproduction
from dfp.tasks.robomimic import files
from dfp.tasks.robomimic.environment import RobomimicEnvironment, make_environment
from dfp.tasks.robomimic.files import Demonstration

log = logging.getLogger("dfp")


def reproduce(task: TaskSpec, file: Path, count: int | None) -> Reproduction:
    """Play the actions of the first ``count`` demonstrations of ``file`` (None: all) from their recorded states.

    The actions are played open loop, so a grasp that nearly failed may fail if any bit differs. Most demonstrations
    from another machine or library version succeed. With a wrong controller, version or action scale almost none does.

    Raises:
      ConfigError, DataError: as for the environment of ``task``, and as for reading ``file``.
    """
    environment = make_environment(task)
    played = recorded = reproduced = exact = 0
    for name, demo in files.read_demonstrations(file, task):
        if played == count:
            break
        success, same = _play(environment, demo)
        played += 1
        recorded += demo.rewards.max() == 1
        reproduced += success and demo.rewards.max() == 1
        exact += same
        log.info(f"{file.name}, {name}: {'success' if success else 'no success'}{', exactly' if same else ''}")
    environment.close()
    return Reproduction(task.key, played, int(recorded), int(reproduced), exact)


def _play(environment: RobomimicEnvironment, demo: Demonstration) -> tuple[bool, bool]:
    """Whether the demonstration succeeded, and whether each state was bit for bit the recorded one."""
    environment.restore(demo.model, demo.states[0])
    success, same = False, True
    for state, action in zip(demo.states, demo.actions, strict=True):
        same = same and np.array_equal(environment.flat_state(), state)
        success = environment.step(action).success or success
    return success, same
