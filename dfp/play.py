"""``python -m dfp play``: episodes of a saved policy as a film."""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dfp.measure import episode_seeds, player
from dfp.policy import Policy
from dfp.spec import ConfigError
from dfp.tasks import Step
from dfp.tasks.rendering import View

HELD_S = 0.7  # seconds for which an episode's last frame stays
QUALITY = 8  # of 10, ffmpeg's variable bit rate


class Played(NamedTuple):
    """What became of one episode."""

    success: bool
    steps: int  # environment steps
    frames: int


def play(
    policy: Policy, view: View, episodes: int, seed: int, file: Path, report: Callable[[str], None]
) -> list[Played]:
    """Write ``episodes`` (> 0), one after the other, to an mp4 file; they start as those that ``evaluate`` counts.

    The file takes its name once it is whole.

    Args:
      seed: picks their starts and the policy's noise (>= 0).
      report: called with one line per episode.

    Raises:
      ConfigError: the packages of the extra ``video`` are not installed, or the file is no ``.mp4``.
    """
    film_of = _writer(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.stem}.unfinished.mp4")
    played = []
    try:
        with film_of(unfinished, view.rate) as show:
            for number, start in enumerate(episode_seeds(seed, episodes)):
                played.append(_episode(policy, view, number, start, seed, show))
                result = "success" if played[-1].success else "no success"
                report(f"episode {number}: {result} after {played[-1].steps} steps")
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
    return played


def _episode(
    policy: Policy, view: View, number: int, start: int, seed: int, show: Callable[[np.ndarray], None]
) -> Played:
    observation = view.environment.reset(start)
    frame = view.frame()
    show(frame)
    steps: list[Step] = []
    for step in _steps(policy, view, observation, number, seed):
        steps.append(step)
        frame = view.frame()
        show(frame)
    held = round(HELD_S * view.rate)
    for _ in range(held):
        show(frame)
    return Played(steps[-1].success, len(steps), 1 + len(steps) + held)


def _steps(policy: Policy, view: View, observation: np.ndarray, number: int, seed: int) -> Iterator[Step]:
    """An episode's steps up to its end, in chunks of actions."""
    choose = player(policy, seed)
    for chunk in itertools.count():
        for action in choose(observation[None], np.array([number]), np.array([chunk]))[0]:
            step = view.environment.step(action)
            yield step
            if step.terminated or step.truncated:
                return
            observation = step.observation


def _writer(file: Path) -> Callable[[Path, float], contextlib.AbstractContextManager[Callable[[np.ndarray], None]]]:
    if file.suffix != ".mp4":
        raise ConfigError(f"{file}: a film is an mp4 file; give it a name that ends with .mp4")
    try:
        imageio = importlib.import_module("imageio.v2")
        importlib.import_module("imageio_ffmpeg")
    except ModuleNotFoundError as error:
        raise ConfigError(f"package '{error.name}': not installed; films need `uv sync --extra video`") from None

    return functools.partial(_film, imageio)


@contextlib.contextmanager
def _film(imageio: Any, file: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """What appends a frame to ``file``. ffmpeg is started by a fork, which JAX warns of; the child runs none of it."""
    with (
        warnings.catch_warnings(),
        imageio.get_writer(file, format="FFMPEG", fps=rate, quality=QUALITY, macro_block_size=2) as writer,
    ):
        warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
        yield writer.append_data
