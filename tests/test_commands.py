"""The command line itself: its groups, its old names, its help, and how it starts."""

import subprocess
import sys

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from dfp.__main__ import GROUPS, RENAMED, app

RUNNER = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
ROOT = get_command(app)
CONTEXT = typer.Context(ROOT)


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_help_fits_a_screen(group):
    done = RUNNER.invoke(app, [*group.split(), "--help"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_every_old_name_is_a_command_of_its_new_group():
    assert set(RENAMED.values()) <= set(GROUPS)
    for name, group in RENAMED.items():
        assert name in ROOT.get_command(CONTEXT, group).commands  # pyright: ignore


@pytest.mark.parametrize("name", RENAMED)
def test_an_old_name_works_and_one_line_names_the_new_one(name):
    done = RUNNER.invoke(app, [name, "--help"])
    assert done.exit_code == 0
    assert done.stderr.splitlines() == [f"dfp: `dfp {name}` is now `dfp {RENAMED[name]} {name}`; the old name will go"]
    assert name not in ROOT.list_commands(CONTEXT)  # pyright: ignore


def test_help_loads_neither_numpy_nor_a_schema():
    code = "import sys; from dfp.__main__ import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"numpy", "jax", "pandas", "pydantic", "rich", "yaml"}


def test_the_shell_completes_groups_and_commands():
    def completed(line: str) -> str:
        given = {"_DFP_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        return RUNNER.invoke(app, [], prog_name="dfp", env=given).stdout

    assert completed("dfp r").split() == ["run", "report"]
    assert completed("dfp train p").split() == ["pretrain", "pack"]


def test_only_a_finetuning_starts_from_a_pretraining():
    done = RUNNER.invoke(app, ["train", "pretrain", "--pretrained", "folder"])
    assert "only 'finetune' has a pretraining" in str(done.exception)
