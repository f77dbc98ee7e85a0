"""What an environment must match: versions of packages, and the sizes that the task says.

Versions must be equal, because another version of a simulator is another environment.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping

from dfp.spec import ConfigError, TaskSpec


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Versions by package; ``none`` if one is missing."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def require_versions(wanted: Mapping[str, str]) -> None:
    """Raises :class:`ConfigError` at the first package whose installed version is not the wanted one."""
    for package, version in wanted.items():
        if (found := _version(package)) != version:
            raise ConfigError(f"package '{package}': found version {found}, wanted {version}")


def require_sizes(task: TaskSpec, found: Mapping[str, int | None]) -> None:
    """Raises :class:`ConfigError` at the first size, by its name in ``task``, that differs from the task's."""
    for name, size in found.items():
        if size != getattr(task, name):
            raise ConfigError(f"{place(task)} has {name} {size}, but the task says {getattr(task, name)}")


def place(task: TaskSpec) -> str:
    """The task and its environment, as an error names them."""
    return f"task '{task.key}': environment '{task.environment}'"
