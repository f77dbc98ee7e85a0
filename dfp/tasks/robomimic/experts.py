"""Recording files like robomimic's multi-human ones with scripted operators, for machines without the published files.

A script sees the simulator's own state and decides where the hand should go. An :class:`Operator` decides how well the
hand gets there. There are six operators, two of each level of skill, with robomimic's names. Operator k mod 6 records
demonstration k. As in the human sets, only successes are kept, and a recording goes on for five successful steps.

The rows depend only on (task, seed, demonstration) and the simulator's version: demonstration k does not depend on the
number of processes, demonstrations or interruptions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from dfp.spec import DataSpec, TaskSpec
from dfp.tasks.interface import DataError, Recording
from dfp.tasks.manifest import Level, file_names
from dfp.tasks.recording import record_files
from dfp.tasks.robomimic import environment, files
from dfp.tasks.robomimic.environment import RobomimicEnvironment
from dfp.tasks.robomimic.files import Demonstration

HELD = 5  # successful steps in a row at the end of a recording, as in the multi-human sets
PATIENCE = 1.5  # a recording may be so many times as long as the episode cap, as some human recordings are
ATTEMPTS = 50  # attempts without a success after which the script must be broken
REACH = np.array([0.05, 0.05, 0.05, 0.5, 0.5, 0.5])  # metres and radians that an action of 1 asks for
GAIN = 1.5  # of a movement: the action for each REACH of distance to the place
OPEN, CLOSED = -1.0, 1.0
UP = np.array([0.0, 0.0, 1.0])


class Operator(NamedTuple):
    """How a scripted operator moves. Speed and tremor are shares of :data:`REACH` per step."""

    speed: float
    tremor: float  #: standard deviation of the hand's noise, correlated over some steps
    detours: float  #: needless stops on a way, on average
    wandering: float  #: metres by which such a stop is off the way
    rests: float  #: steps without a movement before a grasp or a release, on average
    misses: float  #: probability of closing the hand above the object first


OPERATORS = {
    "better_operator_1": Operator(speed=1.00, tremor=0.05, detours=0.0, wandering=0.00, rests=2, misses=0.00),
    "better_operator_2": Operator(speed=0.75, tremor=0.07, detours=0.2, wandering=0.03, rests=4, misses=0.00),
    "okay_operator_1": Operator(speed=0.55, tremor=0.10, detours=0.4, wandering=0.05, rests=8, misses=0.10),
    "okay_operator_2": Operator(speed=0.65, tremor=0.12, detours=0.6, wandering=0.06, rests=6, misses=0.15),
    "worse_operator_1": Operator(speed=0.50, tremor=0.14, detours=0.9, wandering=0.08, rests=10, misses=0.25),
    "worse_operator_2": Operator(speed=0.45, tremor=0.16, detours=1.0, wandering=0.10, rests=12, misses=0.30),
}


# --------------------------------------------------------------------------- recording


def generate(task: TaskSpec, data: DataSpec, folder: Path, processes: int) -> Recording:
    """Record what is missing in ``folder`` of ``data.episodes`` demonstrations.

    Raises:
      ConfigError: no such environment, or another simulator than ``dfp.tasks.robomimic.environment.SIMULATOR``.
      DataError: a recording process died, or a demonstration did not succeed in :data:`ATTEMPTS` attempts.
    """
    environment.make_environment(task).close()  # refuses a wrong task or simulator before anything starts
    assert data.episodes is not None  # DataSpec promises both for source 'generate'
    assert data.seed is not None
    (name,) = file_names(task.dataset, 1, "hdf5")
    record = functools.partial(_record_part, task, data.seed)
    record_files(folder, {name: range(data.episodes)}, record, functools.partial(_join, task), processes)
    attempts = files.read_attempts(folder / name, task)
    levels = {
        operator: Level(demonstrations=len(attempts[operator]), attempts=sum(attempts[operator]))
        for operator in OPERATORS
        if operator in attempts
    }
    return Recording([name], {"levels": levels})


def record_demonstration(task: TaskSpec, seed: int, number: int) -> Demonstration:
    """Demonstration ``number``: the first success of its operator. ``DataError`` after :data:`ATTEMPTS` failures."""
    operator = OPERATORS[_operator(number)]
    for attempts in range(1, ATTEMPTS + 1):
        demo = _attempt(_environment(task), task, operator, np.random.default_rng((seed, number, attempts)))
        if demo is not None:
            return demo._replace(attempts=attempts)
    raise DataError(f"task '{task.key}': demonstration {number} did not succeed in {ATTEMPTS} attempts")


def _operator(number: int) -> str:
    return list(OPERATORS)[number % len(OPERATORS)]


def _environment(task: TaskSpec) -> RobomimicEnvironment:
    if task.environment not in _ENVIRONMENTS:
        _ENVIRONMENTS[task.environment] = environment.make_environment(task)
    return _ENVIRONMENTS[task.environment]


_ENVIRONMENTS: dict[str, RobomimicEnvironment] = {}  # by name; a recording process uses one for all its episodes


def _attempt(
    environment: RobomimicEnvironment, task: TaskSpec, operator: Operator, stream: np.random.Generator
) -> Demonstration | None:
    """One recording; None if it ended without success."""
    model = environment.record(int(stream.integers(2**32)))
    hand = Hand(environment, operator, stream, PATIENCE * task.max_episode_steps)
    try:
        SCRIPTS[task.environment](hand)
    except _Over as over:
        return hand.recording(model) if over.success else None
    raise AssertionError("a script goes on until the recording is over")


def _record_part(task: TaskSpec, seed: int, number: int, file: Path) -> None:
    columns = record_demonstration(task, seed, number)._asdict()
    columns |= {f"observations/{key}": column for key, column in columns.pop("observations").items()}
    with file.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **columns)


def _join(task: TaskSpec, parts: list[Path], file: Path) -> None:
    masks: dict[str, list[int]] = {}
    for number in range(len(parts)):
        operator = _operator(number)
        for mask in (operator, operator.split("_")[0]):
            masks.setdefault(mask, []).append(number)
    files.write(file, task, map(_load_part, parts), masks)


def _load_part(file: Path) -> Demonstration:
    with np.load(file, allow_pickle=False) as part:
        observations = {name.split("/")[1]: part[name] for name in part.files if "/" in name}
        states, actions, rewards = (part[name] for name in ("states", "actions", "rewards"))
        return Demonstration(str(part["model"]), states, actions, rewards, observations, int(part["attempts"]))


# --------------------------------------------------------------------------- the hand


class _Over(Exception):
    """The recording has ended."""

    def __init__(self, success: bool) -> None:
        self.success = success


class Hand:
    """The robot's hand, moved as an operator would, and the recording of its movements.

    Every method that moves the hand raises :class:`_Over` when the task was solved for :data:`HELD` steps in a row, or
    time is up.
    """

    def __init__(
        self, environment: RobomimicEnvironment, operator: Operator, stream: np.random.Generator, cap: float
    ) -> None:
        self._environment, self._operator, self._stream, self._cap = environment, operator, stream, cap
        self._simulator: Any = environment.simulator
        self._site = self._simulator.robots[0].eef_site_id["right"]
        self._tremor = np.zeros(6)
        self._grip = OPEN
        self._held = 0
        self._states: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []
        self._observations = [environment.observations(every=True)]

    def recording(self, model: str) -> Demonstration:
        observations = {key: np.array([seen[key] for seen in self._observations]) for key in self._observations[0]}
        return Demonstration(
            model, np.array(self._states), np.array(self._actions), np.array(self._rewards), observations
        )

    # ----------------------------------------------------------------------- what a script sees

    @property
    def position(self) -> np.ndarray:
        """Between the fingertips, [3], metres."""
        return self._simulator.sim.data.site_xpos[self._site].copy()

    @property
    def across(self) -> float:
        """The direction in the plane along which the fingers close, radians."""
        x, y, _ = self._rotation.as_matrix()[:, 0]
        return float(np.arctan2(y, x))

    @property
    def _rotation(self) -> Rotation:
        return Rotation.from_matrix(self._simulator.sim.data.site_xmat[self._site].reshape(3, 3))

    def body(self, name: str) -> tuple[np.ndarray, float]:
        """A body's position [3], metres, and the direction of its first axis in the plane, radians."""
        data, index = self._simulator.sim.data, self._simulator.sim.model.body_name2id(name)
        x, _, _, y = data.body_xmat[index][:4]
        return data.body_xpos[index].copy(), float(np.arctan2(y, x))

    # ----------------------------------------------------------------------- what a script does

    def go(
        self, place: Callable[[], np.ndarray], across: float, tolerance: float, steps: int, calm: float = 1.0
    ) -> bool:
        """Move towards ``place()``, which may change. Returns whether the hand arrived.

        Args:
          across: wanted value of :attr:`across`; a hand turned by half a circle is as good.
          tolerance: distance at which the hand has arrived, metres.
          steps: the most steps to take.
          calm: factor on the operator's speed and tremor.
        """
        speed = self._operator.speed * calm
        missing = np.zeros(6)  # sum of the errors, because under a load the arm stops short of its goal
        for _ in range(steps):
            shift, turn = place() - self.position, self._turn(across)
            if np.linalg.norm(shift) < tolerance and np.linalg.norm(turn) < 0.1:
                return True
            error = np.concatenate([shift, turn]) / REACH
            if np.abs(error).max() < 1:
                missing += 0.1 * error
            wanted = GAIN * error + missing
            self._act(np.concatenate([_shortened(wanted[:3], speed), _shortened(wanted[3:], speed)]), calm)
        return False

    def wander(self, place: np.ndarray, across: float) -> None:
        """Make the operator's detours on the way to ``place``."""
        for _ in range(self._stream.poisson(self._operator.detours)):
            stop = self.position + self._stream.uniform(0.2, 0.8) * (place - self.position)
            stop += self._stream.normal(size=3) * self._operator.wandering * (1, 1, 0.5)
            stop[2] = max(stop[2], place[2])
            self.go(_fixed(stop), across, tolerance=0.03, steps=40)

    def rest(self) -> None:
        for _ in range(self._stream.poisson(self._operator.rests)):
            self._act(np.zeros(6), calm=0.3)

    def grip(self, grip: float, steps: int = 8) -> None:
        """Open or close the fingers, and wait until they have moved."""
        self._grip = grip
        for _ in range(steps):
            self._act(np.zeros(6), calm=0.3)

    def miss(self, place: Callable[[], np.ndarray], across: float) -> None:
        """With the operator's probability of a miss, close the fingers at ``place()``, where nothing is."""
        if self._stream.random() < self._operator.misses:
            self.go(place, across, tolerance=0.01, steps=30)
            self.grip(CLOSED)
            self.grip(OPEN)

    def _turn(self, across: float) -> np.ndarray:
        """The smaller rotation vector to a hand that points down and closes along ``across``."""
        turns = []
        for angle in (across, across + np.pi):
            c, s = np.cos(angle), np.sin(angle)
            wanted = Rotation.from_matrix([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])
            turns.append((wanted * self._rotation.inv()).as_rotvec())
        return min(turns, key=np.linalg.norm)

    def _act(self, motion: np.ndarray, calm: float) -> None:
        kept = 0.8
        self._tremor = kept * self._tremor + np.sqrt(1 - kept**2) * self._stream.normal(size=6) * self._operator.tremor
        action = np.append(np.clip(motion + calm * self._tremor, -1, 1), self._grip)
        self._states.append(self._environment.flat_state())
        step = self._environment.step(action)
        self._actions.append(action)
        self._rewards.append(float(step.success))
        self._observations.append(self._environment.observations(every=True))
        self._held = self._held + 1 if step.success else 0
        if self._held == HELD:
            raise _Over(success=True)
        if not step.success and len(self._actions) >= self._cap:
            raise _Over(success=False)


def _shortened(vector: np.ndarray, length: float) -> np.ndarray:
    return vector * min(1.0, length / max(float(np.linalg.norm(vector)), 1e-9))


def _fixed(place: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: place


# --------------------------------------------------------------------------- scripts: each goes on until it is over


def _near_zero(angle: float, turn: float) -> float:
    """``angle`` minus the number of whole ``turn``s that brings it nearest to zero."""
    return (angle + turn / 2) % turn - turn / 2


def _lift(hand: Hand) -> None:
    def cube(height: float) -> Callable[[], np.ndarray]:
        return lambda: hand.body("cube_main")[0] + height * UP

    while True:
        across = _near_zero(hand.body("cube_main")[1] - np.pi / 2, np.pi / 2) + np.pi / 2  # the hand starts at pi / 2
        hand.grip(OPEN, steps=1)
        hand.wander(cube(0.08)(), across)
        hand.go(cube(0.08), across, tolerance=0.02, steps=80)
        hand.miss(cube(0.05), across)
        hand.go(cube(0.0), across, tolerance=0.008, steps=60, calm=0.6)
        hand.rest()
        hand.grip(CLOSED)
        hand.go(_fixed(hand.position + 0.10 * UP), across, tolerance=0.02, steps=50)


def _can(hand: Hand) -> None:
    start, spread = np.array([0.1, -0.25]), np.array([0.2, 0.25])  # the first bin: centre, half its sides
    end = np.array([0.155, 0.345])  # in the can's quarter of the second bin, on the side within reach

    def can(height: float) -> Callable[[], np.ndarray]:
        return lambda: hand.body("Can_main")[0] + height * UP

    while True:
        x, y = np.abs(hand.body("Can_main")[0][:2] - start) - spread
        across = 0.0 if y > x else np.pi / 2  # along the nearer wall, so that no finger comes down on it
        hand.grip(OPEN, steps=1)
        hand.wander(can(0.15)(), across)
        hand.go(can(0.12), across, tolerance=0.02, steps=80)
        hand.miss(can(0.09), across)
        hand.go(can(0.015), across, tolerance=0.01, steps=60, calm=0.6)
        hand.rest()
        hand.grip(CLOSED)
        hand.go(_fixed(np.append(hand.position[:2], 1.05)), across, tolerance=0.04, steps=60)
        if can(0.0)()[2] < 0.92:
            continue  # it slipped
        over = np.append(end, 1.05)
        hand.wander(over, across)
        hand.go(_fixed(over), across, tolerance=0.03, steps=150)
        hand.go(_fixed(np.append(end, 0.95)), across, tolerance=0.02, steps=40)
        hand.rest()
        hand.grip(OPEN)
        hand.go(_fixed(over), across, tolerance=0.02, steps=40)


def _square(hand: Hand) -> None:
    peg = np.array([0.23, 0.10])  # its end is 0.95 m high

    def nut() -> np.ndarray:
        return hand.body("SquareNut_main")[0]

    def handle(height: float) -> Callable[[], np.ndarray]:
        def place() -> np.ndarray:
            centre, along = hand.body("SquareNut_main")
            return centre + np.array([0.06 * np.cos(along), 0.06 * np.sin(along), height])

        return place

    def carried(height: float) -> Callable[[], np.ndarray]:
        """Where the hand is once the nut that it holds is at the peg, ``height`` metres high."""
        return lambda: np.append(peg, height) + hand.position - nut()

    while True:
        across = hand.body("SquareNut_main")[1] + np.pi / 2
        hand.grip(OPEN, steps=1)
        hand.wander(handle(0.12)(), across)
        hand.go(handle(0.10), across, tolerance=0.02, steps=100)
        hand.miss(handle(0.06), across)
        hand.go(handle(0.004), across, tolerance=0.008, steps=60, calm=0.6)
        hand.rest()
        hand.grip(CLOSED)
        hand.go(_fixed(np.append(hand.position[:2], 1.02)), across, tolerance=0.04, steps=60)
        if nut()[2] < 0.92:
            continue  # it slipped
        # The peg is square, and beyond it the arm does not reach: the handle ends up sideways, or towards the robot.
        along = hand.body("SquareNut_main")[1]
        turns = [_near_zero(end - along, 2 * np.pi) for end in (np.pi / 2, -np.pi / 2, np.pi)]
        across = hand.across + min(turns, key=abs)
        hand.wander(carried(0.99)(), across)
        hand.go(carried(0.99), across, tolerance=0.02, steps=100)
        for _ in range(3):
            hand.go(carried(0.99), across, tolerance=0.004, steps=60, calm=0.6)
            if hand.go(carried(0.90), across, tolerance=0.01, steps=40, calm=0.5):
                break
        hand.go(carried(0.84), across, tolerance=0.01, steps=40, calm=0.6)
        hand.rest()
        hand.grip(OPEN)
        hand.go(_fixed(hand.position + 0.10 * UP), across, tolerance=0.02, steps=40)


SCRIPTS = {"Lift": _lift, "PickPlaceCan": _can, "NutAssemblySquare": _square}
