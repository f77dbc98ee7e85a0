"""The environments: bit-equal episodes, and the facts of reward, success and cap."""

import os
import subprocess
import sys

import numpy as np
import pytest

from dfp import tasks
from dfp.spec import ConfigError, DataSpec, TaskSpec
from dfp.tasks import Step, make_environment
from dfp.tasks import ogbench as adapter

CUBE = TaskSpec(
    key="cube-single-task2",
    suite="ogbench",
    environment="cube-single-singletask-task2-v0",
    dataset="cube-single-play-v0",
    observation_size=28,
    action_size=5,
    max_episode_steps=200,
    rows=1_000_000,
)
SCENE = CUBE.model_copy(
    update={"environment": "scene-singletask-task2-v0", "observation_size": 40, "max_episode_steps": 750}
)
PUZZLE = CUBE.model_copy(
    update={"environment": "puzzle-3x3-singletask-task4-v0", "observation_size": 55, "max_episode_steps": 500}
)
ROBOMIMIC = CUBE.model_copy(update={"suite": "robomimic", "key": "lift", "environment": "Lift"})


@pytest.fixture(scope="module")
def cube():
    environment = make_environment(CUBE)
    yield environment
    environment.close()


def actions(seed: int, steps: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, 5)).astype(np.float32)


def play(environment, seed: int, steps: int) -> list[Step]:
    """An episode of random actions, as what one sees of it; the reset comes first."""
    first = Step(environment.reset(seed), 0.0, False, False, False)
    return [first, *(environment.step(action) for action in actions(seed, steps))]


def assert_bit_equal(episode: list[Step], other: list[Step]) -> None:
    for step, twin in zip(episode, other, strict=True):
        assert step.observation.tobytes() == twin.observation.tobytes()
        assert step[1:] == twin[1:]


def test_an_episode_is_a_function_of_its_seed_and_actions(cube):
    fresh = make_environment(CUBE)
    first = play(fresh, seed=7, steps=200)
    for history in (1, 2, 3):
        play(cube, seed=history, steps=10 * history)
    assert_bit_equal(first, play(cube, seed=7, steps=200))
    assert_bit_equal(first, play(fresh, seed=7, steps=200))
    fresh.close()


@pytest.mark.parametrize("task", [SCENE, PUZZLE], ids=["scene", "puzzle"])
def test_button_tasks_are_functions_of_seed_and_actions_too(task):
    environment = make_environment(task)
    first = play(environment, seed=7, steps=40)
    play(environment, seed=8, steps=60)
    assert_bit_equal(first, play(environment, seed=7, steps=40))
    environment.close()


def test_whatever_the_random_steps_inside_a_reset_leave_is_wiped(cube, monkeypatch):
    """They rarely leave anything that shows, so here they leave a lot: see ``reset_episode``."""
    clean = play(cube, seed=5, steps=30)
    inner = cube.simulator.unwrapped
    initialize_episode = inner.initialize_episode

    def initialize_and_leave_traces():
        initialize_episode()
        for name in ("ctrl", "qacc_warmstart", "cfrc_ext", "qfrc_applied", "xfrc_applied"):
            getattr(inner.data, name)[:] = 3.0
        inner.data.time = 1.0

    monkeypatch.setattr(inner, "initialize_episode", initialize_and_leave_traces)
    assert_bit_equal(clean, play(cube, seed=5, steps=30))
    assert inner.data.time == pytest.approx(30 * 0.05)


def test_seeds_differ(cube):
    assert not np.array_equal(cube.reset(0), cube.reset(1))


def test_types(cube):
    observation = cube.reset(0)
    step = cube.step(np.zeros(5, np.float32))
    assert observation.shape == step.observation.shape == (28,)
    assert observation.dtype == step.observation.dtype == np.float32
    assert [type(value) for value in step[1:]] == [float, bool, bool, bool]


def test_the_cap_truncates_at_its_last_step(cube):
    episode = play(cube, seed=0, steps=200)
    assert [step.truncated for step in episode] == [False] * 200 + [True]
    assert not any(step.terminated or step.success for step in episode)
    assert all(step.reward == -1.0 for step in episode[1:])


def push_cube_into_goal(environment) -> list[Step]:
    """Two steps: during the first the cube slides to within 0.04 m of its goal (0.50, 0, 0.02)."""
    environment.reset(0)
    joint = environment.simulator.unwrapped.data.joint("object_joint_0")
    joint.qpos[:3] = (0.455, 0.0, 0.02)
    joint.qvel[:3] = (0.5, 0.0, 0.0)
    return [environment.step(np.zeros(5, np.float32)) for _ in range(2)]


def test_post_timing_rewards_the_step_that_reaches(cube):
    reaching, _ = push_cube_into_goal(cube)
    assert reaching[1:] == (0.0, True, False, True)


def test_pre_timing_rewards_the_step_after(cube):
    environment = make_environment(CUBE.model_copy(update={"success_timing": "pre"}))
    reaching, after = push_cube_into_goal(environment)
    assert reaching[1:] == (-1.0, False, False, False)
    assert after[1:] == (0.0, True, False, True)
    environment.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation_size": 37}, "has observation_size 28, but the task says 37"),
        ({"action_size": 7}, "has action_size 5, but the task says 7"),
        ({"max_episode_steps": 500}, "has max_episode_steps 200, but the task says 500"),
        ({"environment": "cube-dozen-singletask-v0"}, "cube-dozen"),
        ({"environment": "visual-cube-single-singletask-task2-v0"}, "state-based manipulation tasks; allowed: cube-"),
        ({"environment": "cube-single-v0"}, "state-based manipulation tasks; allowed: cube-"),
        ({"environment": "antmaze-large-singletask-v0"}, "state-based manipulation tasks; allowed: cube-"),
    ],
)
def test_a_task_that_is_not_the_environments_is_refused(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_environment(CUBE.model_copy(update=change))
    assert "task 'cube-single-task2'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_simulator_is_refused(monkeypatch):
    monkeypatch.setitem(adapter.SIMULATOR, "mujoco", "3.1.6")
    with pytest.raises(ConfigError, match=r"^package 'mujoco': found version 3\.7\.0, wanted 3\.1\.6$"):
        make_environment(CUBE)


def test_a_missing_simulator_is_refused(monkeypatch):
    monkeypatch.setitem(adapter.SIMULATOR, "no-such-package", "1.0")
    with pytest.raises(ConfigError, match=r"^package 'no-such-package': found version none, wanted 1\.0$"):
        make_environment(CUBE)


def test_robomimic_can_be_planned_but_not_run(tmp_path):
    data = DataSpec(source="download")
    assert tasks.manifest_path(ROBOMIMIC, data, tmp_path).name == "manifest.json"
    calls = [
        lambda: tasks.make_environment(ROBOMIMIC),
        lambda: tasks.prepare_dataset(ROBOMIMIC, data, tmp_path, 1, print),
        lambda: tasks.load_dataset(ROBOMIMIC, data, tmp_path),
        lambda: tasks.shard_count(ROBOMIMIC, data, tmp_path),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=r"^task 'lift': Robomimic tasks are not available yet in this version"):
            call()


def test_workers_need_neither_jax_nor_opengl():
    """Evaluation and recording processes import all of this, on nodes without a display."""
    script = (
        "import sys; from dfp.tasks import dataset, download, generate, make_environment; "
        "from dfp.spec import load_catalogue; "
        "make_environment(load_catalogue().tasks['cube-single-task2'].spec).reset(0); "
        "print([name for name in ('jax', 'flax', 'OpenGL', 'mujoco.glfw', 'mujoco.egl') if name in sys.modules])"
    )
    surroundings = {key: value for key, value in os.environ.items() if key != "DISPLAY"} | {"MUJOCO_GL": "disable"}
    run = subprocess.run(
        [sys.executable, "-c", script], env=surroundings, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[]\n"
    assert run.stderr == ""
