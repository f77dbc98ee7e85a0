"""Save and restore: one ``.npz`` per checkpoint, written by rename, stamped with the spec it belongs to.

Two checkpoints rotate, so that a whole one is left whatever happens while the other is written. Nothing is pickled.
A truncated or damaged file, or one of another spec, is refused by name. The other file is then used.
"""

import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dfp.errors import DfpError
from dfp.files import write_atomically
from dfp.runs.layout import CHECKPOINTS, FINAL_STATE, RUN, read_object
from dfp.runs.same_spec import digest_of


class CheckpointError(DfpError):
    """A checkpoint cannot be used: one line with its path and the reason."""


def save(path: Path, state: Any, digest: str, progress: dict[str, Any]) -> None:
    """Write a tree of arrays, the spec's digest, and progress that JSON can hold."""
    import jax  # here: a command that only looks at runs must not wait for it

    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(state))
    arrays = {jax.tree_util.keystr(where): np.asarray(leaf) for where, leaf in leaves}
    stamp = json.dumps({"digest": digest, "progress": progress})
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, stamp=np.frombuffer(stamp.encode(), np.uint8))  # pyright: ignore[reportArgumentType]
    write_atomically(path, buffer.getvalue())


def load(path: Path, template: Any, digest: str) -> tuple[Any, dict[str, Any]]:
    """The tree and the progress saved at ``path``.

    Args:
      path: the file.
      template: a tree of the same structure, shapes and dtypes; its values do not matter.
      digest: the spec that the checkpoint must belong to.

    Raises:
      CheckpointError: the file is missing, truncated, damaged, of another spec or of another structure.
    """
    import jax

    stamp = read_stamp(path)
    if stamp["digest"] != digest:
        raise CheckpointError(f"{path}: belongs to spec {stamp['digest'][:12]}, not to {digest[:12]}")
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    arrays = _read(path, [jax.tree_util.keystr(where) for where, _ in leaves])
    for (where, leaf), array in zip(leaves, arrays, strict=True):
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            name = jax.tree_util.keystr(where)
            wanted, found = f"{leaf.dtype}{leaf.shape}", f"{array.dtype}{array.shape}"
            raise CheckpointError(f"{path}: {name} is {found}, not {wanted}")
    return jax.tree_util.tree_unflatten(structure, arrays), stamp["progress"]


def read_stamp(path: Path) -> dict[str, Any]:
    """``{"digest": ..., "progress": ...}`` of a checkpoint; :class:`CheckpointError` if there is none."""
    (stamp,) = _read(path, ["stamp"])
    try:
        content = json.loads(stamp.tobytes())
        return {"digest": str(content["digest"]), "progress": dict(content["progress"])}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged: its stamp: {error}") from None


def load_final(folder: Path, template: Any, digest: str) -> tuple[Any, dict[str, Any]]:
    """The state and progress that a run ended with, as :func:`load` returns them.

    Raises :class:`CheckpointError` as :func:`load`, with the command that makes the file again.
    """
    try:
        return load(folder / FINAL_STATE, template, digest)
    except CheckpointError as error:
        last = read_object(folder / RUN)
        mine = isinstance(last.get("spec"), dict) and digest_of(last["spec"]) == digest
        command = last.get("command")
        again = f": {shlex.join(map(str, command))}" if mine and isinstance(command, list) else ""
        raise CheckpointError(f"{error}; to get it back run what made it again{again}") from None


def _read(path: Path, names: list[str]) -> list[np.ndarray]:
    """Arrays of an ``.npz``, each checked against its checksum."""
    try:
        # Opened here, because NumPy does not close a file that is not an archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return [archive[name] for name in names]
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # zipfile and NumPy raise nearly anything if a file is damaged
        if isinstance(error, OSError) and error.filename:  # it could not be opened
            raise
        raise CheckpointError(f"{path}: damaged: {' '.join(str(error).split())}") from None


class Rotation:
    """The two checkpoints of a run folder."""

    def __init__(self, folder: Path, digest: str) -> None:
        self._paths = [folder / name for name in CHECKPOINTS]
        self._digest = digest
        self._next = 0

    def save(self, state: Any, progress: dict[str, Any]) -> Path:
        """Overwrite the older of the two."""
        path = self._paths[self._next]
        save(path, state, self._digest, progress)
        self._next = 1 - self._next
        return path

    def load(
        self, template: Any, problem: Callable[[dict[str, Any]], str | None] = lambda progress: None
    ) -> tuple[tuple[Any, dict[str, Any]] | None, list[str]]:
        """State and progress of the checkpoint with the most steps, or None; and a line about each refused file.

        ``problem``: returns why a run cannot continue from a checkpoint with this progress, or None if it can.
        """
        found, refused = [], []
        for index, path in enumerate(self._paths):
            try:
                state, progress = load(path, template, self._digest)
                if (reason := problem(progress)) is not None:
                    raise CheckpointError(f"{path}: {reason}")
                found.append((state, progress, index))
            except CheckpointError as error:
                if path.exists():
                    refused.append(str(error))
        if not found:
            return None, refused
        state, progress, index = max(found, key=lambda item: item[1]["step"])
        self._next = 1 - index
        return (state, progress), refused

    def remove(self) -> None:
        """Delete both: the run is finished and its last state saved."""
        for path in self._paths:
            path.unlink(missing_ok=True)
