"""Online transitions on disk: one append-only file per run, so that a checkpoint never rewrites them.

A checkpoint records how many records it covers, and their checksum; a restart cuts the file there. Records are float32:
``[observation, action, reward, mask, kind]``. The observation after an episode's last step is a separate record.
"""

import errno
import os
import zlib
from pathlib import Path

import numpy as np

from dfp.files import naming
from dfp.spec import TaskSpec

ONGOING, LAST, FINAL_OBSERVATION = 0.0, 1.0, 2.0


class OnlineRows:
    """The file of a run. What is added is written at the next :meth:`flush`."""

    def __init__(self, path: Path, task: TaskSpec) -> None:
        self._path = path
        self._observation, self._action = task.observation_size, task.action_size
        self._width = self._observation + self._action + 3
        self._pending: list[np.ndarray] = []
        self._records = 0
        self.checksum = 0  # CRC-32 of the file
        self.episodes = 0  # finished ones, in the file or waiting for it

    def add(
        self, observation: np.ndarray, action: np.ndarray, reward: float, mask: float, final: np.ndarray | None
    ) -> None:
        """Queue one transition; ``final`` [S] is the observation after it if the episode ended there, else None."""
        kind = ONGOING if final is None else LAST
        self._pending.append(np.concatenate([observation, action, [reward, mask, kind]]).astype(np.float32))
        if final is not None:
            self.episodes += 1
            rest = np.zeros(self._action + 2)
            self._pending.append(np.concatenate([final, rest, [FINAL_OBSERVATION]]).astype(np.float32))

    def flush(self) -> int:
        """Write what was added to the disk. Returns the number of records in the file.

        Raises ``OSError`` if the write fails. The file is then as before, and what was added still waits.
        """
        if self._pending:
            try:
                with naming(self._path), self._path.open("ab", buffering=0) as file:
                    if file.write(content := np.stack(self._pending).tobytes()) < len(content):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
                    os.fsync(file.fileno())
            except OSError:
                if self._path.exists():  # a part of a record would shift all that follow it
                    os.truncate(self._path, self._records * self._width * 4)
                raise
            self._records += len(self._pending)
            self.checksum = zlib.crc32(content, self.checksum)
            self._pending.clear()
        return self._records

    def problem(self, records: int, checksum: int | None) -> str | None:
        """Why the file does not begin with the ``records`` that have this checksum; None if it does.

        A checkpoint of an earlier version has no checksum. Only the number of records is then compared.
        """
        found = self._path.stat().st_size // (self._width * 4) if self._path.exists() else 0
        if found < records:
            return f"{self._path.name} holds {found} of its {records} records"
        if checksum is not None and zlib.crc32(self._content(records)) != checksum:
            return f"{self._path.name} is damaged: its records have another checksum"
        return None

    def truncate(self, records: int) -> None:
        """Cut the file to the first ``records``, those that the checkpoint covers."""
        if records == 0:
            self._path.unlink(missing_ok=True)
        else:
            os.truncate(self._path, records * self._width * 4)
        self._records = records
        self.checksum = zlib.crc32(self._content(records))
        self.episodes = int(np.sum(self.read()["final"] >= 0))

    def read(self) -> dict[str, np.ndarray]:
        """Columns of the transitions in the file, and ``final_observation`` [F, S], the states after episodes.

        ``final`` is the index of a row of ``final_observation`` if an episode ended with the transition, else -1.
        """
        records = np.frombuffer(self._content(self._records), np.float32).reshape(-1, self._width)
        kind = records[:, -1]
        steps = records[kind != FINAL_OBSERVATION]
        last = steps[:, -1] == LAST
        split = self._observation + self._action
        return {
            "observation": steps[:, : self._observation],
            "action": steps[:, self._observation : split],
            "reward": steps[:, split],
            "mask": steps[:, split + 1],
            "final": np.where(last, np.cumsum(last) - 1, -1).astype(np.int32),
            "final_observation": records[kind == FINAL_OBSERVATION, : self._observation],
        }

    def _content(self, records: int) -> bytes:
        if not records:
            return b""
        with self._path.open("rb") as file:
            return file.read(records * self._width * 4)
