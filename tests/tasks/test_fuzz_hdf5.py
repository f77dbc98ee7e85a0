"""Damaged HDF5 files, as in ``test_fuzz.py``. They are skipped where h5py is not installed."""

from support.damage import COUNT, damaged
from support.robomimic_small import LIFT, small, store

from dfp.errors import DfpError
from dfp.tasks import suite_of


def test_hdf5(tmp_path):
    """HDF5 has no checksum by default, so that a flipped bit of a number passes here; the manifest's SHA-256 tells.

    Of 3,000 damages one (number 1650) makes libhdf5 loop for ever, in the text of ``env_args``.
    """
    content = store(tmp_path / "small.hdf5", small())
    file = tmp_path / "damaged.hdf5"
    suite, refused, read = suite_of(LIFT), 0, 0
    for data in damaged(content, seed=3):
        file.write_bytes(data)
        try:
            rows = suite.read_transitions(file, LIFT)
        except DfpError as error:
            refused += "\n" not in str(error)
        else:
            read += 1
            assert rows.observations.shape == (5, 19)
            assert abs(rows.actions).max() < 1
    assert refused + read == COUNT
    assert min(refused, read) > 50
