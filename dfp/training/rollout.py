"""Acting in the environment, and evaluation over worker processes.

A policy acts in chunks: ``H`` actions open loop, then the next chunk. Evaluation runs a fixed number of episodes
side by side ("slots"). Every round is one batched policy call and one chunk in every slot, spread over worker
processes. The number of slots sets the batch, so the result does not depend on the number of workers.

This module loads no JAX, because the workers import it and should stay small.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from dfp.errors import KILLED, STOPPED, DfpError
from dfp.runs.folder import Evaluation
from dfp.spec import TaskSpec
from dfp.tasks import Environment, Step, make_environment

SLOTS = 10  # more cost memory, fewer leave cores waiting for the policy


class Policy(Protocol):
    """Chunks for a batch of states: ``[n, S]``, episode numbers ``[n]``, chunk numbers ``[n]`` -> ``[n, H, A]``."""

    def __call__(self, observation: np.ndarray, episode: np.ndarray, chunk: np.ndarray) -> np.ndarray: ...


class SimulatorError(DfpError):
    """A simulator returned a value that is not finite, or its process has ended."""

    exit_code = STOPPED


class SimulatorKilled(SimulatorError):
    """A simulator's process has ended."""

    exit_code = KILLED


class Checked:
    """An environment that raises :class:`SimulatorError` at an observation or reward that is not finite."""

    def __init__(self, environment: Environment, task: TaskSpec) -> None:
        self._environment, self._task = environment, task
        self._seed = self._steps = 0

    def sibling(self) -> Checked:
        """See :meth:`Environment.sibling`."""
        return Checked(self._environment.sibling(), self._task)

    def reset(self, seed: int) -> np.ndarray:
        """See :meth:`Environment.reset`."""
        self._seed, self._steps = seed, 0
        observation = self._environment.reset(seed)
        self._require_finite("observation", observation)
        return observation

    def step(self, action: np.ndarray) -> Step:
        """See :meth:`Environment.step`."""
        self._steps += 1
        step = self._environment.step(action)
        self._require_finite("observation", step.observation)
        self._require_finite("reward", step.reward)
        return step

    def _require_finite(self, what: str, values: np.ndarray | float) -> None:
        if not np.isfinite(values).all():
            place = int(np.argmin(np.isfinite(np.atleast_1d(values))))
            raise SimulatorError(
                f"task '{self._task.key}': the simulator's {what} is {np.atleast_1d(values)[place]} (entry {place}) "
                f"at step {self._steps} of the episode with reset seed {self._seed}"
            )


class ChunkResult(NamedTuple):
    """The result of one chunk in one episode."""

    observation: np.ndarray  #: [S] after the chunk
    reward: float  #: sum over the steps
    steps: int
    success: bool
    done: bool


def episode_seed(seed: int, stream: str, *indices: int) -> int:
    """A reset seed in [0, 2^32), a function of the run's seed, the stream's name and the indices."""
    entropy = [seed, *stream.encode(), *indices]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def step_chunk(environment: Environment | Checked, actions: np.ndarray) -> ChunkResult:
    """Execute a chunk ``[H, A]`` open loop, up to the episode's end."""
    reward, steps = 0.0, 0
    for action in actions:
        step = environment.step(action)
        reward += step.reward
        steps += 1
        if step.terminated or step.truncated:
            break
    return ChunkResult(step.observation, reward, steps, step.success, step.terminated or step.truncated)


class Evaluator:
    """Runs evaluation episodes of one task. Environments and workers are made once and kept."""

    def __init__(self, task: TaskSpec, episodes: int, workers: int | None = None) -> None:
        """``workers``: processes, at most one per slot; None: one per core that this process may use."""
        self.episodes = episodes
        self.slots = min(SLOTS, episodes)
        self.observation_size = task.observation_size
        count = min(workers or len(os.sched_getaffinity(0)), self.slots)
        self._workers = [Worker(_serve_slots, task) for _ in range(count)]

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def evaluate(self, policy: Policy, seeds: Sequence[int]) -> Evaluation:
        """Run one episode per seed, from reset to its end."""
        observation = np.zeros((self.slots, self.observation_size), np.float32)
        episode = np.full(self.slots, -1)  # the episode in each slot; -1: none, the row is padding
        chunk = np.zeros(self.slots, int)
        returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), int)
        successes = np.zeros(len(seeds), bool)
        started = finished = 0
        while finished < len(seeds):
            # Free slots take the next episodes in order, so the slot of an episode does not depend on the workers.
            resets = {}
            for slot in np.flatnonzero(episode < 0)[: len(seeds) - started]:
                resets[int(slot)] = seeds[started]
                episode[slot], chunk[slot] = started, 0
                started += 1
            for slot, first in self._all("reset", resets).items():
                observation[slot] = first
            actions = policy(observation, episode, chunk)
            live = {int(slot): actions[slot] for slot in np.flatnonzero(episode >= 0)}
            for slot, result in self._all("step", live).items():
                number = episode[slot]
                observation[slot] = result.observation
                chunk[slot] += 1
                returns[number] += result.reward
                lengths[number] += result.steps
                if result.done:
                    successes[number] = result.success
                    episode[slot] = -1
                    finished += 1
        return Evaluation(float(successes.mean()), len(seeds), float(returns.mean()), float(lengths.mean()))

    def _all(self, command: str, by_slot: dict) -> dict:
        """Send each slot's argument to the worker that owns it; collect the answers."""
        count = len(self._workers)
        shares = [{slot: value for slot, value in by_slot.items() if slot % count == index} for index in range(count)]
        asked = [(worker, share) for worker, share in zip(self._workers, shares, strict=True) if share]
        for worker, share in asked:
            worker.send((command, share))
        # Receive all before raising one: the evaluation of another seed may follow.
        received = [worker.receive() for worker, _ in asked]
        answers = {}
        for answer in received:
            if isinstance(answer, Exception):
                raise answer
            answers |= answer
        return dict(sorted(answers.items()))


class RemoteEnvironment:
    """One environment in a separate process, which plays a chunk while this process goes on."""

    def __init__(self, task: TaskSpec) -> None:
        self._worker = Worker(_serve_one, task)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    def reset(self, seed: int) -> np.ndarray:
        """See :meth:`Environment.reset`."""
        self._worker.send(seed)
        return self._received()

    def play(self, actions: np.ndarray) -> Iterator[Step]:
        """Execute a chunk ``[H, A]`` open loop, up to the episode's end. Yields each step as it comes."""
        self._worker.send(actions)
        for _ in actions:
            step = self._received()
            yield step
            if step.terminated or step.truncated:
                return

    def _received(self) -> Any:
        answer = self._worker.receive()
        if isinstance(answer, Exception):
            raise answer
        return answer


# --------------------------------------------------------------------------- worker processes


class Worker:
    """A process that serves simulators, and the pipe to it."""

    def __init__(self, serve: Callable[[TaskSpec, Connection], None], task: TaskSpec) -> None:
        # A fresh interpreter: a fork would copy JAX's threads and device handles while they are in use.
        context = multiprocessing.get_context("spawn")
        self._task = task
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=serve, args=(task, there), daemon=True)
        self._process.start()
        there.close()

    def send(self, message: Any) -> None:
        """Send a request to the process. :meth:`receive` reports if it has ended."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._pipe.send(message)

    def receive(self) -> Any:
        """The answer, or an exception: one that the process raised, or :class:`SimulatorKilled`."""
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(timeout=5)
            return SimulatorKilled(
                f"task '{self._task.key}': the simulator's process has ended "
                f"({_ending(self._process.exitcode)}); the same command continues from the last checkpoint"
            )

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.terminate()


def _ending(code: int | None) -> str:
    """How a process ended, by its exit code."""
    if code == -signal.SIGKILL:
        return "killed, perhaps for its memory"
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _serve_one(task: TaskSpec, pipe: Connection) -> None:
    """A worker with one environment. A seed resets it; a chunk is played."""
    with _until_parent_ends():
        environment = _made(task)
        while True:
            command = pipe.recv()
            for answer in [environment] if isinstance(environment, Exception) else _played(environment, command):
                pipe.send(answer)


def _played(environment: Checked, command: int | np.ndarray) -> Iterator[Any]:
    """The first state, or a step per action up to the episode's end. An error ends the answers."""
    try:
        if isinstance(command, int):
            yield environment.reset(command)
            return
        for action in command:
            step = environment.step(action)
            yield step
            if step.terminated or step.truncated:
                return
    except Exception as error:
        yield _told(error)


def _serve_slots(task: TaskSpec, pipe: Connection) -> None:
    """A worker with one environment per slot, all siblings of one that is made while the policy compiles."""
    with _until_parent_ends():
        first = _made(task)
        environments: dict[int, Checked] = {}
        while True:
            command, share = pipe.recv()
            pipe.send(first if isinstance(first, Exception) else _in_slots(first, environments, command, share))


def _in_slots(first: Checked, environments: dict[int, Checked], command: str, share: dict[int, Any]) -> Any:
    """The answer of each slot, or the first error. Missing environments are made and added to ``environments``."""
    answer = {}
    try:
        for slot, argument in share.items():
            if slot not in environments:
                environments[slot] = first.sibling()
            if command == "reset":
                answer[slot] = environments[slot].reset(argument)
            else:
                answer[slot] = step_chunk(environments[slot], argument)
    except Exception as error:
        return _told(error)
    return answer


def _made(task: TaskSpec) -> Checked | Exception:
    """The environment, or the error that prevented it, for the parent's first request."""
    try:
        return Checked(make_environment(task), task)
    except Exception as error:
        return _told(error)


def _told(error: Exception) -> Exception:
    """``error`` in a form that can be sent. Pickling drops the traceback, so a note holds it."""
    note = f"In the simulator's process:\n{traceback.format_exc()}"
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # its class cannot be made again from its arguments
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(note)
    return error


@contextlib.contextmanager
def _until_parent_ends() -> Iterator[None]:
    """Ignore Ctrl-C, which the parent handles; end quietly if the pipe breaks because the parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        yield
