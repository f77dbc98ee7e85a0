"""The numbers that the paper prints: ``config/paper/table<number>.csv``, as printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd

from dfp.plan.run_table import read_strings, require, typed
from dfp.shipped import CATALOGUE
from dfp.spec import ConfigError

_SUCCESS = {"method": "str", "task": "str", "mean": "float64", "std": "float64"}
TYPES = {
    **dict.fromkeys((1, 2, 3, 7), _SUCCESS),
    4: {"method": "str", "group": "str", "mean": "float64"},
    5: {"method": "str", "setting": "str", "suite": "str", "value": "str"},
    6: {"method": "str", "task": "str", "phase": "str", "mean": "float64", "std": "float64"},
    8: {"setting": "str", "task": "str", "value": "str"},
    9: {"method": "str", "phase": "str", "ms": "float64"},
    10: {"experiment": "str", "gpu_hours": "int64"},
}


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {  # columns that are not keys: a check, and what it allows
    "mean": (lambda mean: 0 <= mean <= 100, "0 to 100 percent"),
    "std": (lambda std: std != std or 0 <= std <= 100, "0 to 100 percent, or nothing"),
    "ms": (lambda ms: 0 < ms < float("inf"), "a positive number"),
    "gpu_hours": (lambda hours: hours > 0, "a positive number"),
    "value": (_is_json, "JSON"),
}


def paper_table(number: int) -> pd.DataFrame:
    """One of the paper's tables; columns as :data:`TYPES` says.

    ``mean`` and ``std`` are percent; no ``std`` is NaN. ``ms`` are milliseconds, ``value`` is JSON. Raises
    :class:`ConfigError`, which names file and row, if the file is damaged.
    """
    path, types = CATALOGUE / "paper" / f"table{number}.csv", TYPES[number]
    strings = read_strings(path)
    if list(strings) != list(types):
        raise ConfigError(f"{path}: header is '{','.join(strings)}', not '{','.join(types)}'")
    if "std" in types:
        strings["std"] = strings["std"].replace("", "nan")
    table = typed(strings, types, path)
    keys = [name for name in types if name not in VALUES]
    checks: list[tuple[str, Any, str]] = [(keys[-1], ~table.duplicated(keys), "each once")]
    for name in (name for name in VALUES if name in types):
        valid, allowed = VALUES[name]
        checks.append((name, table[name].map(valid).astype(bool), allowed))
    return require(table, checks, path)
