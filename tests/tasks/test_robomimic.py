"""Robomimic's tasks as environments: robosuite's own episodes, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.robomimic_small import CAN, LIFT, OBJECT_WIDTHS, SQUARE, TASKS

from dfp.spec import ConfigError
from dfp.tasks import (
    Step,
    make_environment,
)
from dfp.tasks.robomimic import environment as adapter


@pytest.fixture(scope="module", params=["lift", "can", "square"])
def environment(request):
    made = make_environment(TASKS[request.param])
    yield made
    made.close()


@pytest.fixture(scope="module")
def lift():
    made = make_environment(LIFT)
    yield made
    made.close()


def random_actions(seed: int, steps: int) -> np.ndarray:
    """They lead down, where something can be touched."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, 7)).astype(np.float32)
    actions[:, 2] -= 0.3
    return actions


def play(environment, seed: int, steps: int) -> list[Step]:
    """An episode of random actions, as what one sees of it; the reset comes first."""
    first = Step(environment.reset(seed), 0.0, False, False, False)
    return [first, *(environment.step(action) for action in random_actions(seed, steps))]


def assert_bit_equal(episode: list[Step], other: list[Step]) -> None:
    for step, twin in zip(episode, other, strict=True):
        assert step.observation.tobytes() == twin.observation.tobytes()
        assert step[1:] == twin[1:]


def test_episodes_are_robosuites_own(environment):
    """robosuite with the published env_args: a model compiled for each episode, full physics, all observations."""
    task = environment._task
    theirs = adapter._robosuite().make(task.environment, **adapter.env_args(task)["env_kwargs"], renderer="mujoco")

    def same(step: Step, observations: dict) -> bool:
        parts = [observations[key] for key in list(adapter.STATE_KEYS)[:3]] + [observations["object-state"]]
        return step.observation.tobytes() == np.concatenate(parts).astype(np.float32).tobytes()

    for seed in (3, 4):
        ours = play(environment, seed, 30)
        with adapter._seeded(seed):
            theirs.reset()
        for step, action in zip(ours[1:], random_actions(seed, 30), strict=True):
            observations, reward, _, _ = theirs.step(action)
            assert same(step, observations)
            assert step.reward == reward - 1
        assert np.array_equal(theirs.sim.get_state().flatten(), environment.flat_state())
        with adapter._seeded(seed):
            theirs.reset()
        assert same(ours[0], theirs._get_observations(force_update=True))
    theirs.close()


def test_an_episode_is_a_function_of_its_seed_and_actions(environment):
    first = play(environment, seed=7, steps=25)
    sibling = environment.sibling()
    begun = sibling.reset(8)  # and left there, while its sibling plays
    for history in (1, 2):
        play(environment, seed=history, steps=4 * history)
    assert_bit_equal(first, play(environment, seed=7, steps=25))
    assert np.array_equal(sibling.observe(), begun)
    assert_bit_equal(first, play(sibling, seed=7, steps=25))
    assert not np.array_equal(first[0].observation, begun)
    sibling.close()


def test_numpys_global_stream_is_left_alone(lift):
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    lift.reset(1)
    make_environment(LIFT).close()
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_a_restored_episode_goes_where_it_went_and_leaves_nothing_behind(environment):
    fresh = play(environment, seed=5, steps=10)
    actions = np.random.default_rng(1).uniform(-1, 1, (10, 7))
    model = environment.record(9)
    state = environment.flat_state()
    assert str(Path(adapter.__file__).parents[2]) not in model
    first = [environment.step(action) for action in actions]
    environment.restore(model, state)
    assert np.array_equal(environment.flat_state(), state)
    assert_bit_equal(first, [environment.step(action) for action in actions])
    assert_bit_equal(fresh, play(environment, seed=5, steps=10))
    assert_bit_equal(fresh, play(environment, seed=5, steps=10))


def test_widths_and_types(environment):
    task = environment._task
    observation = environment.reset(2**40)
    step = environment.step(np.zeros(7, np.float32))
    assert observation.shape == step.observation.shape == (9 + OBJECT_WIDTHS[task.key],) == (task.observation_size,)
    assert observation.dtype == step.observation.dtype == np.float32
    assert [type(value) for value in step[1:]] == [float, bool, bool, bool]
    assert environment.simulator.action_dim == task.action_size == 7
    assert (LIFT.max_episode_steps, CAN.max_episode_steps, SQUARE.max_episode_steps) == (300, 300, 400)


def test_the_first_action_moves_the_hand_where_it_points(lift):
    start = lift.reset(0)
    for _ in range(10):
        step = lift.step(np.array([0, 1, 0, 0, 0, 0, -1], np.float32))
    x, y, z = step.observation[:3] - start[:3]
    assert 0.05 < y < 0.2  # metres, along the world's y axis
    assert abs(x) < 0.02
    assert abs(z) < 0.02


def test_the_cap_truncates_at_its_last_step():
    environment = make_environment(LIFT.model_copy(update={"max_episode_steps": 3}))
    for _ in range(2):
        episode = play(environment, seed=0, steps=3)
        assert [step.truncated for step in episode] == [False, False, False, True]
        assert [step[1:3] for step in episode[1:]] == [(-1.0, False)] * 3
    environment.close()


def place(environment) -> None:
    """Put the task's object where it succeeds, and the hand away from it."""
    joint, pose = {
        "lift": ("cube_joint0", (0.0, 0.0, 0.90)),
        "can": ("Can_joint0", (0.20, 0.41, 0.87)),  # over its quarter of the second bin
        "square": ("SquareNut_joint0", (0.23, 0.10, 0.85)),  # round the square peg
    }[environment._task.key]
    environment.simulator.sim.data.set_joint_qpos(joint, np.array([*pose, 1, 0, 0, 0]))


def test_the_step_that_succeeds_is_rewarded_and_ends_the_episode(environment):
    environment.reset(0)
    before = environment.step(np.zeros(7, np.float32))
    assert before[1:] == (-1.0, False, False, False)
    place(environment)
    assert environment.step(np.zeros(7, np.float32))[1:] == (0.0, True, False, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation_size": 23}, "has observation_size 19, but the task says 23"),
        ({"action_size": 5}, "has action_size 7, but the task says 5"),
        ({"environment": "Door"}, "is not one of Robomimic's; allowed: Lift, PickPlaceCan, NutAssemblySquare"),
        ({"success_timing": "pre"}, "judges success after the action; allowed for success_timing: post"),
    ],
)
def test_a_task_that_is_not_the_environments_is_refused(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_environment(LIFT.model_copy(update=change))
    assert "task 'lift'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_or_no_simulator_is_refused(monkeypatch):
    monkeypatch.setitem(adapter.SIMULATOR, "robosuite", "1.4.1")
    with pytest.raises(ConfigError, match=r"'robosuite': .*1\.5\.1.*1\.4\.1$"):
        make_environment(LIFT)
    monkeypatch.setattr(adapter, "installed_versions", lambda: {"robosuite": "none", "mujoco": "3.7.0"})
    with pytest.raises(ConfigError, match=r"'robosuite': .*`uv sync --extra robomimic`$"):
        make_environment(LIFT)


def test_workers_make_no_opengl_context_and_print_nothing():
    script = (
        "import os, sys, numpy; from dfp.plan.catalogue import load_catalogue; from dfp.tasks import make_environment; "
        "environment = make_environment(load_catalogue().tasks['lift'].spec); "
        "environment.reset(0); environment.step(numpy.zeros(7)); environment.sibling().close(); "
        "print([name for name in ('jax', 'flax', 'OpenGL', 'mujoco.egl') if name in sys.modules], "
        "os.environ.get('MUJOCO_GL'), environment.simulator.viewer, "
        "environment.simulator.sim._render_context_offscreen)"
    )
    surroundings = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MUJOCO_GL")}
    run = subprocess.run(
        [sys.executable, "-c", script], env=surroundings, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[] None None None\n"
    assert run.stderr == ""
