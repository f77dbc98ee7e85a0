"""Damaged files of every format that is read: the same data, or one line; never a traceback of another kind."""

import json

import pytest
from support.damage import COUNT, damaged
from support.helpers import CUBE, DOWNLOAD, npz, record, small

from dfp.errors import DfpError
from dfp.tasks import Dataset, load_dataset, manifest_path, suite_of
from dfp.tasks.manifest import read_manifest


def equal(ours: Dataset, theirs: Dataset) -> bool:
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True))


def outcome(read, wanted) -> str:
    """``same``, ``refused``, or what should not be: other data, or an error of several lines."""
    try:
        found = read()
    except DfpError as error:
        return "refused" if "\n" not in str(error) else str(error)
    return "same" if equal(found, wanted) else "other data"


def test_npz(tmp_path):
    """Without the manifest's SHA-256: the CRC of each column tells other data."""
    content = npz(small())
    file = tmp_path / "0.npz"
    file.write_bytes(content)
    suite = suite_of(CUBE)
    wanted = suite.read_transitions(file, CUBE)
    outcomes = []
    for data in damaged(content, seed=0):
        file.write_bytes(data)
        outcomes.append(outcome(lambda: suite.read_transitions(file, CUBE), wanted))
    assert set(outcomes) == {"same", "refused"}
    assert outcomes.count("refused") > 0.7 * COUNT  # the rest hit what no reader uses, such as dates


def test_a_recorded_file_that_is_damaged_is_always_refused(tmp_path):
    content = npz(small())
    file = record(tmp_path, CUBE, content)
    for data in damaged(content, seed=1):
        file.write_bytes(data)
        if data != content:
            with pytest.raises(DfpError, match="not the file its manifest records"):
                load_dataset(CUBE, DOWNLOAD, tmp_path)


def test_manifest(tmp_path):
    record(tmp_path, CUBE, npz(small()))
    path = manifest_path(CUBE, DOWNLOAD, tmp_path)
    content, wanted = path.read_bytes(), load_dataset(CUBE, DOWNLOAD, tmp_path)
    before = read_manifest(path, CUBE)
    outcomes = []
    for data in damaged(content, seed=2):
        path.write_bytes(data)
        outcomes.append(outcome(lambda: load_dataset(CUBE, DOWNLOAD, tmp_path), wanted))
        if outcomes[-1] == "same":
            assert read_manifest(path, CUBE).rows == before.rows
    assert set(outcomes) == {"same", "refused"}
    assert outcomes.count("refused") > 0.7 * COUNT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 6}, "'rows' is 6, but the rows of 'files' add up to 5"),
        ({"files": []}, "'files'"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path, change, message):
    record(tmp_path, CUBE, npz(small()))
    path = manifest_path(CUBE, DOWNLOAD, tmp_path)
    manifest = read_manifest(path, CUBE).model_dump()
    path.write_text(json.dumps(manifest | change))
    with pytest.raises(DfpError, match=message):
        load_dataset(CUBE, DOWNLOAD, tmp_path)
