"""A dataset's files in rotation: what is read when, what is remembered, and how many are in memory."""

import hashlib
import os
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from support.helpers import CUBE, DOWNLOAD, npz, record, small, wait_until

from dfp.tasks import Dataset, manifest, suite_of
from dfp.tasks.interface import DataError
from dfp.tasks.ogbench import environment, files
from dfp.tasks.ogbench.suite import OGBenchSuite
from dfp.tasks.shards import ShardReader

COUNT = 6


def content(shard: int) -> dict[str, np.ndarray]:
    """Observations from 100 * shard on; in other shards the cube is in place in other rows."""
    columns = small()
    columns["observations"] += 100 * shard
    columns["qpos"] = np.roll(columns["qpos"], shard, axis=0)
    return columns


@pytest.fixture
def folder(tmp_path):
    """The folder of the six files; ``tmp_path`` is the data folder."""
    return record(tmp_path, CUBE, *(npz(content(shard)) for shard in range(COUNT))).parent


@pytest.fixture
def reader(tmp_path, folder):
    with ShardReader(CUBE, DOWNLOAD, tmp_path) as reader:
        yield reader


def assert_equal(rows: Dataset, others: Dataset) -> None:
    for name in Dataset._fields:
        ours, theirs = getattr(rows, name), getattr(others, name)
        assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes()), name


def counted(monkeypatch, module, name: str) -> list[str]:
    """A list that grows by the file's name, or ``?``, with each call of ``module.name``."""
    original, calls = getattr(module, name), []

    def call(*arguments):
        calls.append(arguments[0].name if isinstance(arguments[0], Path) else "?")
        return original(*arguments)

    monkeypatch.setattr(module, name, call)
    return calls


def test_files_come_in_the_order_of_the_manifest_round_after_round(folder, reader):
    assert reader.count == COUNT
    for shard in [*range(COUNT), *range(COUNT), 0]:
        assert_equal(reader.read(shard), suite_of(CUBE).read_transitions(folder / f"{shard}.npz", CUBE))
        reader.prefetch((shard + 1) % COUNT)


def test_the_data_are_told_apart_by_the_sha256_of_their_files(folder, reader):
    files = [hashlib.sha256((folder / f"{shard}.npz").read_bytes()).hexdigest() for shard in range(COUNT)]
    assert reader.sha256 == hashlib.sha256("".join(files).encode()).hexdigest()
    recorded = manifest.read_manifest(folder / "manifest.json", CUBE)
    one = recorded.model_copy(update={"files": recorded.files[:1]})
    assert one.sha256 == files[0]  # what `sha256sum` prints


@pytest.mark.parametrize("first", range(COUNT))
def test_a_restart_begins_with_any_file(reader, first):
    for shard in (first, (first + 1) % COUNT):
        assert reader.read(shard).observations[0, 0] == 100 * shard
        reader.prefetch((shard + 1) % COUNT)


def test_files_are_verified_and_judged_once(tmp_path, folder, monkeypatch):
    verified, judged = counted(monkeypatch, manifest, "_sha256"), counted(monkeypatch, environment, "rewards_and_masks")
    with ShardReader(CUBE, DOWNLOAD, tmp_path) as reader:
        for shard in [0, 1, 0, 1, 2, 0]:
            reader.read(shard)
    assert verified == ["0.npz", "1.npz", "2.npz"]
    assert len(judged) == 3


def test_the_next_file_is_read_in_the_background_and_only_once(reader, monkeypatch):
    began, finish = threading.Event(), threading.Event()
    threads = {}

    def read(file, *arguments):
        assert file.name not in threads
        threads[file.name] = threading.current_thread()
        began.set()
        assert finish.wait(60)
        return files.read_transitions(file, *arguments)

    monkeypatch.setattr(OGBenchSuite, "read_transitions", staticmethod(read))
    reader.prefetch(3)
    assert began.wait(60)  # while nobody waits for it
    reader.prefetch(3)
    reader.prefetch(1)  # never begun: 3 is still being read when 2 is asked for
    reader.prefetch(2)
    finish.set()
    assert reader.read(2).observations[0, 0] == 200
    reader.prefetch(5)
    wait_until(lambda: "5.npz" in threads)
    assert reader.read(5).observations[0, 0] == 500
    assert list(threads) == ["3.npz", "2.npz", "5.npz"]
    assert threading.current_thread() not in threads.values()


def test_another_file_than_the_prefetched_one_can_be_read(reader):
    reader.prefetch(1)
    assert reader.read(4).observations[0, 0] == 400
    reader.prefetch(2)
    reader.prefetch(3)
    assert reader.read(3).observations[0, 0] == 300
    assert reader.read(2).observations[0, 0] == 200


def test_two_files_are_in_memory_at_most(reader, monkeypatch):
    """The caller's and one more, whatever the caller prefetches, as long as it lets go of a file before the next."""
    alive, most, reading = weakref.WeakSet(), [], threading.Lock()

    class Column(np.ndarray):
        """An array that can be a member of the set."""

        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def read(file, *arguments):
        assert reading.acquire(blocking=False)  # one at a time
        time.sleep(0.005)
        rows = files.read_transitions(file, *arguments)
        reading.release()
        column = rows.observations.copy().view(Column)
        alive.add(column)
        most.append(len(alive))
        return rows._replace(observations=column)

    monkeypatch.setattr(OGBenchSuite, "read_transitions", staticmethod(read))
    rng = np.random.default_rng(0)
    held = None
    for shard in range(40):
        held = None
        held = reader.read(shard % COUNT)
        for _ in range(rng.integers(3)):
            reader.prefetch(int(rng.integers(COUNT)))
        if rng.random() < 0.5:
            wait_until(lambda: reader._next is None or reader._next[1].done())
    assert held is not None
    assert len(most) > 40
    assert max(most) == 2
    held = reader.read(0)
    held = None
    assert not alive  # the reader keeps nothing that it has given away


def test_a_file_that_is_missing_in_the_middle_is_named_before_the_first_is_read(tmp_path, folder):
    (folder / "3.npz").unlink()
    message = rf"^{folder}/3\.npz: no such file, but its manifest lists it; run `dfp data cube-single-task2 "
    with pytest.raises(DataError, match=message):
        ShardReader(CUBE, DOWNLOAD, tmp_path)


def test_a_file_of_another_size_is_named_before_the_first_is_read(tmp_path, folder):
    with (folder / "4.npz").open("ab") as stream:
        stream.write(b"!")
    with pytest.raises(DataError, match=r"/4\.npz: .*\(\d+ bytes, .*delete it"):
        ShardReader(CUBE, DOWNLOAD, tmp_path)


def test_a_damaged_file_is_named_at_its_turn_and_the_others_can_be_read(reader, folder):
    damaged = bytearray((folder / "1.npz").read_bytes())
    damaged[300] ^= 1
    (folder / "1.npz").write_bytes(damaged)
    assert reader.read(0).observations[0, 0] == 0
    reader.prefetch(1)
    with pytest.raises(DataError, match=r"/1\.npz: .*\(sha256 \w{12}\.\.\., recorded"):
        reader.read(1)
    assert reader.read(2).observations[0, 0] == 200


def test_a_file_that_changes_later_is_verified_again(reader, folder):
    reader.read(1)
    other = npz(content(2))
    size = (folder / "1.npz").stat().st_size
    (folder / "1.npz").write_bytes(other[:size].ljust(size, b"\0"))
    os.utime(folder / "1.npz", ns=(1, 1))
    with pytest.raises(DataError, match=r"/1\.npz: .*\(sha256"):
        reader.read(1)
    (folder / "1.npz").unlink()
    with pytest.raises(DataError, match=r"/1\.npz: no such file"):
        reader.read(1)


@pytest.mark.parametrize("shard", [-1, COUNT])
def test_a_file_that_does_not_exist_is_refused_at_once(reader, shard):
    for use in (reader.read, reader.prefetch):
        with pytest.raises(DataError, match=rf"manifest\.json: no shard {shard}; allowed: 0 to {COUNT - 1}$"):
            use(shard)


def test_a_dataset_that_is_not_prepared_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"manifest\.json: .*`dfp data cube-single-task2 "):
        ShardReader(CUBE, DOWNLOAD, tmp_path)


def test_the_thread_ends_with_the_reader(tmp_path, folder):
    with ShardReader(CUBE, DOWNLOAD, tmp_path) as reader:
        reader.read(0)
        reader.prefetch(1)
        assert any(thread.name.startswith("shards") for thread in threading.enumerate())
    assert not any(thread.name.startswith("shards") for thread in threading.enumerate())
