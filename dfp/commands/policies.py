"""``evaluate``, ``play``, ``gallery``: what a saved policy does, and what the tasks look like."""

from pathlib import Path
from typing import Annotated

import typer

from dfp.catalogue import load_catalogue, load_config
from dfp.commands.options import DEFAULT_CONFIG, ConfigOption, ThreadsOption, prepare_xla
from dfp.spec import ConfigError

app = typer.Typer()

FolderArgument = Annotated[Path, typer.Argument(help="Folder of a run, finished or running.")]
StartsOption = Annotated[int, typer.Option("--seed", min=0, help="Picks the episodes' starts and the policy's noise.")]
CameraOption = Annotated[str | None, typer.Option("--camera", help="Of the simulator's model; default: a free one.")]
SizeOption = Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT in pixels, even. Default: 480x480.")]


@app.command()
def evaluate(
    folder: FolderArgument,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="How many.")] = 100,
    seed: StartsOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """The success rate of a run's policy on fresh episodes, with its 95 % Wilson interval."""
    prepare_xla(threads)
    from dfp.measure import evaluate as measure
    from dfp.measure import verdict
    from dfp.policy import load_policy

    policy = load_policy(folder)
    typer.echo(f"{folder}: {verdict(policy, measure(policy, episodes, seed, threads), seed)}")


@app.command()
def play(
    folder: FolderArgument,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="How many.")] = 3,
    seed: StartsOption = 0,
    output: Annotated[Path, typer.Option("--output", help="The film.")] = Path("play.mp4"),
    camera: CameraOption = None,
    size: SizeOption = None,
) -> None:
    """Write a film of a run's policy: the first episodes that `evaluate` with the same seed counts.

    Draws with EGL, else with OSMesa; MUJOCO_GL chooses.
    """
    prepare_xla(None)
    from dfp.tasks import rendering

    rendering.choose_context()  # before a simulator is imported
    from dfp.play import play as film
    from dfp.policy import load_policy

    def report(line: str) -> None:
        typer.echo(line, err=True)

    policy = load_policy(folder)
    with rendering.open_view(policy.spec.task, camera, _parsed(size)) as view:
        film(policy, view, episodes, seed, output, report)
    typer.echo(output)


@app.command()
def gallery(
    config: ConfigOption = DEFAULT_CONFIG,
    results_dir: Annotated[Path | None, typer.Option("--results-dir", help="Default: the configuration's.")] = None,
    size: SizeOption = None,
) -> None:
    """Draw the configuration's tasks at their start, for Figure 2."""
    from dfp.tasks import rendering

    rendering.choose_context()  # before a simulator is imported
    from dfp.gallery import render_gallery

    def report(line: str) -> None:
        typer.echo(line, err=True)

    settings = load_config(config)
    folder = results_dir or Path(settings.results_dir)
    typer.echo(render_gallery(settings, load_catalogue(), folder, _parsed(size), report))


def _parsed(size: str | None) -> tuple[int, int] | None:
    """Width and height; the film's format wants them even."""
    if size is None:
        return None
    numbers = size.split("x")
    if len(numbers) != 2 or not all(
        number.isdecimal() and int(number) > 0 and int(number) % 2 == 0 for number in numbers
    ):
        raise ConfigError(f"--size: '{size}'; wanted WIDTHxHEIGHT, even numbers, such as 640x480")
    return int(numbers[0]), int(numbers[1])
