"""The environments: bit-equal episodes, and the facts of reward, success and cap."""

import os
import subprocess
import sys

import numpy as np
import pytest
from ogbench.manipspace.envs.manipspace_env import ManipSpaceEnv
from support.helpers import CUBE, TASKS

from dfp.spec import ConfigError
from dfp.tasks import Step, make_environment
from dfp.tasks.ogbench import environment as adapter

FACTS = {  # every OGBench task: width of a state, episode cap, parts of its goal
    "cube-single-task2": (28, 200, 1),
    "cube-double-task2": (37, 500, 2),
    "cube-double-task3": (37, 500, 2),
    "cube-double-task4": (37, 500, 2),
    "cube-triple-task2": (46, 1000, 3),
    "cube-triple-task3": (46, 1000, 3),
    "cube-triple-task4": (46, 1000, 3),
    "cube-quadruple-task2": (55, 1000, 4),
    "cube-quadruple-task3": (55, 1000, 4),
    "cube-quadruple-task4": (55, 1000, 4),
    "scene-task2": (40, 750, 5),  # cube, two buttons, drawer, window
    "puzzle-3x3-task4": (55, 500, 9),
    "puzzle-4x4-task4": (83, 500, 16),
}


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


@pytest.mark.parametrize("key", ["scene-task2", "puzzle-3x3-task4"])
def test_button_tasks_are_functions_of_seed_and_actions_too(key):
    environment = make_environment(TASKS[key])
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


# --------------------------------------------------------------------------- reward, success, cap: every task


def set_goal(inner, above: float = 0.0, toggled: bool = False) -> None:
    """Put all parts of the world into the goal; or cubes ``above`` it [m], and buttons, drawer and window apart."""
    goal = inner.cur_task_info.get("goal", inner.cur_task_info)
    cubes = goal.get("goal_xyzs", goal.get("block_xyzs", np.zeros((0, 3))))
    for index, place in enumerate(cubes):
        inner.data.joint(f"object_joint_{index}").qpos[:] = (*place[:2], place[2] + above, 1, 0, 0, 0)
    if hasattr(inner, "_cur_button_states"):
        states = goal.get("goal_button_states", goal.get("button_states"))
        inner._cur_button_states = np.array(1 - states if toggled else states)
    for name, apart in (("drawer", -0.16), ("window", 0.2)):
        if f"{name}_pos" in goal:
            inner.data.joint(f"{name}_slide").qpos[0] = apart if toggled else goal[f"{name}_pos"]


def set_last_part_to_arrive(inner) -> float:
    """Everything is in the goal but what the next step brings there. The reward until then."""
    set_goal(inner)
    if hasattr(inner, "_cur_button_states"):  # press button 0, which on a puzzle switches its neighbours too
        switched = [0, 1, inner._num_cols] if hasattr(inner, "_num_cols") else [0]
        inner._cur_button_states[switched] ^= 1
        inner.data.qfrc_applied[inner.model.joint("buttonbox_joint_0").dofadr[0]] = -5.0
        return -float(len(switched))
    last = inner.data.joint(f"object_joint_{inner._num_cubes - 1}")  # slides to within 0.04 m of its goal
    last.qpos[0] -= 0.045
    last.qvel[0] = 0.5
    return -1.0


def test_all_tasks_of_the_suite_are_looked_at():
    assert set(FACTS) == {key for key, task in TASKS.items() if task.suite == "ogbench"}
    assert {key: (TASKS[key].observation_size, TASKS[key].max_episode_steps) for key in FACTS} == {
        key: facts[:2] for key, facts in FACTS.items()
    }


@pytest.fixture(scope="module", params=FACTS)
def world(request):
    """An environment of each task; its reward is judged after the action."""
    environment = make_environment(TASKS[request.param])
    yield environment, *FACTS[request.param]
    environment.close()


def test_width_and_cap(world):
    environment, width, cap, _ = world
    assert environment.reset(0).shape == (width,)
    environment.simulator._elapsed_steps = cap - 2  # TimeLimit's count
    steps = [environment.step(np.zeros(5, np.float32)) for _ in range(2)]
    assert [step.observation.shape for step in steps] == [(width,)] * 2
    assert [step.truncated for step in steps] == [False, True]
    assert not any(step.terminated or step.success for step in steps)


def test_reward_counts_the_parts_that_are_not_in_place(world):
    environment, _, _, parts = world
    inner = environment.simulator.unwrapped
    environment.reset(0)
    set_goal(inner, above=0.08, toggled=True)
    assert environment.step(np.zeros(5, np.float32))[1:] == (-float(parts), False, False, False)
    environment.reset(0)
    set_goal(inner)
    assert environment.step(np.zeros(5, np.float32))[1:] == (0.0, True, False, True)


def test_post_timing_rewards_the_step_that_reaches(world):
    environment, *_ = world
    environment.reset(0)
    set_last_part_to_arrive(environment.simulator.unwrapped)
    assert environment.step(np.zeros(5, np.float32))[1:] == (0.0, True, False, True)


@pytest.mark.parametrize("key", FACTS)
def test_pre_timing_rewards_the_step_after(key):
    environment = make_environment(TASKS[key].model_copy(update={"success_timing": "pre"}))
    environment.reset(0)
    before = set_last_part_to_arrive(environment.simulator.unwrapped)
    reaching, after = (environment.step(np.zeros(5, np.float32)) for _ in range(2))
    assert reaching[1:] == (before, False, False, False)
    assert after[1:] == (0.0, True, False, True)
    environment.close()


def test_siblings_do_not_share_the_locks_of_a_scene():
    """The locks are damping in the model, which siblings share: one's drawer is open, the other's locked."""
    first = make_environment(TASKS["scene-task2"])

    def begin(environment, button: int) -> None:
        environment.reset(3)
        inner = environment.simulator.unwrapped
        inner.data.joint("drawer_slide").qpos[0] = -0.02
        inner.data.qfrc_applied[inner.model.joint("drawer_slide").dofadr[0]] = -5.0  # pulls it open
        inner._cur_button_states[0] = button
        environment.step(np.zeros(5, np.float32))  # locks or unlocks

    def alone(button: int) -> np.ndarray:
        environment = first.sibling()
        begin(environment, button)
        return np.array([environment.step(action).observation for action in actions(1, 20)])

    siblings = [first.sibling(), first.sibling()]
    for button, environment in enumerate(siblings):
        begin(environment, button)
    steps = [[environment.step(action).observation for environment in siblings] for action in actions(1, 20)]
    together = np.array(steps).swapaxes(0, 1)
    for button in (0, 1):
        assert together[button].tobytes() == alone(button).tobytes()
    drawer = 36  # column of the drawer's place, 1 / 18 m
    assert abs(together[0, -1, drawer] - together[0, 0, drawer]) < 1e-3
    assert together[1, -1, drawer] < together[1, 0, drawer] - 0.5
    first.close()


# --------------------------------------------------------------------------- what is refused


def test_an_environment_without_success_flag_is_refused(monkeypatch):
    step = ManipSpaceEnv.step

    def without(self, action):
        *result, info = step(self, action)
        del info["success"]
        return *result, info

    monkeypatch.setattr(ManipSpaceEnv, "step", without)
    with pytest.raises(ConfigError, match=r"^environment 'cube-single-singletask-task2-v0': .*'success'"):
        make_environment(CUBE)


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
    with pytest.raises(ConfigError, match=r"'mujoco': .*3\.7\.0.*3\.1\.6$"):
        make_environment(CUBE)


def test_a_missing_simulator_is_refused(monkeypatch):
    monkeypatch.setitem(adapter.SIMULATOR, "no-such-package", "1.0")
    with pytest.raises(ConfigError, match=r"'no-such-package': .*none.*1\.0$"):
        make_environment(CUBE)


def test_workers_need_neither_jax_nor_opengl():
    """Evaluation and recording processes import all of this, on nodes without a display."""
    script = (
        "import sys; from dfp.tasks import dataset, download, make_environment; from dfp.tasks.ogbench import experts; "
        "from dfp.plan.catalogue import load_catalogue; "
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
