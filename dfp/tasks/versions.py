"""Versions of what shapes an episode. Another simulator is another environment, so they are exact."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping

from dfp.spec import ConfigError


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Versions by package; ``none`` where one is missing."""
    return {package: _version(package) for package in packages}


def require(wanted: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raises :class:`ConfigError` at the first package whose version is not the wanted one."""
    for package, version in wanted.items():
        if found[package] != version:
            raise ConfigError(f"package '{package}': found version {found[package]}, wanted {version}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
