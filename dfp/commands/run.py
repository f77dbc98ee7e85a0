"""``run``: what one run is, what became of it, and what its policy does."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from dfp.commands.options import (
    DEFAULT_CONFIG,
    MAX_SEED,
    ConfigOption,
    MethodOption,
    SeedOption,
    SizeOption,
    TaskOption,
    ThreadsOption,
    group,
    parsed_size,
    prepare_xla,
)  # fmt: skip
from dfp.plan.catalogue import load_catalogue

app = group()

FolderArgument = Annotated[Path, typer.Argument(help="Folder of a run, finished or running.")]
StartsOption = Annotated[
    int, typer.Option("--seed", min=0, max=MAX_SEED, help="Picks the episodes' starts and the policy's noise.")
]
CameraOption = Annotated[str | None, typer.Option("--camera", help="A camera of the model. Default: a free one.")]


@app.command()
def show(
    folder: Annotated[Path | None, typer.Argument(help="Folder of a run, or name a cell by the options.")] = None,
    task: TaskOption = None, method: MethodOption = None, seed: SeedOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    stage: Annotated[str, typer.Option("--stage", help="The cell's: pretrain, finetune or offline.")] = "finetune",
) -> None:  # fmt: skip
    """The exact command of a run, every number of its spec, and where each comes from."""
    from dfp.commands.train import cell
    from dfp.plan.show import describe
    from dfp.runs.folder import read_run

    if folder is not None:
        run, command = read_run(folder)
    else:
        run, *_ = cell(config, task, method, seed, stage)
        named = ["--config", str(config), "--task", str(task), "--method", str(method), "--seed", str(seed)]
        command = shlex.join(["dfp", "train", stage, *named])
    typer.echo(describe(run, load_catalogue(), command))


@app.command()
def evaluate(
    folder: FolderArgument,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="How many.")] = 100,
    seed: StartsOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Measure the success rate of a run's policy on new episodes, with its 95 % Wilson interval."""
    prepare_xla(threads)
    from dfp.policies import evaluate as evaluation
    from dfp.policies.policy import load_policy

    policy = load_policy(folder)
    found = evaluation.evaluate(policy, episodes, seed, threads)
    typer.echo(f"{folder}: {evaluation.summary(policy, found, seed)}")


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

    MUJOCO_GL chooses the renderer. Default: EGL, or OSMesa if EGL does not work.
    """
    prepare_xla(None)
    from dfp.tasks import open_view, rendering

    rendering.choose_context()  # before a simulator is imported
    from dfp.policies.film import play as film
    from dfp.policies.policy import load_policy
    from dfp.runs.console import lines_on_stderr

    policy = load_policy(folder)
    with lines_on_stderr(), open_view(policy.spec.task, camera, parsed_size(size)) as view:
        film(policy, view, episodes, seed, output)
    typer.echo(output)


@app.command()
def why(folder: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Show what became of a run: attempts, exit codes, SLURM's states, last lines of logs, and what to type next."""
    from dfp.ops.status.why import why as explain

    typer.echo(explain(folder))
