"""Acting in the environment, and evaluation over worker processes.

A policy acts in chunks: ``H`` actions open loop, then the next chunk. Evaluation runs a fixed number of episodes
side by side ("slots"); every round is one batched policy call and one chunk in every slot, spread over worker
processes. The slots, not the workers, decide the batch: the result does not depend on the number of cores.

This module loads no JAX: the workers are spawned from it and stay small.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple, Protocol

import numpy as np

from dfp.spec import TaskSpec
from dfp.tasks import Environment, make_environment

SLOTS = 10  # episodes side by side; more would cost memory, fewer would leave cores waiting for the policy


class Policy(Protocol):
    """Chunks for a batch of states: ``[n, S]``, episode numbers ``[n]``, chunk numbers ``[n]`` -> ``[n, H, A]``."""

    def __call__(self, observation: np.ndarray, episode: np.ndarray, chunk: np.ndarray) -> np.ndarray: ...


class Evaluation(NamedTuple):
    """Means over the episodes of one evaluation."""

    success_rate: float  # in [0, 1]
    episodes: int
    return_mean: float  # undiscounted
    length_mean: float  # environment steps


class ChunkResult(NamedTuple):
    """What one chunk did to one episode."""

    observation: np.ndarray  # [S] after the chunk
    reward: float  # sum over the steps
    steps: int
    success: bool
    done: bool


def episode_seed(seed: int, stream: str, *indices: int) -> int:
    """A reset seed that depends on the run's seed, the stream's name and the indices alone."""
    entropy = [seed, *stream.encode(), *indices]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def step_chunk(environment: Environment, actions: np.ndarray) -> ChunkResult:
    """Execute a chunk ``[H, A]`` open loop; the rest is dropped when the episode ends."""
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
        """``workers``: processes, at most one per slot; default: the cores this process may use."""
        self.episodes = episodes
        self.slots = min(SLOTS, episodes)
        self.observation_size = task.observation_size
        count = min(workers or len(os.sched_getaffinity(0)), self.slots)
        context = multiprocessing.get_context("spawn")
        self._workers: list[tuple[BaseProcess, Connection]] = []
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(task, there), daemon=True)
            process.start()
            there.close()
            self._workers.append((process, here))

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for process, pipe in self._workers:
            pipe.close()
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()

    def evaluate(self, policy: Policy, seeds: Sequence[int]) -> Evaluation:
        """Run one episode per seed, from reset to its end."""
        observation = np.zeros((self.slots, self.observation_size), np.float32)
        episode = np.full(self.slots, -1)  # the episode in each slot; -1: none, the row is padding
        chunk = np.zeros(self.slots, int)
        returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), int)
        successes = np.zeros(len(seeds), bool)
        started = finished = 0
        while finished < len(seeds):
            # Free slots take the next episodes, in order: who plays where depends on the episodes alone.
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
        for (_, pipe), share in zip(self._workers, shares, strict=True):
            if share:
                pipe.send((command, share))
        answers = {}
        for (_, pipe), share in zip(self._workers, shares, strict=True):
            if share:
                answer = pipe.recv()
                if isinstance(answer, Exception):
                    raise answer
                answers |= answer
        return dict(sorted(answers.items()))


def _serve(task: TaskSpec, pipe: Connection) -> None:
    """A worker: environments by slot, all siblings of one that is made at once, while the policy still compiles."""
    try:
        first: Environment | Exception = make_environment(task)
    except Exception as error:
        first = error
    environments: dict[int, Environment] = {}
    while True:
        try:
            command, share = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            if isinstance(first, Exception):
                raise first
            answer = {}
            for slot, argument in share.items():
                if slot not in environments:
                    environments[slot] = first.sibling()
                if command == "reset":
                    answer[slot] = environments[slot].reset(argument)
                else:
                    answer[slot] = step_chunk(environments[slot], argument)
        except Exception as error:
            answer = error
        pipe.send(answer)
