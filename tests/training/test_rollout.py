"""Simulators in processes of their own: evaluations, what ends a process, and numbers that are none."""

import os
import pickle
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from support.helpers import POINT
from support.small_runs import (
    CATALOGUE,
    Poisoned,
    make_spec,
)

from dfp import errors
from dfp.runs.folder import Evaluation
from dfp.spec import ConfigError
from dfp.tasks import Step, make_environment
from dfp.training import rollout
from dfp.training.rollout import (
    Checked,
    ChunkResult,
    Evaluator,
    RemoteEnvironment,
    SimulatorError,
    SimulatorKilled,
    episode_seed,
)


def test_an_environment_in_a_process_of_its_own_plays_the_same_episode():
    task = CATALOGUE.tasks["cube-single-task2"].spec
    actions = np.random.default_rng(0).uniform(-1, 1, size=(41, 5, 5)).astype(np.float32)
    here = make_environment(task)
    with RemoteEnvironment(task) as there:
        np.testing.assert_array_equal(there.reset(7), here.reset(7))
        steps = 0
        for chunk in actions:
            for action, result in zip(chunk, there.play(chunk), strict=False):
                expected = here.step(action)
                np.testing.assert_array_equal(result.observation, expected.observation)
                assert result[1:] == expected[1:]
                steps += 1
        # The cap ends the episode, and a chunk that begins after it is cut by the next step at once.
        assert result.truncated
        assert steps == 201


def test_seeds_of_episodes_depend_on_run_stream_and_number():
    seeds = {episode_seed(*arguments) for arguments in [(0, "a", 0), (0, "a", 1), (0, "b", 0), (1, "a", 0)]}
    assert len(seeds) == 4
    assert episode_seed(0, "environment", 3) == episode_seed(0, "environment", 3)


def test_evaluation_does_not_depend_on_the_number_of_workers():
    task = CATALOGUE.tasks["cube-single-task2"].spec

    def policy(observation, episode, chunk):
        draws = [
            np.random.default_rng([e, c]).uniform(-1, 1, size=(5, 5)) for e, c in zip(episode + 1, chunk, strict=True)
        ]
        return np.float32(draws) * np.sign(observation[:, :1, None])

    results = []
    for workers in (1, 2):
        with Evaluator(task, 3, workers) as evaluator:
            results.append(evaluator.evaluate(policy, [5, 6, 7]))
    assert results[0] == results[1]


def test_an_evaluation_of_more_episodes_than_slots(monkeypatch):
    """25 episodes in 10 slots. That of seed s has the states 100 s, 100 s + 1, ... after each of its chunks.

    It has 1 + s % 3 chunks, each of two steps with -1 together, and succeeds if 5 divides s. A chunk that does not end
    its episode is a success that counts for nothing.
    """
    seeds, place, seen = list(range(1, 26)), {}, []

    def play(command, by_slot):
        answers = {}
        for slot, argument in by_slot.items():
            if command == "reset":
                place[slot] = argument, 0
                answers[slot] = np.array([100.0 * argument], np.float32)
                continue
            seed, chunks = place[slot]
            assert argument == 100 * seed + chunks  # the chunk for this very state
            place[slot] = seed, chunks + 1
            done = chunks == seed % 3
            state = np.array([100.0 * seed + chunks + 1], np.float32)
            answers[slot] = ChunkResult(state, -1.0, 2, seed % 5 == 0 if done else True, done)
        return answers

    def policy(observation, episode, chunk):
        seen.extend(
            (int(e), int(c), float(o)) for e, c, o in zip(episode, chunk, observation[:, 0], strict=True) if e >= 0
        )
        return observation[:, None]

    evaluator = Evaluator.__new__(Evaluator)
    evaluator.slots, evaluator.observation_size = 10, 1
    monkeypatch.setattr(evaluator, "_all", play)
    # s % 3 is 1 for nine seeds, 2 for eight and 0 for eight: 2 * 9 + 3 * 8 + 8 = 50 chunks. Five seeds succeed.
    assert evaluator.evaluate(policy, seeds) == Evaluation(0.2, 25, -2.0, 4.0)
    assert sorted(seen) == [(s - 1, chunk, 100.0 * s + chunk) for s in seeds for chunk in range(1 + s % 3)]


class Ending(Poisoned):
    """Its third step ends the episode, in the given way; that step alone is a success."""

    def __init__(self, task, **ending: bool) -> None:
        super().__init__(task, bad=0)
        self.ending = ending

    def step(self, action: np.ndarray) -> Step:
        step = super().step(action)._replace(terminated=False)
        return step._replace(success=True, **self.ending) if self.steps == 3 else step


@pytest.mark.parametrize("way", ["terminated", "truncated"])
def test_the_rest_of_a_chunk_is_dropped_when_its_episode_ends(way):
    """In an evaluation: three steps of five, each at -1."""
    task = make_spec().task
    result = rollout.step_chunk(Ending(task, **{way: True}), np.zeros((5, task.action_size)))
    assert result[1:] == (-3.0, 3, True, True)


@pytest.mark.parametrize("way", ["terminated", "truncated"])
def test_a_simulator_plays_no_step_after_its_episode(way):
    """In training: the answer to the next request would be one of those steps."""
    task = make_spec().task
    environment = Checked(Ending(task, **{way: True}), task)
    assert len(list(rollout._played(environment, np.zeros((5, task.action_size))))) == 3


@pytest.mark.parametrize("way", ["terminated", "truncated"])
def test_no_step_is_awaited_after_an_episode(way):
    step = Step(np.zeros(3), -1.0, False, False, False)
    answers = iter([step, step._replace(**{way: True})])
    environment = RemoteEnvironment.__new__(RemoteEnvironment)
    environment._worker = SimpleNamespace(send=lambda _: None, receive=lambda: next(answers))  # pyright: ignore
    assert len(list(environment.play(np.zeros((5, 2))))) == 2


class Passing(Ending):
    """Its second step is a success that ends nothing; its third, without success, ends the episode."""

    def step(self, action: np.ndarray) -> Step:
        step = super().step(action)
        return step._replace(success=self.steps == 2)


def test_a_success_in_the_middle_of_a_chunk_is_not_that_of_its_episode():
    task = make_spec().task
    result = rollout.step_chunk(Passing(task, truncated=True), np.zeros((5, task.action_size)))
    assert result[1:] == (-3.0, 3, False, True)


def test_an_error_of_one_worker_leaves_no_answer_for_the_next_evaluation():
    """Which may be of another seed."""
    answers = [[SimulatorError("bad")], [{1: np.zeros(3)}]]
    evaluator = Evaluator.__new__(Evaluator)
    evaluator._workers = [SimpleNamespace(send=lambda _: None, receive=left.pop) for left in answers]  # pyright: ignore
    with pytest.raises(SimulatorError, match="bad"):
        evaluator._all("reset", {0: 5, 1: 6})
    assert answers == [[], []]


def test_a_simulator_that_is_killed_is_one_line_and_not_a_traceback():
    """As the kernel does when the memory is used up. Snakemake runs the job again."""
    task = CATALOGUE.tasks["cube-single-task2"].spec
    with RemoteEnvironment(task) as environment:
        environment.reset(0)
        os.kill(environment._worker._process.pid, signal.SIGKILL)  # pyright: ignore[reportArgumentType]
        with pytest.raises(SimulatorKilled, match=r"cube-single-task2.*killed") as caught:
            list(environment.play(np.zeros((5, 5))))
        assert errors.exit_code(caught.value) == 137
    with Evaluator(task, 2, 2) as evaluator:
        evaluator._all("reset", {0: 5, 1: 6})
        os.kill(evaluator._workers[1]._process.pid, signal.SIGKILL)  # pyright: ignore[reportArgumentType]
        with pytest.raises(SimulatorKilled, match=r"cube-single-task2.*killed"):
            evaluator._all("reset", {0: 5, 1: 6})
        assert evaluator._all("reset", {0: 5}).keys() == {0}


@pytest.mark.parametrize(
    ("action", "kind", "text"),
    [
        ([1, 0], ValueError, "too far right"),
        ([0, 1], OSError, "too far up"),  # not the one of a pipe whose other end has gone
        ([1, 1], RuntimeError, "LostError: the point at the corner"),  # which pickle cannot make again
    ],
)
def test_an_error_in_a_simulators_process_comes_with_its_traceback(action, kind, text):
    task = POINT.model_copy(update={"environment": "point_mass:Fragile-v0"})
    environment = Checked(make_environment(task), task)
    environment.reset(0)
    actions = np.array([[0, 0], action])
    first, from_one = rollout._played(environment, actions)
    assert isinstance(first, Step)
    from_slot = rollout._in_slots(environment, {0: environment}, "step", {0: actions})
    for answer in (from_one, from_slot):
        received = pickle.loads(pickle.dumps(answer))
        assert (type(received), errors.one_line(received)) == (kind, text)
        (note,) = received.__notes__
        assert note.startswith("In the simulator's process:\nTraceback")
        assert re.search(r"point_mass\.py\", line \d+, in step\n", note)


def test_an_environment_that_cannot_be_made_says_why_at_each_request():
    """In a process of its own, once: the second error is the first, with one note."""
    with RemoteEnvironment(POINT.model_copy(update={"environment": "point_mass:Nowhere-v0"})) as environment:
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"'point-mass'.*Nowhere") as caught:
                environment.reset(0)
            (note,) = caught.value.__notes__
            assert note.count("Traceback (most recent call last)") == 1
            assert "\n" not in errors.one_line(caught.value)


def test_a_simulator_that_returns_no_number_stops_an_evaluation(monkeypatch):
    task = make_spec().task
    monkeypatch.setattr(rollout, "make_environment", lambda task: Poisoned(task, bad=2))
    environment = rollout._made(task)
    assert isinstance(environment, Checked)
    slot = environment.sibling()
    slot.reset(11)
    with pytest.raises(SimulatorError, match=r"nan \(entry 2\) .*step 2 .*seed 11") as caught:
        rollout.step_chunk(slot, np.zeros((5, task.action_size), np.float32))
    # A worker sends it through a pipe.
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


class Unpaid(Poisoned):
    """Its second reward is not a number."""

    def step(self, action: np.ndarray) -> Step:
        step = super().step(action)
        return step._replace(reward=np.nan) if self.steps == 2 else step


def test_a_reward_that_is_no_number_stops_the_run():
    task = make_spec().task
    environment = Checked(Unpaid(task, bad=0), task)
    environment.reset(11)
    assert environment.step(np.zeros(task.action_size)).reward == -1.0
    with pytest.raises(SimulatorError, match=r"reward is nan \(entry 0\) at step 2 .*seed 11"):
        environment.step(np.zeros(task.action_size))


class Lost(Poisoned):
    """It begins at no place."""

    def reset(self, seed: int) -> np.ndarray:
        return np.full(self.width, np.inf, np.float32)


def test_a_first_state_that_is_no_number_stops_the_run():
    task = make_spec().task
    with pytest.raises(SimulatorError, match=r"observation is inf \(entry 0\) at step 0 .*seed 11"):
        Checked(Lost(task, bad=0), task).reset(11)
