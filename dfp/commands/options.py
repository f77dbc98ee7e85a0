"""Options that several commands share, and what a command does before JAX is imported."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from dfp.errors import ConfigError
from dfp.files import expanded
from dfp.shipped import CATALOGUE

DEFAULT_CONFIG = Path("config/config.yaml")
MAX_SEED = 2**31 - 1  # as in a configuration; its schema is not imported for help


def _path(text: str) -> Path:
    """A path with ``~`` expanded, which the shell does not do in ``--results-dir=~/results``."""
    try:
        return Path(expanded(str(text)))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _holds_path(kind: Any) -> bool:
    """Whether a type is a path, or made of it: ``list[Path] | None``."""
    return kind is Path or any(map(_holds_path, get_args(kind)))


class _Commands(typer.Typer):
    """A group of commands whose paths are read by :func:`_path`."""

    def command(self, *args: Any, **settings: Any) -> Any:
        register = super().command(*args, **settings)

        def with_paths(function: Callable[..., None]) -> Callable[..., None]:
            for name, hint in get_type_hints(function, include_extras=True).items():
                kind, *info = get_args(hint) or (None,)
                if info and _holds_path(kind) and info[0].parser is None:
                    info[0].parser = _path
                    info[0].metavar = "PATH" if isinstance(info[0], OptionInfo) else name.upper()
            return register(function)

        return with_paths


def _config(text: str) -> Path:
    """The file itself, or the one that comes with the package: ``config/smoke.yaml`` works in an empty folder too."""
    path = _path(text)
    shipped = CATALOGUE / path.name
    return shipped if path.parent == Path("config") and shipped.is_file() and not path.exists() else path


ConfigOption = Annotated[Path, typer.Option("--config", help="Configuration file.", parser=_config, metavar="PATH")]
ResultsOption = Annotated[Path, typer.Option("--results-dir", help="Folder with runs.csv and the run folders.")]
ResultsPlaceOption = Annotated[Path | None, typer.Option("--results-dir", help="Default: the configuration's.")]
PartialOption = Annotated[bool, typer.Option("--partial", help="Show what has finished; say how much is missing.")]
SpecOption = Annotated[str | None, typer.Option("--spec", help="The run as canonical JSON, instead of a cell.")]
TaskOption = Annotated[str | None, typer.Option("--task", help="Task key.")]
MethodOption = Annotated[str | None, typer.Option("--method", help="Method key, from config/methods.yaml.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, max=MAX_SEED, help="Seed.")]
RunDirOption = Annotated[Path | None, typer.Option("--run-dir", help="Default: the run's place in the results.")]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="Default: the configuration's.")]
CheckpointOption = Annotated[
    float,
    typer.Option("--checkpoint-minutes", min=0.0, envvar="DFP_CHECKPOINT_MINUTES", help="Minutes between checkpoints."),
]
TimeLimitOption = Annotated[
    float | None, typer.Option("--time-limit", min=0.0, help="Minutes after which to save and exit with code 75.")
]
SizeOption = Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT in pixels, even. Default: 480x480.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="CPU cores to use; default: all.")]
AllowCpuOption = Annotated[bool, typer.Option("--allow-cpu", help="Train on a CPU however long it takes.")]


def echo_paths(paths: Iterable[Path]) -> None:
    """Print the path of each file that was written."""
    for path in paths:
        typer.echo(path)


def refuse_repeats(option: str, values: list[str]) -> list[str]:
    """``values``, of a repeatable option or a list with commas; :class:`ConfigError` if one is given twice."""
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ConfigError(f"{option}: '{value}' is given twice; name it once")
    return values


def group() -> typer.Typer:
    """An empty group of commands. Its help is plain text, which is short and quick to print."""
    return _Commands(add_completion=False, rich_markup_mode=None)


def expect_gpu() -> None:
    """In a SLURM job with a GPU, let JAX use a GPU only, so that a broken driver is an error and not a slow run.

    Call it before JAX is imported. If ``JAX_PLATFORMS`` is set already, it stays.
    """
    if os.environ.get("SLURM_JOB_GPUS") or os.environ.get("SLURM_STEP_GPUS"):
        os.environ.setdefault("JAX_PLATFORMS", "cuda")


def prepare_xla(threads: int | None) -> None:
    """Set the flags of XLA. Call it before JAX is used. Flags that are set already stay.

    A job must not use the cores of its neighbours. By default XLA uses half of the width of a CPU's widest vectors, and
    an update of the paper's size then takes 2 % longer.
    """
    flags = ["--xla_cpu_prefer_vector_width=512"]
    if threads is not None:
        flags.append(f"--xla_cpu_multi_thread_eigen={'false' if threads == 1 else 'true'}")
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()


def parsed_size(size: str | None) -> tuple[int, int] | None:
    """Width and height in pixels. The format of a film needs even numbers. Raises :class:`ConfigError` for others."""
    if size is None:
        return None
    numbers = size.split("x")
    if len(numbers) != 2 or not all(
        number.isdecimal() and int(number) > 0 and int(number) % 2 == 0 for number in numbers
    ):
        raise ConfigError(f"--size: '{size}'; wanted WIDTHxHEIGHT, even numbers, such as 640x480")
    return int(numbers[0]), int(numbers[1])
