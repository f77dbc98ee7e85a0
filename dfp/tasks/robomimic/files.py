"""robomimic's HDF5 files: their content, a reader that checks it, and a writer. ::

    data              attributes: env_args (JSON: the environment), total (transitions in the file)
      demo_0 ...      attributes: num_samples (transitions), model_file (the episode's model as XML); attempts (ours)
        actions       [n, 7]
        states        [n, W], the simulator's flat state before each action
        rewards       [n], 1 where the state AFTER the action is a success, else 0
        dones         [n], see below
        obs/KEY       [n, ...], before each action
        next_obs/KEY  [n, ...], after each action: the next row of obs/KEY, and one more
    mask/NAME         names of demonstrations; the multi-human sets have one per operator and per level of skill

**Which steps are marked.** robomimic extracts its human sets with ``--done_mode 2``: ``dones`` is 1 wherever the
state after the action is a success, and at a demonstration's last step. The operators went on for a moment, so a
demonstration of the multi-human sets ends with five successes in a row, and five marks. Here a marked step ends a
stored episode, as in the authors' release: the four steps after the first success are episodes of one transition
each. A demonstration's last step ends its episode even without a mark.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dfp.spec import ConfigError, TaskSpec
from dfp.tasks.columns import actions as checked_actions
from dfp.tasks.columns import flags, numbers
from dfp.tasks.interface import DataError, Dataset
from dfp.tasks.manifest import naming_damage
from dfp.tasks.robomimic import environment

try:  # by name: an optional extra, which a type checker need not find
    h5py: Any = importlib.import_module("h5py")
except ModuleNotFoundError:
    raise ConfigError("package 'h5py': not installed; Robomimic's tasks need `uv sync --extra robomimic`") from None


MARKS = ("rewards", "dones")  # 0 or 1 of each transition: whether it led to a success, and whether it is marked


class Demonstration(NamedTuple):
    """One recorded episode of ``n`` transitions."""

    model: str  #: MuJoCo's XML
    states: np.ndarray  #: [n, W]
    actions: np.ndarray  #: [n, A]
    rewards: np.ndarray  #: [n], 0 or 1
    observations: dict[str, np.ndarray]  #: each [n + 1, ...]
    attempts: int = 1  #: of a generated one: attempts until it succeeded


# --------------------------------------------------------------------------- reading


def read_transitions(file: Path, task: TaskSpec) -> Dataset:
    """The transitions of one HDF5 file in the order of its demonstrations, with rewards minus 1.

    Raises:
      DataError: the file is damaged or was recorded in another environment, or a column is missing, has another shape
        or holds a value that is not allowed.
    """
    with _reading(file, task) as archive:
        data = _group(file, archive, "data")
        _require_environment(file, data, task)
        demos = [_read(file, data[name], task) for name in _names(file, data)]
        if (total := data.attrs.get("total")) != (rows := sum(len(demo.rewards) for demo in demos)):
            raise DataError(f"{file}: 'total' says {total} transitions, its demonstrations hold {rows}")
    return Dataset(*(np.concatenate(columns) for columns in zip(*demos, strict=True)))


def read_env_args(file: Path, task: TaskSpec) -> dict[str, Any]:
    """The ``env_args`` of a file. Raises ``DataError`` if they are not of the environment of ``task``."""
    with _reading(file, task) as archive:
        return _require_environment(file, _group(file, archive, "data"), task)


def read_demonstrations(file: Path, task: TaskSpec) -> Iterator[tuple[str, Demonstration]]:
    """Name and content of each demonstration, for a replay. Raises ``DataError`` as :func:`read_transitions`."""
    with _reading(file, task) as archive:
        data = _group(file, archive, "data")
        _require_environment(file, data, task)
        for name in _names(file, data):
            demo, rows = data[name], _rows(file, data[name])
            model = demo.attrs.get("model_file")
            if not isinstance(model, str):
                raise DataError(f"{file}: {name} has no attribute 'model_file'; a replay needs the model")
            shapes = {"states": (rows, None), "actions": (rows, task.action_size), "rewards": (rows,)}
            columns = {}  # as stored: a replay compares float64 states bit for bit
            for column, shape in shapes.items():
                _column(file, demo, column, shape)
                columns[column] = _stored(file, demo, column)
            yield name, Demonstration(model, **columns, observations={})


def read_attempts(file: Path, task: TaskSpec) -> dict[str, list[int]]:
    """The attempts of each demonstration of a generated file, as a list for each mask."""
    with _reading(file, task) as archive:
        return {
            mask: [int(archive[f"data/{name.decode()}"].attrs["attempts"]) for name in names[()]]
            for mask, names in archive["mask"].items()
        }


def _read(file: Path, demo: Any, task: TaskSpec) -> Dataset:
    """One demonstration as a dataset."""
    rows = _rows(file, demo)
    widths = environment.STATE_KEYS | {
        "object": task.observation_size - sum(filter(None, environment.STATE_KEYS.values()))
    }
    before, after = (
        np.concatenate([_column(file, demo, f"{group}/{key}", (rows, width)) for key, width in widths.items()], axis=1)
        for group in ("obs", "next_obs")
    )
    if not np.array_equal(after[:-1], before[1:]):
        row = np.flatnonzero((after[:-1] != before[1:]).any(axis=1))[0]
        raise DataError(f"{file}: {_name(demo)}/next_obs, row {row}, is not the next row of obs")
    actions = _column(file, demo, "actions", (rows, task.action_size))
    success, terminals = (flags(_place(file, demo, name), _column(file, demo, name, (rows,))) for name in MARKS)
    terminals[-1] = True
    return Dataset(
        observations=before,
        actions=checked_actions(_place(file, demo, "actions"), actions),
        rewards=success.astype(np.float32) - 1,
        masks=(~success).astype(np.float32),
        terminals=terminals,
        final_observations=after[terminals],
    )


@contextlib.contextmanager
def _reading(file: Path, task: TaskSpec) -> Iterator[Any]:
    damage = (RuntimeError, KeyError, TypeError, ValueError)
    with naming_damage(file, task, "HDF5", damage), h5py.File(file, "r", locking=False) as archive:
        yield archive


def _require_environment(file: Path, data: Any, task: TaskSpec) -> dict[str, Any]:
    if "env_args" not in data.attrs:
        raise DataError(f"{file}: 'data' has no attribute 'env_args': nothing says which environment it is from")
    try:
        found = json.loads(data.attrs["env_args"])
        ours, theirs = environment.settings(environment.env_args(task)), environment.settings(found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: 'env_args' cannot be read ({type(error).__name__}: {error})") from None
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise DataError(
                f"{file}: recorded with {name} = {theirs.get(name)!r}, but task '{task.key}' has {ours.get(name)!r}"
            )
    return found


def _names(file: Path, data: Any) -> list[str]:
    """The demonstrations in the order of their numbers."""
    numbers = {name: name.removeprefix("demo_") for name in data}
    strangers = [name for name, number in numbers.items() if name == number or not number.isdecimal()]
    if strangers or not numbers:
        raise DataError(f"{file}: 'data' holds {strangers or 'nothing'}; wanted demo_0, demo_1, ...")
    return sorted(numbers, key=lambda name: int(numbers[name]))


def _rows(file: Path, demo: Any) -> int:
    if not isinstance(demo, h5py.Group):
        raise DataError(f"{file}: {_name(demo)} is not a group; wanted one per demonstration")
    rows = demo.attrs.get("num_samples")
    if not isinstance(rows, (int, np.integer)) or rows < 1:
        raise DataError(f"{file}: {_name(demo)} has attribute 'num_samples' {rows}; wanted its number of transitions")
    return int(rows)


def _group(file: Path, archive: Any, name: str) -> Any:
    if not isinstance(archive.get(name), h5py.Group):
        raise DataError(f"{file}: '{name}' is missing; found: {', '.join(archive)}")
    return archive[name]


def _column(file: Path, demo: Any, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """A column in float32, checked; ``None`` in ``shape`` is any width."""
    return numbers(_place(file, demo, name), _stored(file, demo, name), shape)


def _stored(file: Path, demo: Any, name: str) -> np.ndarray:
    """A column as stored, unchecked."""
    stored = demo.get(name)
    if not isinstance(stored, h5py.Dataset):
        group, _, _ = name.rpartition("/")
        found = demo.get(group) if group else demo
        listed = ", ".join(found) if isinstance(found, h5py.Group) else ""
        raise DataError(f"{_place(file, demo, name)} is missing; found: {listed}")
    return np.asarray(stored[()])


def _place(file: Path, demo: Any, name: str) -> str:
    return f"{file}: {_name(demo)}/{name}"


def _name(demo: Any) -> str:
    return str(demo.name).removeprefix("/data/")


# --------------------------------------------------------------------------- writing


def write(file: Path, task: TaskSpec, demos: Iterable[Demonstration], masks: dict[str, list[int]]) -> None:
    """Write ``demos`` as ``demo_0``, ``demo_1``, ... and ``masks``, numbers of demonstrations by name.

    The bytes depend on nothing but the arguments.
    """
    total = 0
    with h5py.File(file, "w") as archive:
        data = archive.create_group("data")
        for number, demo in enumerate(demos):
            rows = len(demo.actions)
            group = data.create_group(f"demo_{number}")
            group.attrs["num_samples"] = rows
            group.attrs["model_file"] = demo.model
            group.attrs["attempts"] = demo.attempts
            dones = demo.rewards.astype(np.int64)
            dones[-1] = 1
            columns = {"actions": demo.actions, "states": demo.states, "rewards": demo.rewards, "dones": dones}
            for key, column in demo.observations.items():
                columns |= {f"obs/{key}": column[:-1], f"next_obs/{key}": column[1:]}
            for key, column in columns.items():
                group.create_dataset(key, data=column)
            total += rows
        data.attrs["total"] = total
        data.attrs["env_args"] = json.dumps(environment.env_args(task), indent=4)
        for name, numbers in sorted(masks.items()):
            archive.create_dataset(f"mask/{name}", data=[f"demo_{number}".encode() for number in numbers])
