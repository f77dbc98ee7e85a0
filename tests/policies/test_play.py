"""What a saved policy is asked to do outside training: to be measured, to be filmed; and the gallery of the tasks."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import pytest
import yaml
from support.helpers import POINT, logged
from support.snakemake import planned

import dfp
from dfp.plan.catalogue import CATALOGUE, load_catalogue, load_config, run_spec
from dfp.policies import evaluate, gallery
from dfp.report.figures.curves import write_figure
from dfp.report.figures.gallery import HEADER
from dfp.runs.checkpoint import save
from dfp.runs.folder import RunFolder
from dfp.runs.layout import FINAL_STATE
from dfp.spec import ConfigError
from dfp.tasks import open_view, rendering
from dfp.training.rollout import Evaluation
from dfp.training.session import build_agent

ENTRIES = load_catalogue()


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy of toy size for the point mass, with fresh weights."""
    folder = tmp_path_factory.mktemp("run")
    spec = run_spec(load_config(CATALOGUE / "smoke.yaml"), ENTRIES, "cube-single-task2", "dfp-no-topk", 0)
    agent = spec.agent.model_copy(update={"best_of": 2, "chunk": 3})
    spec = spec.model_copy(update={"task": POINT, "agent": agent}).pretraining()
    RunFolder(folder, spec).start(["python"], "cpu: cpu")
    save(folder / FINAL_STATE, jax.jit(build_agent(spec).init)(jax.random.key(1)), spec.digest(), {"step": 7})
    return dfp.load_policy(folder)


# --------------------------------------------------------------------------- evaluate


def test_an_evaluation_is_a_function_of_its_seed(policy):
    first, again = (evaluate.evaluate(policy, 4, seed=3, workers=workers) for workers in (1, 2))
    assert first == again
    assert first.episodes == 4
    states, numbers = np.zeros((2, 2), np.float32), np.arange(2)
    chunks, others = (evaluate.player(policy, seed)(states, numbers, numbers) for seed in (3, 4))
    assert not np.array_equal(chunks, others)
    assert evaluate.episode_seeds(3, 1) != evaluate.episode_seeds(4, 1)
    assert evaluate.episode_seeds(3, 2) == evaluate.episode_seeds(3, 4)[:2]
    assert len({*evaluate.episode_seeds(3, 4), *evaluate.episode_seeds(4, 4)}) == 8


def test_every_chunk_of_an_evaluation_has_noise_of_its_own(policy):
    """In one state: the first two chunks of two episodes, of two seeds."""
    states, episodes, numbers = np.zeros((4, 2), np.float32), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    chunks = [chunk.tobytes() for seed in (3, 4) for chunk in evaluate.player(policy, seed)(states, episodes, numbers)]
    assert len(set(chunks)) == 8


def test_a_success_is_not_lost_by_rounding(policy):
    """0.29 of 100 episodes is 28.999..., that is 29 of them."""
    assert 0.29 * 100 < 29
    found = Evaluation(success_rate=0.29, episodes=100, return_mean=0.0, length_mean=1.0)
    assert "95 % Wilson interval 21.0% to 38.5%" in evaluate.summary(policy, found, 3)


def test_a_summary_says_what_was_measured(policy):
    """Wilson by hand: (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), z = 1.95996."""
    found = Evaluation(success_rate=0.5, episodes=10, return_mean=-12.25, length_mean=15.0)
    assert evaluate.summary(policy, found, 3) == (
        "point-mass, pretrain step 7: success 50.0%, 95 % Wilson interval 23.7% to 76.3%, of 10 episodes (seed 3); "
        "return -12.2, length 15.0"
    )


# --------------------------------------------------------------------------- play


def film(path: Path) -> np.ndarray:
    imageio = pytest.importorskip("imageio.v3")
    return np.stack(list(imageio.imiter(path, plugin="FFMPEG")))


# imageio leaves the pipes of its ffmpeg to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_film_shows_the_episodes_that_evaluate_counts(policy, tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="uv sync --extra video")
    from dfp.policies.film import play

    with open_view(POINT) as view, logged() as lines:
        played = play(policy, view, 2, seed=3, file=tmp_path / "films/play.mp4")
    assert [path.name for path in (tmp_path / "films").iterdir()] == ["play.mp4"]
    counted = evaluate.evaluate(policy, 2, seed=3, workers=1)
    assert np.mean([episode.steps for episode in played]) == counted.length_mean
    assert np.mean([episode.success for episode in played]) == counted.success_rate
    result = "success" if played[1].success else "no success"
    assert lines[1] == f"episode 1: {result} after {played[1].steps} steps"

    frames = film(tmp_path / "films/play.mp4")
    assert frames.shape[1:] == (64, 64, 3)
    assert len(frames) == sum(episode.frames for episode in played)
    assert [episode.frames for episode in played] == [1 + episode.steps + 7 for episode in played]  # 0.7 s at 10 Hz
    with open_view(POINT) as view:
        view.environment.reset(evaluate.episode_seeds(3, 1)[0])
        start = view.frame()
    assert np.abs(frames[0].astype(int) - start).mean() < 5  # compressed
    gc.collect()


def test_a_film_without_its_packages_or_name_is_refused(policy, tmp_path, monkeypatch):
    from dfp.policies.film import play

    with open_view(POINT) as view:
        with pytest.raises(ConfigError, match=r"play\.gif: a film is an mp4 file"):
            play(policy, view, 1, 0, tmp_path / "play.gif")
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
        with pytest.raises(ConfigError, match=r"`uv sync --extra video`$"):
            play(policy, view, 1, 0, tmp_path / "play.mp4")
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------- drawing


def test_the_first_context_that_works_is_chosen(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")  # so that what was there, or nothing, comes back
    monkeypatch.setattr(rendering, "_works", lambda context: context == "osmesa")
    assert rendering.choose_context() == os.environ["MUJOCO_GL"] == "osmesa"
    assert rendering.choose_context() == "osmesa"  # as it is set
    monkeypatch.setattr(rendering, "_works", lambda context: False)
    with pytest.raises(ConfigError, match=r"^MUJOCO_GL .*'osmesa'"):
        rendering.choose_context()
    del os.environ["MUJOCO_GL"]
    with pytest.raises(ConfigError, match=r" egl .*osmesa .*libosmesa6"):
        rendering.choose_context()
    assert "MUJOCO_GL" not in os.environ


def test_a_name_in_capitals_is_written_as_the_simulators_want_it(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", " OSMesa")
    monkeypatch.setattr(rendering, "_works", lambda context: context == "osmesa")
    assert rendering.choose_context() == os.environ["MUJOCO_GL"] == "osmesa"


@pytest.mark.parametrize("name", ["no-such-context", "glfw"])
def test_a_context_that_cannot_be_made_does_not_work(monkeypatch, name):
    for display in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(display, raising=False)
    assert not rendering._works(name)


def test_a_view_of_its_own_takes_neither_camera_nor_size():
    for given in ({"camera": "front"}, {"size": (64, 64)}):
        with pytest.raises(ConfigError, match=r"'point-mass': camera and size "):
            open_view(POINT, **given)


def frames_of(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: MuJoCo chooses its context when it is imported."""
    preamble = (
        "from dfp.tasks import open_view, rendering; from dfp.spec import ConfigError\n"
        "from dfp.plan.catalogue import load_catalogue\n"
        "try: rendering.choose_context()\n"
        "except ConfigError: raise SystemExit('no OpenGL')\n"
        "import numpy as np; tasks = load_catalogue().tasks\n"
    )
    surroundings = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    done = subprocess.run(
        [sys.executable, "-c", preamble + script],
        cwd=folder, env=surroundings, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if "no OpenGL" in done.stderr:
        pytest.skip("no OpenGL here: apt-get install libosmesa6")
    return done


@pytest.mark.slow
def test_drawing_changes_nothing_and_shows_what_happens(tmp_path):
    script = """
task = tasks["cube-single-task2"].spec
with open_view(task, size=(96, 64)) as view:
    action = np.array([0.5, 0.5, -1, 0, 0], np.float32)
    def play(draw):
        view.environment.reset(5)
        frames = [view.frame()] if draw else []
        for _ in range(10):
            seen = view.environment.step(action).observation
            frames += [view.frame()] if draw else []
        return seen, frames
    (unseen, _), (seen, frames), (_, again) = play(False), play(True), play(True)
    assert unseen.tobytes() == seen.tobytes()
    assert all(frame.shape == (64, 96, 3) and frame.dtype == np.uint8 for frame in frames)
    assert all(np.array_equal(frame, twin) for frame, twin in zip(frames, again))
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 100  # the arm has moved
try:
    open_view(task, camera="back")
except ConfigError as error:
    print(error)
"""
    done = frames_of(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("task 'cube-single-task2': no camera 'back'; allowed: ")
    assert "front" in done.stdout


# --------------------------------------------------------------------------- the gallery


def point_catalogue():
    entry = ENTRIES.tasks["lift"].model_copy(update={"title": "a point", "spec": POINT})
    return ENTRIES.model_copy(update={"tasks": {"point-mass": entry}})


def test_figure_2_is_made_of_the_pictures_of_the_gallery(tmp_path):
    config = load_config(CATALOGUE / "smoke.yaml").model_copy(update={"tasks": ["point-mass"]})
    path = gallery.render_gallery(config, point_catalogue(), tmp_path, (640, 480))
    row = "point-mass,a point,point_mass:PointMass-v0,0,point-mass.png"
    assert path.read_text() == f"{','.join(HEADER)}\n{row}\n"
    with open_view(POINT) as view:
        view.environment.reset(0)
        drawn = matplotlib.image.imread(path.with_name("point-mass.png"))[..., :3]
        np.testing.assert_allclose(drawn, view.frame() / 255, atol=1e-6)
    made = write_figure(2, tmp_path)
    assert [file.name for file in made] == ["figure2.png", "figure2.pdf", "figure2.csv"]
    assert made[2].read_text() == path.read_text()
    bytes_before = made[0].read_bytes()
    assert write_figure(2, tmp_path)[0].read_bytes() == bytes_before


def test_figure_2_says_where_its_pictures_come_from(tmp_path):
    with pytest.raises(ConfigError, match=r"gallery/tasks\.csv: .*`dfp report gallery"):
        write_figure(2, tmp_path)


def test_the_report_draws_figure_2_without_a_simulator():
    names = "('jax', 'mujoco', 'gymnasium')"
    script = f"import sys, dfp.report.figures.curves; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"


def test_figure_2_has_a_rule_of_its_own(tmp_path):
    content = yaml.safe_load((CATALOGUE / "smoke.yaml").read_text()) | {"experiments": ["figure2", "figure3"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    assert planned("results/smoke/figure2.png", "--configfile", "config.yaml", folder=tmp_path) == {
        "runs": 1,
        "gallery": 1,
        "figure2": 1,
    }
