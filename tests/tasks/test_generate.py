"""Generated datasets: the simulator's own experts, and recordings that interruptions cannot change."""

import functools
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import ogbench.utils
import pytest
from ogbench.relabel_utils import relabel_dataset
from support.helpers import CUBE, TASKS, WHOLE, logged, wait_until

from dfp.spec import ConfigError, DataSpec
from dfp.tasks import load_dataset, make_environment, manifest_path, prepare_dataset, recording
from dfp.tasks.interface import DataError
from dfp.tasks.ogbench import environment as adapter
from dfp.tasks.ogbench import experts, suite
from dfp.tasks.ogbench.environment import make_simulator

STEPS = 130  # enough for an expert to finish a plan
RECORDED = DataSpec(source="generate", episodes=3, seed=11)


def record_here(data_dir: Path, processes: int) -> tuple[dict, list[str]]:
    with logged() as lines:
        path = prepare_dataset(CUBE, RECORDED, data_dir, processes)
    return json.loads(path.read_text()), lines


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Three short episodes by two processes: folder, manifest, lines of progress."""
    data_dir = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "EPISODE_STEPS", STEPS)
        manifest, lines = record_here(data_dir, processes=2)
        yield data_dir, manifest, lines


def test_the_rows_do_not_depend_on_the_kernels_that_a_cpu_would_choose(recorded, tmp_path, monkeypatch):
    """OpenBLAS chooses by the CPU. With another choice, a plan's rows differ, unless the recording fixes it."""
    _, manifest, _ = recorded
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")
    monkeypatch.setenv("NPY_DISABLE_CPU_FEATURES", "X86_V3")
    monkeypatch.setattr(suite, "EPISODE_STEPS", STEPS)
    assert record_here(tmp_path, processes=1)[0] == manifest
    assert os.environ["OPENBLAS_CORETYPE"] == "Nehalem"


def test_a_cpu_without_those_kernels_keeps_its_own(monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.setattr(np, "show_config", lambda mode: {"SIMD Extensions": {"baseline": ["X86_V2"]}})
    with recording._common_arithmetic():
        assert "OPENBLAS_CORETYPE" not in os.environ


def test_a_generated_dataset_is_described(recorded):
    data_dir, manifest, lines = recorded
    folder = data_dir / "generate" / "cube-single-play-v0-3x130-seed11-v1"
    assert sorted(path.name for path in folder.iterdir()) == WHOLE
    assert manifest["source"] == "generate"
    assert (manifest["episodes"], manifest["seed"], manifest["rows"]) == (3, 11, 3 * STEPS)
    assert manifest["versions"]["mujoco"] == "3.7.0"
    assert manifest["plans"] >= manifest["plans_reached"] >= 1
    assert [line.split(": ")[1] for line in lines] == ["1 of 3 episodes", "2 of 3 episodes", "3 of 3 episodes"]


def test_generated_episodes_are_ogbenchs_own_format(recorded):
    """Read by OGBench's loader and relabelled by OGBench, the rows are those that our reader gives."""
    data_dir, manifest, _ = recorded
    file = manifest_path(CUBE, RECORDED, data_dir).with_name(manifest["files"][0]["name"])
    theirs = ogbench.utils.load_dataset(file, add_info=True)
    with warnings.catch_warnings(action="ignore"):  # of OGBench's own action spaces
        relabel_dataset(CUBE.environment, make_simulator(CUBE.environment), theirs)
    ours = load_dataset(CUBE, RECORDED, data_dir)
    assert np.array_equal(ours.observations, theirs["observations"])
    assert np.array_equal(ours.actions, np.clip(theirs["actions"], -(1 - 1e-5), 1 - 1e-5))
    assert np.array_equal(ours.rewards, theirs["rewards"])
    assert np.array_equal(ours.masks, theirs["masks"])
    assert np.array_equal(ours.terminals, theirs["terminals"])
    following = np.concatenate([ours.observations[1:], ours.final_observations[-1:]])
    following[ours.terminals] = ours.final_observations
    assert np.array_equal(following, theirs["next_observations"])
    assert ours.terminals.nonzero()[0].tolist() == [STEPS - 1, 2 * STEPS - 1, 3 * STEPS - 1]


def test_experts_move_the_cube(recorded):
    data_dir, manifest, _ = recorded
    with np.load(manifest_path(CUBE, RECORDED, data_dir).with_name(manifest["files"][0]["name"])) as archive:
        observations = archive["observations"].reshape(3, STEPS + 1, 28)
        qpos = archive["qpos"].reshape(3, STEPS + 1, 21)
    assert np.array_equal(observations[..., :6], qpos[..., :6])  # the arm's joints: a row is one moment
    assert (qpos[..., 16].max(axis=1) > 0.05).any()  # the cube's height in metres: lifted
    assert len(np.unique(observations[:, 0], axis=0)) == 3


def start_elsewhere(data_dir: Path) -> subprocess.Popen:
    script = (
        "import sys; from pathlib import Path; from dfp.spec import DataSpec, TaskSpec; "
        "from dfp.tasks import prepare_dataset; from dfp.tasks.ogbench import suite; "
        "task, data, data_dir, suite.EPISODE_STEPS = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]); "
        "prepare_dataset(TaskSpec.model_validate_json(task), DataSpec.model_validate_json(data), "
        "Path(data_dir), 1)"
    )
    arguments = [CUBE.model_dump_json(), RECORDED.model_dump_json(), str(data_dir), str(STEPS)]
    return subprocess.Popen([sys.executable, "-c", script, *arguments], start_new_session=True)


def members(group: int) -> list[int]:
    """Live processes of a process group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, leader = entry.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(leader) == group and state != "Z":
            found.append(int(entry.parent.name))
    return found


def test_a_killed_recording_is_taken_up_and_ends_as_if_never_killed(tmp_path, recorded):
    data_dir, manifest, _ = recorded
    folder = manifest_path(CUBE, RECORDED, tmp_path).parent
    job = start_elsewhere(tmp_path)
    wait_until(lambda: any(folder.glob("parts/[0-9]*")))
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    wait_until(lambda: not members(job.pid))  # its recording process ends with it
    kept = len(list(folder.glob("parts/[0-9]*")))
    assert 1 <= kept < 3
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "parts"]

    resumed, lines = record_here(tmp_path, processes=1)
    assert len(lines) == 3 - kept
    assert resumed == manifest
    file = manifest["files"][0]["name"]
    assert (folder / file).read_bytes() == manifest_path(CUBE, RECORDED, data_dir).with_name(file).read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == WHOLE


@pytest.fixture
def parts(tmp_path, recorded, monkeypatch):
    """A folder with the three episodes still in parts, and files of two episodes in place of a thousand."""
    data_dir, manifest, _ = recorded
    monkeypatch.setattr(experts, "EPISODES_PER_FILE", 2)
    whole = manifest_path(CUBE, RECORDED, data_dir).with_name(manifest["files"][0]["name"])
    (tmp_path / "parts").mkdir()
    with np.load(whole) as archive:
        for episode in range(3):
            rows = slice(episode * (STEPS + 1), (episode + 1) * (STEPS + 1))
            content = {name: archive[name][rows] for name in archive.files if name != "plans"}
            with (tmp_path / "parts" / f"{episode:06d}").open("wb") as stream:
                np.savez(stream, **content, plans=archive["plans"][episode : episode + 1])
    return tmp_path, whole, {name: manifest[name] for name in ("plans", "plans_reached")}


def test_a_thousand_episodes_make_a_file_of_a_task_with_several(parts):
    """The episodes are those of the single file, whatever files they lie in."""
    folder, whole, facts = parts
    split = experts.generate(CUBE.model_copy(update={"shards": 2}), RECORDED, folder, 1, STEPS)
    assert split.names == ["cube-single-play-v0-000.npz", "cube-single-play-v0-001.npz"]
    assert split.facts == facts
    with np.load(whole) as archive, np.load(folder / "cube-single-play-v0-001.npz") as last:
        assert np.array_equal(last["observations"], archive["observations"][2 * (STEPS + 1) :])


def test_a_task_of_one_file_has_all_episodes_in_it(parts):
    """Of several files training would use one at a time, and the online buffer one alone."""
    folder, whole, facts = parts
    joined = experts.generate(CUBE, RECORDED, folder, 1, STEPS)
    assert joined.names == ["cube-single-play-v0.npz"]
    assert joined.facts == facts
    with np.load(whole) as archive, np.load(folder / "cube-single-play-v0.npz") as file:
        assert np.array_equal(file["observations"], archive["observations"])


def test_a_recording_process_that_dies_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "_obey_parent", functools.partial(os._exit, 9))
    with pytest.raises(DataError, match=r"recording process died"):
        record_here(tmp_path, processes=1)


def test_a_dataset_without_expert_is_refused(tmp_path):
    octuple = CUBE.model_copy(update={"dataset": "cube-octuple-play-v0"})
    with pytest.raises(ConfigError, match=r"'cube-octuple-play-v0'; allowed: cube-single-play-v0, "):
        prepare_dataset(octuple, RECORDED, tmp_path, 1)


# --------------------------------------------------------------------------- drawers, windows and buttons

BUTTON_TASKS = ["scene-task2", "puzzle-3x3-task4", "puzzle-4x4-task4"]
SEED = {"scene-task2": 3, "puzzle-3x3-task4": 0, "puzzle-4x4-task4": 0}  # of an episode whose reward changes early


@pytest.fixture(scope="module", params=BUTTON_TASKS)
def button_episode(request):
    """A task with buttons, and an episode of its expert."""
    task = TASKS[request.param]
    return task, experts.record_episode(task.dataset, SEED[task.key], 0, STEPS)


def test_episodes_with_buttons_are_functions_of_seed_and_number(button_episode):
    task, episode = button_episode
    other = experts.record_episode(task.dataset, SEED[task.key], 1, STEPS)
    again = experts.record_episode(task.dataset, SEED[task.key], 0, STEPS)
    assert {name: column.tobytes() for name, column in episode.items()} == {
        name: column.tobytes() for name, column in again.items()
    }
    assert not np.array_equal(other["observations"][0], episode["observations"][0])


def test_buttons_are_recorded_as_the_state_before_each_action(button_episode):
    task, episode = button_episode
    count = {"scene-task2": 2, "puzzle-3x3-task4": 9, "puzzle-4x4-task4": 16}[task.key]
    first = {"scene-task2": 28, "puzzle-3x3-task4": 19, "puzzle-4x4-task4": 19}[task.key]
    states = episode["button_states"]
    assert (states.shape, states.dtype) == ((STEPS + 1, count), np.int64)
    assert set(np.unique(states)) == {0, 1}
    assert (np.diff(states, axis=0) != 0).any()  # the expert pressed one
    # An observation shows a button as (is it 0, is it 1, position, speed): a row is one moment.
    shown = episode["observations"][:, first : first + 4 * count].reshape(STEPS + 1, count, 4)
    assert np.array_equal(shown[:, :, 1], states)
    assert episode["plans"][0, 0] >= episode["plans"][0, 1] >= 1


def test_the_gripper_stays_closed_on_a_puzzle(button_episode):
    task, episode = button_episode
    opening = episode["observations"][20:, 17] / 3  # in [0, 1]; 0 is open
    assert (opening.min() > 0.5) == task.key.startswith("puzzle")


@pytest.mark.parametrize("timing", ["pre", "post"])
def test_rewards_of_recorded_rows_are_the_environments_own(button_episode, timing):
    """The expert's actions once more, in the task's environment, from the state in which the episode began."""
    task, episode = button_episode
    environment = make_environment(task.model_copy(update={"success_timing": timing}))
    environment.reset(0)
    inner = environment.simulator.unwrapped
    inner.set_state(episode["qpos"][0].astype(float), episode["qvel"][0].astype(float), episode["button_states"][0])
    inner._success = False
    visited, lived = {"qpos": [], "button_states": []}, []
    for action in episode["actions"]:
        _, reward, _, _, info = environment.simulator.step(action)
        lived.append(reward)
        for name, column in visited.items():
            column.append(info[f"prev_{name}"])
    environment.close()
    rewards, masks = adapter.rewards_and_masks(task, {name: np.array(column) for name, column in visited.items()})
    shift = 0 if timing == "pre" else 1  # after an action is before the next one
    assert rewards[shift:].tolist() == lived[: len(lived) - shift]
    assert len(set(lived)) > 1
    assert masks.tolist() == [float(reward < 0) for reward in rewards]


def test_rewards_of_stored_rows_are_the_environments_own(button_episode):
    """Row by row, with the world put into the stored state."""
    task, episode = button_episode
    rewards, _ = adapter.rewards_and_masks(task, episode)
    environment = make_environment(task)
    environment.reset(0)
    inner = environment.simulator.unwrapped
    for row in range(0, STEPS + 1, 5):
        state = (episode[name][row] for name in ("qpos", "qvel", "button_states"))
        inner.set_state(*state)
        assert inner.compute_reward() == rewards[row]
    environment.close()


def test_a_scene_whose_cube_gets_out_of_sight_is_begun_anew(monkeypatch):
    """Here a cube at y < 0 is out of sight, which the first attempt of this episode meets in its row 45."""
    expert = experts.EXPERTS["scene-play-v0"]
    seen = []

    def half(qpos: np.ndarray) -> bool:
        seen.append(bool(qpos[15] >= 0))
        return seen[-1]

    monkeypatch.setitem(experts.EXPERTS, "scene-play-v0", expert._replace(healthy=half))
    episode = experts.record_episode("scene-play-v0", 3, 17, 60)
    assert seen.index(False) == 45
    assert (episode["qpos"][:, 15] >= 0).all()
    assert len(episode["observations"]) == 61
    again = experts.record_episode("scene-play-v0", 3, 17, 60)
    assert np.array_equal(episode["observations"], again["observations"])


@pytest.mark.parametrize(
    ("cube", "seen"),
    [
        ((0.4, 0.1, 0.02), True),
        ((0.4, 0.30, 0.02), False),
        ((0.4, -0.31, 0.02), False),
        ((0.33, -0.356, 0.066), True),  # in the drawer
        ((0.33, -0.356, 0.1), False),
    ],
)
def test_what_is_in_sight_of_a_scene(cube, seen):
    assert experts.EXPERTS["scene-play-v0"].healthy(np.array([0.0] * 14 + list(cube))) == seen
