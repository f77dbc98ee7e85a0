"""What every task suite provides: environments, datasets, views, and the :class:`Suite` that makes them.

Legend: ``S`` width of a state, ``A`` width of an action, ``N`` transitions, ``E`` stored episodes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

from dfp.errors import DfpError
from dfp.spec import ConfigError, DataSpec, TaskSpec

ACTION_LIMIT = 1 - 1e-5  # as in the authors' release: a policy that squashes with tanh never sees a saturated action


class DataError(DfpError):
    """Bad data: one line that names the file, what is wrong with it and what to do."""


class DamagedError(DataError):
    """The file is not a whole file of its format."""


class Step(NamedTuple):
    """What one action led to."""

    observation: np.ndarray  #: [S] float32, the state after the action
    reward: float
    terminated: bool  #: the task itself ended: it was solved, or can no longer be solved
    truncated: bool  #: the episode cap was reached
    success: bool


class Environment(Protocol):
    """One episodic environment; every episode is a pure function of its seed and the actions."""

    def reset(self, seed: int) -> np.ndarray:
        """Begin the episode that belongs to ``seed`` (>= 0); its first state, [S] float32."""
        ...

    def step(self, action: np.ndarray) -> Step:
        """Act once. ``action`` is [A] with entries in [-1, 1]."""
        ...

    def sibling(self) -> Environment:
        """Another environment of the same task, for use in the same thread. The two may share what does not change."""
        ...

    def close(self) -> None:
        """Free the simulator. The environment cannot be used afterwards."""
        ...


class View(Protocol):
    """An environment and a camera that looks at it."""

    rate: float  #: steps per second of the world shown

    @property
    def environment(self) -> Environment: ...

    def frame(self) -> np.ndarray:
        """The current picture, ``[height, width, 3]`` uint8."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Dataset(NamedTuple):
    """Recorded transitions, each state stored once.

    The state after transition ``t`` is ``observations[t + 1]``, except where ``terminals[t]``: there it is
    ``final_observations[k]``, with ``k`` the number of terminals before ``t``.
    """

    observations: np.ndarray  #: [N, S] float32, the state before each action
    actions: np.ndarray  #: [N, A] float32, inside (-1, 1)
    rewards: np.ndarray  #: [N] float32
    masks: np.ndarray  #: [N] float32, 0 where the task itself ended (success), else 1
    terminals: np.ndarray  #: [N] bool, the last transition of a stored episode, for any reason
    final_observations: np.ndarray  #: [E, S] float32, the state after each terminal transition, in order


class Origin(NamedTuple):
    """Where the files of a dataset are published, and what they are called here."""

    place: str  #: address of the file or folder; "" if it is published nowhere
    urls: dict[str, str]  #: address by file name, in the order of rotation; "" for a file that is copied by hand


class Recording(NamedTuple):
    """What :meth:`Suite.generate` recorded."""

    names: list[str]  #: of the files, in the order of their rotation
    facts: dict[str, Any]  #: further fields of the manifest


class Reproduction(NamedTuple):
    """The outcome of playing the actions of recorded demonstrations again."""

    task: str
    demonstrations: int  #: played
    recorded: int  #: of these, how many succeeded when they were recorded
    reproduced: int  #: of these, how many succeeded again
    exact: int  #: demonstrations whose states were reproduced bit for bit

    @property
    def passed(self) -> bool:
        """Whether at least half of the recorded successes, of at least one, were reproduced.

        The actions are played open loop. A grasp that nearly failed may therefore fail if any bit differs. Under
        another simulator or controller almost no demonstration succeeds.
        """
        return self.reproduced >= 0.5 * self.recorded > 0

    def summary(self) -> str:
        """One line."""
        counts = f"{self.reproduced} of {self.recorded} successes again, {self.exact} of {self.demonstrations} exactly"
        meaning = "as recorded" if self.passed else "another simulator than the recording one, or another controller"
        return f"{self.task}: {'passed' if self.passed else 'FAILED'}: {counts}: {meaning}"


class Suite(Protocol):
    """A family of tasks that share a simulator and a file format.

    A suite must have ``mirror`` and four methods: ``make_environment``, ``read_transitions``, ``versions`` and
    ``origin``. The other members have a default. Importing the module of a suite loads no simulator; its methods do.
    """

    mirror: ClassVar[str]  #: the environment variable that names another server for its files
    extra: ClassVar[str | None] = None  #: the extra of this package that installs its simulator
    draws_itself: ClassVar[bool] = False  #: frames are the environment's own: camera and size cannot be chosen
    replays: ClassVar[bool] = False  #: its files hold what recorded actions need to be played again
    judges_rewards: ClassVar[bool] = False  #: reading computes its rewards, which are integers from -128 to 127
    bytes_per_number: ClassVar[int] = 10  #: bytes of a file per transition and entry of a state; an upper estimate

    def make_environment(self, task: TaskSpec) -> Environment:
        """See :func:`dfp.tasks.make_environment`."""
        ...

    def read_transitions(self, file: Path, task: TaskSpec, rewards: np.ndarray | None = None) -> Dataset:
        """The transitions of one file with the rewards of ``task``, each state in memory once.

        Args:
          rewards: [N], from an earlier reading of the same file; given only if :attr:`judges_rewards`.

        Raises:
          DataError: the file is damaged, belongs to another environment, or holds no dataset.
        """
        ...

    def versions(self, task: TaskSpec) -> dict[str, str]:
        """Installed versions of the packages that can change an episode, by package."""
        ...

    def origin(self, task: TaskSpec, mirror: str) -> Origin:
        """Where the files are. ``mirror``: the address that replaces the publisher's, or "" for the publisher's."""
        ...

    def prepare_reading(self, task: TaskSpec) -> None:
        """Make what reading needs of a simulator, in the caller's thread, because another thread may read the files."""

    def env_args(self, task: TaskSpec, file: Path) -> dict[str, Any] | None:
        """The settings of the environment that a file was recorded in; None if the format does not hold them."""
        return None

    def episode_steps(self, task: TaskSpec) -> int:
        """The most transitions that a generated episode has."""
        return task.max_episode_steps

    def generated_folder(self, task: TaskSpec, data: DataSpec) -> str:
        """Name of the folder of a generated dataset, which is another one for every dataset and ``data``."""
        return f"{task.dataset}-{data.episodes}-seed{data.seed}-v{data.version}"

    def generate(self, task: TaskSpec, data: DataSpec, folder: Path, processes: int) -> Recording:
        """Record what is missing in ``folder`` of ``data.episodes`` episodes.

        Raises:
          ConfigError: nothing records this dataset, or the simulator has another version than the suite requires.
          DataError: a recording process died.
        """
        raise ConfigError(
            f"task '{task.key}': no expert records data of suite '{task.suite}'; allowed: source 'download'"
        )

    def open_view(self, task: TaskSpec, camera: str | None, size: tuple[int, int] | None) -> View:
        """See :func:`dfp.tasks.open_view`."""
        raise ConfigError(f"task '{task.key}': suite '{task.suite}' draws no pictures")

    def reproduce(self, task: TaskSpec, file: Path, count: int | None) -> Reproduction:
        """See :func:`dfp.tasks.check`; called only if :attr:`replays`."""
        raise AssertionError("a suite that `replays` has its own")
