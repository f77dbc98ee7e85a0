"""``dfp run play``: episodes of a saved policy as a film."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dfp.files import replacing
from dfp.policies.evaluate import episode_seeds, player
from dfp.policies.policy import Policy
from dfp.spec import ConfigError
from dfp.tasks import Step, View

log = logging.getLogger("dfp")

HELD_S = 0.7  # seconds for which the last frame of an episode is shown
QUALITY = 8  # of 10, ffmpeg's variable bit rate


class Played(NamedTuple):
    """The outcome of one episode."""

    success: bool
    steps: int  #: environment steps
    frames: int


def play(policy: Policy, view: View, episodes: int, seed: int, file: Path) -> list[Played]:
    """Write ``episodes`` (> 0), one after the other, to an mp4 file. Their starts are those of ``evaluate``.

    Args:
      seed: of the starts and of the policy's noise (>= 0).

    Raises:
      ConfigError: the extra ``video`` is not installed, the file is not an ``.mp4``, or ffmpeg cannot write it.
    """
    imageio, ffmpeg = _packages(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    played = []
    with replacing(file, ending="mp4") as unfinished:
        with _film(imageio, unfinished, view.rate) as show:
            for number, start in enumerate(episode_seeds(seed, episodes)):
                played.append(_episode(policy, view, number, start, seed, show))
                result = "success" if played[-1].success else "no success"
                log.info(f"episode {number}: {result} after {played[-1].steps} steps")
        if _frames(ffmpeg, unfinished) != sum(one.frames for one in played):
            raise _unwritten(unfinished)
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


def _packages(file: Path) -> tuple[Any, Any]:
    """The package that writes films, and the one that counts their frames."""
    if file.suffix != ".mp4":
        raise ConfigError(f"{file}: a film is an mp4 file; give it a name that ends with .mp4")
    try:
        return importlib.import_module("imageio.v2"), importlib.import_module("imageio_ffmpeg")
    except ModuleNotFoundError as error:
        raise ConfigError(f"package '{error.name}': not installed; films need `uv sync --extra video`") from None


@contextlib.contextmanager
def _film(imageio: Any, file: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends a frame to ``file``. JAX warns that ffmpeg is forked; the child does not use JAX."""
    settings = {"fps": rate, "quality": QUALITY, "macro_block_size": 2}
    try:
        with (
            warnings.catch_warnings(),
            imageio.get_writer(file, format="FFMPEG", ffmpeg_log_level="quiet", **settings) as writer,
        ):
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            yield writer.append_data
    except OSError as error:
        if error.errno is not None:
            raise
        raise _unwritten(file) from None  # ffmpeg ended early


def _frames(ffmpeg: Any, file: Path) -> int:
    """Frames of the film; 0 if it is not a film, because ffmpeg may end early without an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
        try:
            return ffmpeg.count_frames_and_secs(str(file))[0]
        except RuntimeError:
            return 0


def _unwritten(file: Path) -> Exception:
    """Why ffmpeg could not write ``file``. ffmpeg does not say, so this tries to write a little more."""
    try:
        with file.open("ab", buffering=0) as stream:
            stream.write(bytes(1 << 16))
            os.fsync(stream.fileno())
    except OSError as error:
        return error
    return ConfigError(f"{file}: ffmpeg could not write the film")
