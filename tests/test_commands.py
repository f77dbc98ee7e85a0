"""The command line itself: its groups, its old names, its help, and how it starts."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from pydantic import TypeAdapter, ValidationError
from typer.main import get_command
from typer.testing import CliRunner

from dfp.__main__ import GROUPS, RENAMED, app
from dfp.commands.options import MAX_SEED
from dfp.shipped import SNAKEFILE
from dfp.spec import Seed

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


@pytest.mark.parametrize("command", ["train pretrain", "train finetune", "train offline", "run show", "run play x"])
@pytest.mark.parametrize("seed", ["-1", "2147483648", "true"])
def test_a_seed_is_one_that_every_simulator_takes(command, seed):
    done = RUNNER.invoke(app, [*command.split(), "--seed", seed])
    assert (done.exit_code, "Invalid value for '--seed'" in done.stderr) == (2, True)


def test_the_largest_seed_is_that_of_a_configuration():
    seed = TypeAdapter(Seed)
    assert seed.validate_python(MAX_SEED) == MAX_SEED
    with pytest.raises(ValidationError):
        seed.validate_python(MAX_SEED + 1)


def test_a_home_in_a_path_is_expanded_also_if_the_option_may_be_repeated():
    doctor = ROOT.get_command(CONTEXT, "ops").commands["doctor"]  # pyright: ignore
    given = doctor.make_context("doctor", ["--profile", "slurm", "--profile=~/site.yaml", "--config=~/c.yaml"]).params
    assert list(given["profile"]) == [Path("slurm"), Path.home() / "site.yaml"]
    assert given["config"] == Path.home() / "c.yaml"


class _Started(Exception):
    """In place of the process that Snakemake would have become."""


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ("--cores 1 -n", "--cores 1 -n"),
        ("--cores 1 all --configfile config/demo.yaml", "--cores 1 all --configfile {ROOT}/config/demo.yaml"),
        ("--configfile=config/demo.yaml --cores 1", "--configfile={ROOT}/config/demo.yaml --cores 1"),
        ("--configfile my.yaml -- all", "--configfile my.yaml -- all"),
        (
            "--profile workstation --config gpus=0,1 results_dir=slurm -- all",
            "--profile {ROOT}/workflow/profiles/workstation --config gpus=0,1 results_dir=slurm -- all",
        ),
        ("--profile=slurm all", "--profile={ROOT}/workflow/profiles/slurm all"),
        ("--executor slurm --jobs 5 all", "--executor slurm --jobs 5 all"),
        ("--configfile config/mine.yaml -n", "--configfile config/mine.yaml -n"),
    ],
)
def test_snakemake_gets_every_argument_as_it_was_given(monkeypatch, tmp_path, given, passed):
    """Except for the names of what comes with the package; nothing is added."""

    def start(program: str, command: list[str]) -> None:
        raise _Started(*command)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.execv", start)
    done = RUNNER.invoke(app, ["workflow", *given.split()])
    assert isinstance(done.exception, _Started)
    python, *command = done.exception.args
    assert python == sys.executable
    snakemake = f"-m snakemake --snakefile {{ROOT}}/Snakefile {passed}"
    assert " ".join(command) == snakemake.replace("{ROOT}", str(SNAKEFILE.parent))
