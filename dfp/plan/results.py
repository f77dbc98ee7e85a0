"""The configuration of a results folder. Two configurations with one ``results_dir`` would overwrite each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dfp.files import read_text, write_atomically
from dfp.spec import ConfigError

OWNER = "configuration.txt"


def claim(results_dir: Path, files: Sequence[Path]) -> None:
    """Check that the results are of these configuration files, or of none yet.

    Raises:
      ConfigError: they are of other files. The error names both.
    """
    path = results_dir / OWNER
    named = _named(results_dir, files)
    if named and path.exists() and (owner := read_text(path).strip()) != named:
        raise ConfigError(
            f"{results_dir} holds the results of {owner}, not of {named} (as seen from there): set another "
            f"'results_dir', or delete {path} if {named} has replaced {owner}"
        )


def record(results_dir: Path, files: Sequence[Path]) -> None:
    """:func:`claim` the folder and write down whose results it holds."""
    claim(results_dir, files)
    if named := _named(results_dir, files):
        results_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(results_dir / OWNER, f"{named}\n")


def _named(results_dir: Path, files: Sequence[Path]) -> str:
    """Paths of the files relative to the results, so that both may be moved together; "" if all are in the results."""
    folder = results_dir.resolve()
    if all(path.resolve().parent == folder for path in files):
        return ""
    return ", ".join(os.path.relpath(path.resolve(), folder) for path in files)
