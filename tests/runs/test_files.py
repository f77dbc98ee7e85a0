"""Text and paths as users have them, and errors of the system that name the file."""

import errno
import os
import resource
import subprocess
import sys

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from dfp.__main__ import GROUPS, app
from dfp.commands.options import _path
from dfp.errors import ConfigError, exit_code, one_line
from dfp.files import json_object, naming, read_text, replacing, write_atomically
from dfp.plan.run_table import read_strings, read_table
from dfp.runs.console import table_console
from dfp.runs.layout import read_object

RUNNER = CliRunner()
MARK = b"\xef\xbb\xbf"  # what some editors write before the first letter


def test_a_mark_and_windows_line_ends_change_nothing(tmp_path):
    (tmp_path / "a.csv").write_bytes(MARK + "method,ms\r\nμ,2\r\n".encode())
    assert read_strings(tmp_path / "a.csv").to_dict("list") == {"method": ["μ"], "ms": ["2"]}
    (tmp_path / "a.json").write_bytes(MARK + b'{\r\n"step": 2}\r\n')
    assert json_object(tmp_path / "a.json") == read_object(tmp_path / "a.json") == {"step": 2}


def test_text_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes("mü".encode("latin-1"))
    for read in (read_text, read_strings, json_object):
        with pytest.raises(ConfigError, match=r"a\.csv: not UTF-8 text \(byte 2\)"):
            read(tmp_path / "a.csv")
    assert read_object(tmp_path / "a.csv") == {}
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"deep\.json: not JSON"):
        json_object(tmp_path / "deep.json")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_constant_that_json_does_not_have_is_named(tmp_path, constant):
    (tmp_path / "run.json").write_text(f'{{"spec": {{"seed": {constant}}}}}')
    with pytest.raises(ConfigError, match=rf"run\.json: not JSON: {constant} is not a number of JSON"):
        json_object(tmp_path / "run.json")


def test_a_column_twice_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("method,seed,ms,seed\ndfp,0,2,1\n")
    with pytest.raises(ConfigError, match=r"a\.csv: column 'seed' is there twice; allowed: each once$"):
        read_table(tmp_path / "a.csv", {"method": "str", "ms": "int64"})


def test_a_full_disk_names_the_file_and_leaves_what_was_there(tmp_path):
    """A limit on file sizes fails a write as a full disk does."""
    path = write_atomically(tmp_path / "a.csv", "old")
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            write_atomically(path, "long enough")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(path)
    assert exit_code(error.value) == 2
    assert one_line(error.value).startswith(f"{path}: larger than a file may be here")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.csv"]


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    def fail(name: str | None) -> OSError:
        with pytest.raises(OSError, match="space") as error, naming(tmp_path / "a"):
            raise OSError(errno.ENOSPC, "no space", name)
        return error.value

    assert fail(None).filename == fail(str(tmp_path / ".a.7.tmp")).filename == str(tmp_path / "a")
    assert fail("/elsewhere/b").filename == "/elsewhere/b"
    assert (
        one_line(fail(None))
        == f"{tmp_path / 'a'}: no space left on the disk; make room, then run the same command again"
    )


def test_a_file_in_the_place_of_a_folder_is_said_of_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as error, replacing(tmp_path / "file" / "a.csv") as temporary:
        temporary.touch()
    assert one_line(error.value).startswith(f"{tmp_path / 'file' / 'a.csv'}: a file is in the place of a folder")


def test_a_path_is_what_a_shell_makes_of_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("SCRATCH", "/big disk")
    monkeypatch.delenv("NOT_SET", raising=False)
    assert str(_path("~/a b")) == "/home/somebody/a b"
    assert str(_path("$SCRATCH/${HOME}")) == "/big disk/home/somebody"
    for text in ("", " ", "$NOT_SET/a", "${NOT_SET}", "~no-such-user/a"):
        with pytest.raises(ConfigError, match="is not a path"):
            _path(text)


def test_every_path_of_every_command_is_read_so():
    root = get_command(app)
    groups = [root.get_command(typer.Context(root), group) for group in GROUPS]  # pyright: ignore
    commands = [one for group in groups for one in getattr(group, "commands", {"": group}).values()]
    kinds = [parameter.type_descriptor for command in commands for parameter in command.params]  # pyright: ignore
    paths = [kind for kind in kinds if "Path" in str(kind.annotation)]
    assert len(commands) >= 30
    assert len(paths) >= 40
    assert all(path.parameter_info.parser is not None for path in paths)


@pytest.mark.parametrize(
    "command", ["report collect --results-dir", "run why", "ops status --html", "study page --folder"]
)
def test_a_variable_that_is_not_set_makes_no_folder_of_its_name(command):
    done = RUNNER.invoke(app, [*command.split(), "$NOT_SET/x"])
    assert (
        str(done.exception) == "'$NOT_SET/x' is not a path: it is empty, or names an unknown user or an unset variable"
    )


def test_a_terminal_that_has_no_such_letter_is_no_error(tmp_path):
    (tmp_path / "runs.csv").write_text("")
    command = [sys.executable, "-m", "dfp", "run", "show", "ü"]
    environment = os.environ | {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert (done.returncode, done.stderr) == (2, "dfp: \\xfc: no run was started here (run.json is missing)\n")


@pytest.mark.parametrize(("columns", "width"), [(20, 80), (100, 100)])
def test_a_narrow_terminal_makes_no_cell_of_a_table_vanish(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    assert table_console().width == width
