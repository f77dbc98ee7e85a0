"""Checkpoints: exact, refused by name when damaged, rotating; leases; atomic files."""

import json
import os
import socket
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

import dfp.runs.lease
from dfp.runs.checkpoint import CheckpointError, Rotation, load, save
from dfp.runs.layout import RunFolderError
from dfp.runs.lease import Lease

STATE = {"a": np.arange(5, dtype=np.float32), "b": (np.int32(3), np.ones((2, 2), np.float32)), "none": None}


def test_what_is_saved_comes_back(tmp_path):
    path = tmp_path / "c.npz"
    save(path, STATE, "d" * 64, {"step": 7, "text": "µ"})
    state, progress = load(path, STATE, "d" * 64)
    assert progress == {"step": 7, "text": "µ"}
    np.testing.assert_array_equal(state["a"], STATE["a"])
    assert state["b"][0] == 3
    assert state["none"] is None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_by_name(tmp_path, share):
    path = tmp_path / "c.npz"
    save(path, STATE, "d", {"step": 1})
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CheckpointError, match=r"c\.npz: damaged"):
        load(path, STATE, "d")


def test_a_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "c.npz"
    save(path, {"a": np.zeros(1000, np.float32)}, "d", {"step": 1})
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load(path, {"a": np.zeros(1000, np.float32)}, "d")


def test_another_spec_another_shape_and_no_file_are_refused(tmp_path):
    path = tmp_path / "c.npz"
    save(path, STATE, "d" * 64, {"step": 1})
    with pytest.raises(CheckpointError, match=r"dddddddddddd.*eeeeeeeeeeee"):
        load(path, STATE, "e" * 64)
    with pytest.raises(CheckpointError, match=r"\['a'\] .*float32\(5,\).*float32\(6,\)"):
        load(path, {**STATE, "a": np.zeros(6, np.float32)}, "d" * 64)
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "none.npz", STATE, "d")


@pytest.mark.parametrize("stamp", [b"{", b"[]", b'{"digest": "d"}', b'{"digest": "d", "progress": 3}'])
def test_a_stamp_of_another_form_is_refused(tmp_path, stamp):
    path = tmp_path / "c.npz"
    np.savez(path, stamp=np.frombuffer(stamp, np.uint8))
    with pytest.raises(CheckpointError, match=r"c\.npz: damaged: its stamp: "):
        load(path, STATE, "d")


def test_numbers_of_another_type_are_refused(tmp_path):
    path = tmp_path / "c.npz"
    save(path, STATE, "d", {"step": 1})
    with pytest.raises(CheckpointError, match=r"\['a'\] is float32\(5,\), not float64\(5,\)"):
        load(path, {**STATE, "a": np.zeros(5, np.float64)}, "d")


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "c.npz"
    with path.open("wb") as file:
        np.savez(file, stamp=np.array([{"digest": "d"}], dtype=object))
    with pytest.raises(CheckpointError, match="damaged"):
        load(path, STATE, "d")


def test_a_write_that_fails_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    save(path, STATE, "d", {"step": 1})
    monkeypatch.setattr(os, "replace", None)  # a write in the place of the file would not need it
    with pytest.raises(TypeError):
        save(path, STATE, "d", {"step": 2})
    assert load(path, STATE, "d")[1]["step"] == 1


def test_after_a_write_that_fails_the_next_one_goes_to_the_same_place(tmp_path, monkeypatch):
    """Not to that of the newest checkpoint."""
    rotation = Rotation(tmp_path, "d")
    first = rotation.save(STATE, {"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", None)
        with pytest.raises(TypeError):
            rotation.save(STATE, {"step": 2})
    assert rotation.save(STATE, {"step": 3}) != first
    assert load(first, STATE, "d")[1]["step"] == 1


class Pickled:
    """Code that would run when a checkpoint is read."""

    def __reduce__(self):
        return pytest.fail, ("a checkpoint was unpickled",)


def test_a_checkpoint_with_pickled_objects_is_refused(tmp_path):
    path = tmp_path / "c.npz"
    save(path, STATE, "d", {"step": 1})
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **(arrays | {"['a']": np.array([Pickled()], object)}))
    with pytest.raises(CheckpointError, match=r"c\.npz: damaged: .*pickle"):
        load(path, STATE, "d")


def test_two_rotate_and_a_damaged_one_falls_back(tmp_path):
    rotation = Rotation(tmp_path, "d")
    for step in (1, 2, 3):
        newest = rotation.save({"a": jnp.full(3, float(step))}, {"step": step})
    template = {"a": np.zeros(3, np.float32)}
    found, refused = Rotation(tmp_path, "d").load(template)
    assert found is not None
    assert (found[1]["step"], refused) == (3, [])
    os.truncate(newest, 100)
    again = Rotation(tmp_path, "d")
    found, refused = again.load(template)
    assert found is not None
    assert found[1]["step"] == 2
    assert len(refused) == 1
    assert newest.name in refused[0]
    # The next one replaces the damaged file, not the good one.
    assert again.save(template, {"step": 9}) == newest
    again.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shift", [-3600.0, 0.0, 3600.0])
def test_a_second_process_is_refused_and_a_stale_lease_taken_over(tmp_path, monkeypatch, shift):
    """Whatever the clocks of the file and of this machine say: only a change is a sign of life."""
    for name, seconds in (("WATCH_S", 0.02), ("HEARTBEAT_S", 0.05), ("STALE_S", 2.0)):
        monkeypatch.setattr(dfp.runs.lease, name, seconds)
    monkeypatch.setattr(time, "time", lambda: os.stat(tmp_path).st_mtime + shift)
    lease = tmp_path / "lease.json"
    owner = f"in use by process {os.getpid()} on {socket.gethostname()}"
    with Lease(tmp_path), pytest.raises(RunFolderError, match=owner):
        Lease(tmp_path).__enter__()
    assert not lease.exists()
    # On this host the owner is asked for; it is gone.
    gone = {
        "host": socket.gethostname(),
        "pid": 2**22 + 1,
        "pid_namespace": os.readlink("/proc/self/ns/pid"),
        "job": None,
    }
    lease.write_text(json.dumps(gone))
    begun = time.monotonic()
    with Lease(tmp_path):
        assert time.monotonic() - begun < 1.0
    # Elsewhere only the heartbeat tells, by a clock that is wrong: the owner's file is an hour old, or of the future.
    lease.write_text(json.dumps({"host": "elsewhere", "pid": 1, "job": "17"}))
    stop = threading.Event()

    def beat() -> None:
        moment = 1e9 + shift
        while not stop.wait(0.05):
            moment += 0.05
            os.utime(lease, (moment, moment))

    owner = threading.Thread(target=beat)
    owner.start()
    with pytest.raises(RunFolderError, match="on elsewhere, job 17"):
        Lease(tmp_path).__enter__()
    stop.set()
    owner.join()
    begun = time.monotonic()
    with Lease(tmp_path):
        assert json.loads(lease.read_text())["pid"] == os.getpid()
    assert time.monotonic() - begun >= 2.0
