"""The suites of this package by name. Everything else asks the :class:`~dfp.tasks.interface.Suite` of a task."""

from __future__ import annotations

import importlib

from dfp.spec import ConfigError, TaskSpec
from dfp.tasks.gym.suite import GymnasiumSuite
from dfp.tasks.interface import Suite
from dfp.tasks.ogbench.suite import OGBenchSuite
from dfp.tasks.robomimic.suite import RobomimicSuite

SUITES: dict[str, Suite] = {
    "ogbench": OGBenchSuite(),
    "robomimic": RobomimicSuite(),
    "gymnasium": GymnasiumSuite(),
}


def suite_of(task: TaskSpec) -> Suite:
    """The suite that serves ``task``: one of ours by its name, or the ``suite`` of a module by its import path.

    Raises:
      ConfigError: there is no such suite.
    """
    if task.suite in SUITES:
        return SUITES[task.suite]
    place = f"task '{task.key}': suite '{task.suite}'"
    try:
        module = importlib.import_module(task.suite)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{place}: {error}; allowed: {', '.join(SUITES)}, or the import path of a module with a `suite`"
        ) from None
    if not hasattr(module, "suite"):
        raise ConfigError(f"{place}: the module has no `suite`, an instance of dfp.tasks.interface.Suite")
    return module.suite
