"""Exit codes: every error of the program's carries its own, and what is wrong with a path is one line."""

import errno
import subprocess
import sys

import pytest

from dfp import errors
from dfp.runs.checkpoint import CheckpointError
from dfp.runs.layout import RunFolderError, require_files
from dfp.spec import ConfigError
from dfp.tasks import DataError
from dfp.training.session import TrainingError, Unfinished


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (DataError("x"), 2),
        (CheckpointError("x"), 2),
        (RunFolderError("x"), 2),
        (TrainingError("x"), 3),
        (Unfinished("x"), 75),
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "No space left on device"), 75),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2),
        (OSError(errno.EROFS, "Read-only file system", "x"), 2),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "x"), 2),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), 2),
        (OSError(errno.EFBIG, "File too large", "x"), 2),
        (OSError(errno.EACCES, "Permission denied"), None),  # of no path: nobody could say what to change
        (ValueError("x"), None),
    ],
)
def test_an_error_carries_its_exit_code(error, code):
    assert errors.exit_code(error) == code


def test_a_subclass_of_an_error_ends_with_the_code_of_its_class():
    class Refused(ConfigError):
        exit_code = errors.FAILED_CHECK

    assert errors.exit_code(Refused("x")) == 4


def test_the_line_of_a_path_names_it():
    assert errors.one_line(PermissionError(errno.EACCES, "Permission denied", "a/b")) == "a/b: Permission denied"
    renamed = OSError(errno.EISDIR, "Is a directory", "a/.b.part", None, "a/b")
    assert errors.one_line(renamed) == "a/b: a folder is in the place of a file; move it away"


def test_a_file_for_a_folder_and_a_folder_for_a_file_are_named(tmp_path):
    require_files(tmp_path / "none" / "yet")
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"file: a file is in the place of a folder"):
        require_files(tmp_path / "file" / "seed0")
    (tmp_path / "checkpoint-1.npz").mkdir()
    with pytest.raises(RunFolderError, match=r"checkpoint-1\.npz: a folder is in the place of a file"):
        require_files(tmp_path)


def test_a_path_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "runs.csv").mkdir()
    command = [sys.executable, "-m", "dfp", "ops", "status", "--results-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert done.stderr == f"dfp: {tmp_path / 'runs.csv'}: a folder is in the place of a file; move it away\n"
