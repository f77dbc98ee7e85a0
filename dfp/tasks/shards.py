"""The files of a dataset one after another, each read in the background while its predecessor is trained on.

cube-quadruple-100m has 100 files, and training changes to the next file every 1,000 updates. On a GPU, reading a file
takes longer than those updates. Files are unpacked at every reading. Unpacked copies would take 25 GB more for each
task and save only work that is done in the background (docs/performance.md).
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from dfp.spec import DataSpec, TaskSpec
from dfp.tasks.dataset import manifest_path
from dfp.tasks.interface import DataError, Dataset
from dfp.tasks.manifest import read_manifest, require_recorded, require_whole
from dfp.tasks.suites import suite_of


class ShardReader:
    """Reads the files of a prepared dataset, in one background thread.

    The reader holds the rows of at most one file. With the rows that the caller uses, two files are in memory. A file's
    checksum is compared when it is first read, and again only if the file has changed since.
    """

    def __init__(self, task: TaskSpec, data: DataSpec, data_dir: Path) -> None:
        """Look at every file, so that a missing file is found before the first update.

        Raises:
          DataError: the dataset is not prepared, or one of its files is missing or has another size than recorded.
        """
        self._task = task
        self._path = manifest_path(task, data, data_dir)
        manifest = read_manifest(self._path, task)
        self.sha256, self._files = manifest.sha256, manifest.files
        for entry in self._files:
            require_whole(self._path.with_name(entry.name), entry, task)
        self._suite = suite_of(task)
        self._suite.prepare_reading(task)
        self._verified: dict[int, tuple[int, ...]] = {}  # by shard, inode, size and time of the file that was verified
        self._rewards: dict[int, np.ndarray] = {}  # by shard, [N] int8: 1 MB a file, and half of the time to read it
        self._next: tuple[int, Future[Dataset]] | None = None
        self._thread = ThreadPoolExecutor(1, "shards")

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def count(self) -> int:
        """Files of the dataset."""
        return len(self._files)

    def prefetch(self, shard: int) -> None:
        """Begin to read file number ``shard`` (from 0). Rows that were prefetched before are dropped.

        Raises ``DataError`` if the dataset has no such file. :meth:`read` raises the errors of reading it.
        """
        if not 0 <= shard < self.count:
            raise DataError(f"{self._path}: no shard {shard}; allowed: 0 to {self.count - 1}")
        if self._next is not None and self._next[0] == shard:
            return
        self._drop()
        self._next = (shard, self._thread.submit(self._load, shard))

    def read(self, shard: int) -> Dataset:
        """The rows of file number ``shard`` (from 0): the prefetched ones, or else read now.

        Raises:
          DataError: there is no such file, it is not the recorded one, or it holds no dataset.
        """
        self.prefetch(shard)
        assert self._next is not None
        (_, future), self._next = self._next, None
        return future.result()

    def close(self) -> None:
        """Drop the prefetched rows and end the thread, after the file that it is reading."""
        self._drop()
        self._thread.shutdown()

    def _drop(self) -> None:
        if self._next is not None:
            self._next[1].cancel()  # a file that is being read is read to its end, and its rows are freed then
            self._next = None

    def _load(self, shard: int) -> Dataset:
        entry = self._files[shard]
        file = self._path.with_name(entry.name)
        require_whole(file, entry, self._task)
        found = file.stat()
        state = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._verified.get(shard) != state:
            require_recorded(file, entry, self._task)
            self._verified[shard] = state
            self._rewards.pop(shard, None)
        dataset = self._suite.read_transitions(file, self._task, self._rewards.get(shard))
        if self.count > 1 and self._suite.judges_rewards:
            self._rewards[shard] = dataset.rewards.astype(np.int8)
        return dataset
