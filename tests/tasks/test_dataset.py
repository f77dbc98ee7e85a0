"""Datasets on disk: what is read, and what is refused."""

import errno
import re
import tracemalloc
import zlib

import numpy as np
import pytest
from support.helpers import CUBE, DOUBLE, DOWNLOAD, changed, columns, npz, record, small

from dfp.errors import one_line
from dfp.files import replacing
from dfp.spec import DataSpec
from dfp.tasks import load_dataset, manifest_path, prepare_dataset, suite_of
from dfp.tasks.interface import DamagedError, DataError
from dfp.tasks.manifest import file_names
from dfp.tasks.ogbench import environment


def test_rows_are_transitions(tmp_path):
    record(tmp_path, CUBE, npz(small()))
    rows = load_dataset(CUBE, DOWNLOAD, tmp_path)
    assert rows.observations[:, 0].tolist() == [0, 1, 2, 4, 5]
    assert rows.final_observations[:, 0].tolist() == [3, 6]
    assert rows.observations.shape == (5, 28)
    assert rows.final_observations.shape == (2, 28)
    assert rows.terminals.tolist() == [False, False, True, False, True]
    # In place within 0.04 m of 0.50, judged before the action: rows 2 (0.461) and 4 (0.539).
    assert rows.rewards.tolist() == [-1, -1, 0, 0, -1]
    assert rows.masks.tolist() == [1, 1, 0, 0, 1]
    limit = np.float32(1 - 1e-5)
    assert rows.actions[:, 0].tolist() == [0, 0.25, 0.5, limit, limit]
    assert rows.terminals.dtype == bool
    for column in (rows.observations, rows.actions, rows.rewards, rows.masks, rows.final_observations):
        assert column.dtype == np.float32


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.int64, np.uint8])
def test_columns_of_any_number_type_become_float32(tmp_path, kind):
    """A file of whole numbers, whatever their type, gives the rows of the same file in float32."""
    content = small() | {"actions": np.tile(np.array([[0], [1], [0], [1], [1], [0], [0]], np.float32), 5)}
    wanted = suite_of(CUBE).read_transitions(record(tmp_path / "float32", CUBE, npz(content)), CUBE)
    for name in ("observations", "actions", "terminals"):
        content[name] = content[name].astype(kind)
    rows = suite_of(CUBE).read_transitions(record(tmp_path / "other", CUBE, npz(content)), CUBE)
    for ours, theirs in zip(rows, wanted, strict=True):
        assert (ours.dtype, ours.tobytes()) == (theirs.dtype, theirs.tobytes())


def test_an_action_beyond_the_range_by_rounding_is_clipped(tmp_path):
    """1.00005 is 1 with the rounding of a rescaling; 1.001 is another scale (refused below). Last rows do not count."""
    content = small()
    content["actions"][0], content["actions"][3] = 1.00005, 99.0  # row 3 is the last of its episode
    record(tmp_path, CUBE, npz(content))
    assert load_dataset(CUBE, DOWNLOAD, tmp_path).actions[0].tolist() == [np.float32(1 - 1e-5)] * 5


def test_two_cubes_are_rewarded_one_by_one_and_end_the_task_together(tmp_path):
    """Task 2 of cube-double wants (0.35, 0.1, 0.02) and (0.50, 0.1, 0.02), in this order."""
    here, there, away = [0.35, 0.1, 0.02], [0.50, 0.1, 0.02], [0.42, -0.1, 0.02]
    cubes = [away + away, here + away, away + there, here + there, there + here, away + away]
    record(tmp_path, DOUBLE, npz(columns(cubes, [0, 0, 0, 0, 0, 1], observation_size=37)))
    rows = load_dataset(DOUBLE, DOWNLOAD, tmp_path)
    assert rows.rewards.tolist() == [-2, -1, -1, 0, -2]
    assert rows.masks.tolist() == [1, 1, 1, 0, 1]


def test_memory_stays_near_the_result(tmp_path):
    """264 bytes a row, where the result alone takes 177: 1M rows of cube-double never need 400 MB."""
    count = 60_000
    terminals = np.zeros(count, bool)
    terminals[999::1000] = True
    content = {
        "observations": np.zeros((count, 37), np.float32),
        "actions": np.zeros((count, 5), np.float32),
        "terminals": terminals,
        "qpos": np.zeros((count, 28), np.float32),
    }
    record(tmp_path, DOUBLE, npz(content))
    load_dataset(DOUBLE, DOWNLOAD, tmp_path)  # the simulator that judges is made once
    tracemalloc.start()
    rows = load_dataset(DOUBLE, DOWNLOAD, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows.rewards) == count - 60
    assert peak / count < 280


def with_entry(value: float):
    def poke(column: np.ndarray) -> np.ndarray:
        column[5, 1] = value
        return column

    return poke


def with_double(value: float):
    return lambda column: with_entry(value)(column.astype(np.float64))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed("observations", lambda o: o[:, :27]), "'observations' has shape (7, 27), wanted (7, 28)"),
        (changed("actions", lambda a: a[:, :4]), "'actions' has shape (7, 4), wanted (7, 5)"),
        (changed("qpos", lambda q: q[:, :20]), "'qpos' has shape (7, 20), wanted (7, 21)"),
        (changed("actions", lambda a: a[:6]), "'actions' has shape (6, 5), wanted (7, 5)"),
        (changed("terminals", lambda t: t[:4]), "'qpos' has shape (7, 21), wanted (4, 21)"),
        (
            changed("observations", with_entry(np.nan)),
            "'observations' holds nan in row 5; wanted numbers finite",
        ),
        (changed("actions", with_entry(np.inf)), "'actions' holds inf in row 5; wanted numbers finite in float32"),
        (changed("qpos", with_entry(-np.inf)), "'qpos' holds -inf in row 5; wanted numbers finite in float32"),
        (changed("observations", with_double(1e39)), "'observations' holds 1e+39 in row 5; wanted numbers finite"),
        (
            changed("actions", with_entry(-1.001)),
            "'actions' leaves its range, -1 to 1, first in row 5; rescale",
        ),
        (changed("terminals", lambda t: np.stack([t, t], 1)), "'terminals' has shape (7, 2), wanted (any,)"),
        (changed("terminals", lambda t: t & False), "'terminals' does not end with the end of an episode"),
        (changed("terminals", lambda t: t[:6]), "'terminals' does not end with the end of an episode"),
        (changed("terminals", lambda t: t[:0]), "'terminals' does not end with the end of an episode"),
        (changed("terminals", lambda t: t * 2), "'terminals' holds 2 in row 3; allowed: 0 and 1"),
        (changed("terminals", lambda t: t | [0, 0, 0, 0, 1, 0, 0]), "the episode that ends at row 4 has no transition"),
        (changed("actions", lambda a: a.astype(str)), "'actions' has type <U32, wanted numbers"),
        (npz({k: v for k, v in small().items() if k != "qpos"}), "'qpos' is missing; found: observations, actions"),
        (npz(small())[:-200], "not a whole npz file (File is not a zip file)"),
        (npz(small())[:400] + b"?" + npz(small())[401:], "not a whole npz file"),
        (b"<html>login</html>", "not a whole npz file"),
        (b"", "not a whole npz file"),
        (changed("actions", lambda a: a.astype(object)), "not a whole npz file (Object arrays cannot be loaded"),
    ],
)
def test_bad_content_is_refused_by_name(tmp_path, content, message):
    file = record(tmp_path, CUBE, content)
    with pytest.raises(DataError, match=re.escape(f"{file}: {message}")) as caught:
        load_dataset(CUBE, DOWNLOAD, tmp_path)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == content


def test_bad_content_is_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    record(tmp_path, CUBE, changed("observations", lambda o: np.array([Trap()] * len(o), object)))
    with pytest.raises(DataError, match="Object arrays cannot be loaded"):
        load_dataset(CUBE, DOWNLOAD, tmp_path)


MEMORY = "takes more memory than there is (Unable to allocate 1.2 GiB); allow more or, if its header is damaged, delete"


@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (OSError(errno.EMFILE, "Too many open files"), OSError, "Too many open files"),
        (OSError(errno.EIO, "Input/output error"), OSError, "Input/output error"),
        (MemoryError("Unable to allocate 1.2 GiB"), DataError, MEMORY),
        # zipfile goes to where a damaged archive says that a column begins.
        (OSError(errno.EINVAL, "Invalid argument"), DamagedError, "not a whole npz file ([Errno 22] Invalid argument)"),
        (zlib.error("Error -3"), DamagedError, "not a whole npz file (Error -3); delete it, then run `dfp data"),
    ],
)
def test_only_what_is_wrong_with_its_bytes_is_damage_of_a_file(tmp_path, monkeypatch, error, kind, line):
    file = record(tmp_path, CUBE, npz(small()))

    def fail(archive, name):
        raise error

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", fail)
    with pytest.raises((OSError, DataError)) as caught:
        suite_of(CUBE).read_transitions(file, CUBE)
    assert type(caught.value) is kind
    assert one_line(caught.value).startswith(f"{file}: {line}")


def test_a_simulator_that_cannot_be_made_is_no_damage_of_a_file(tmp_path, monkeypatch):
    file = record(tmp_path, CUBE, npz(small()))

    def fail(task):
        raise ValueError("mujoco: Error opening file 'arm.xml'")

    monkeypatch.setattr(environment, "_judge", fail)
    with pytest.raises(ValueError, match=r"^mujoco: Error opening file 'arm\.xml'$"):
        suite_of(CUBE).read_transitions(file, CUBE)


def test_a_file_other_than_the_recorded_one_is_refused(tmp_path):
    file = record(tmp_path, CUBE, npz(small()))
    other = changed("actions", lambda a: a + 1e-3)
    other = other[: file.stat().st_size].ljust(file.stat().st_size, b"\0")
    file.write_bytes(other)
    with pytest.raises(DataError, match=r"0\.npz: .*\(sha256 \w{12}\.\.\., recorded"):
        load_dataset(CUBE, DOWNLOAD, tmp_path)
    file.write_bytes(other[:-1])
    for use in (load_dataset, lambda *where: prepare_dataset(*where, 1)):
        with pytest.raises(DataError, match=r"0\.npz: .*\(\d+ bytes, recorded \d+\)"):
            use(CUBE, DOWNLOAD, tmp_path)
    assert file.read_bytes() == other[:-1]
    file.unlink()
    with pytest.raises(DataError, match=r"0\.npz: .*`dfp data cube-single-task2 --config"):
        load_dataset(CUBE, DOWNLOAD, tmp_path)


def test_a_folder_without_manifest_is_no_dataset(tmp_path):
    file = record(tmp_path, CUBE, npz(small()))
    file.with_name("manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json: .*`dfp data cube-single-task2"):
        load_dataset(CUBE, DOWNLOAD, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], "Invalid JSON"),
        (
            lambda text: text.replace('"source"', '"seeds": 1, "source"'),
            "unknown key 'seeds'; allowed: dataset, env_args",
        ),
        (lambda text: text.replace("cube-single-play-v0", "scene-play-v0"), "describes 'scene-play-v0', wanted 'cube-"),
    ],
)
def test_a_bad_manifest_is_refused(tmp_path, change, message):
    record(tmp_path, CUBE, npz(small()))
    path = manifest_path(CUBE, DOWNLOAD, tmp_path)
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=re.escape(f"{path}: ") + ".*" + message) as caught:
        load_dataset(CUBE, DOWNLOAD, tmp_path)
    assert "\n" not in str(caught.value)


def test_places(tmp_path):
    recorded = DataSpec(source="generate", episodes=12, seed=3)
    assert manifest_path(CUBE, DOWNLOAD, tmp_path) == tmp_path / "download/cube-single-play-v0/manifest.json"
    folder = "generate/cube-single-play-v0-12x1000-seed3-v1"
    assert manifest_path(CUBE, recorded, tmp_path) == tmp_path / folder / "manifest.json"
    assert file_names("cube-quadruple-play-100m-v0", 100)[::99] == [
        "cube-quadruple-play-v0-000.npz",
        "cube-quadruple-play-v0-099.npz",
    ]


def test_a_failed_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")

    def fail() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(NotADirectoryError) as error:
        prepare_dataset(CUBE, DOWNLOAD, tmp_path / "data", 1)
    assert error.value.filename.startswith(str(tmp_path / "data" / "download"))
