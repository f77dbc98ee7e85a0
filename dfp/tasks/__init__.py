"""Environments and datasets of all suites behind one interface.

Importing this package loads neither JAX nor a simulator; a suite loads its simulator on first use.
"""

from __future__ import annotations

from dfp.spec import TaskSpec
from dfp.tasks.dataset import check, load_dataset, manifest_path, prepare_dataset
from dfp.tasks.interface import DataError, Dataset, Environment, Step, Suite, View
from dfp.tasks.suites import suite_of

__all__ = [
    "DataError", "Dataset", "Environment", "Step", "Suite", "View",
    "check", "load_dataset", "make_environment", "manifest_path", "open_view", "prepare_dataset", "suite_of",
]  # fmt: skip


def make_environment(task: TaskSpec) -> Environment:
    """A fresh environment of ``task``.

    Raises:
      ConfigError: there is no such environment, a width or the cap differs from the task's, or the simulator has
        another version than the suite requires.
    """
    return suite_of(task).make_environment(task)


def open_view(task: TaskSpec, camera: str | None = None, size: tuple[int, int] | None = None) -> View:
    """A fresh environment of ``task`` and a camera. Call :func:`dfp.tasks.rendering.choose_context` before.

    Args:
      camera: name in the simulator's model; None: a free camera that sees the robot and the objects.
      size: width and height in pixels; None: the suite's choice. A suite whose environments draw themselves
        (``draws_itself``) takes neither camera nor size.

    Raises:
      ConfigError: as :func:`make_environment`; or there is no such camera, or the environment draws no frames.
    """
    return suite_of(task).open_view(task, camera, size)
