"""Seeds share nothing; several in one program equal single runs within rounding, each folder as of a run alone."""

import functools
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from support.small_runs import RandomShards, make_spec, metrics, options, values

from dfp.errors import STOPPED
from dfp.runs.attempts import read_attempts
from dfp.runs.folder import Evaluation
from dfp.runs.layout import FINAL_STATE
from dfp.spec import RunSpec
from dfp.training import offline, seeds, session, stages
from dfp.training.offline import OfflineLoop, Shards
from dfp.training.rollout import episode_seed
from dfp.training.seeds import pretrain_seeds
from dfp.training.session import Session, build_agent

METHODS = ("dfp", "mvp", "qc-fql")
ROUNDING = 1e-5  # of weights and means of order 1 after 40 updates of 3e-4; two seeds differ by more than 1


class Played:
    """In place of the simulators: the return is the sum of the chunks that the policy chooses for two states."""

    def __init__(self, task, episodes, workers=None) -> None:
        self.states = np.linspace(-1, 1, 2 * task.observation_size, dtype=np.float32).reshape(2, -1)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass

    def evaluate(self, policy, seeds) -> Evaluation:
        return Evaluation(0.5, len(seeds), float(policy(self.states, np.arange(2), np.zeros(2, int)).sum()), 200.0)


def without_data_and_simulator(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(offline, "ShardReader", RandomShards)
    for module in (session, seeds):
        patch.setattr(module, "Evaluator", Played)


@pytest.fixture(autouse=True, scope="module")
def _no_data_and_no_simulator():
    with pytest.MonkeyPatch.context() as patch:
        without_data_and_simulator(patch)
        yield


def spec_of(method: str, seed: int) -> RunSpec:
    """40 updates, a row of the log after each, evaluations after 25 and 40."""
    return make_spec(method, seed=seed, evaluation={"interval": 25, "episodes": 2}).pretraining()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of seeds 0 and 1 of a method, each trained by itself."""

    @functools.cache
    def trained(method: str) -> Path:
        folder = tmp_path_factory.mktemp(method)
        for seed in (0, 1):
            stages.pretrain(spec_of(method, seed), folder / f"seed{seed}", options())
        return folder

    return trained


def train(folder: Path, method: str = "dfp", **changes) -> list[int]:
    return pretrain_seeds([(spec_of(method, seed), folder / f"seed{seed}") for seed in (0, 1)], options(**changes))


def assert_equal_within_rounding(folder: Path, alone: Path) -> None:
    for seed in ("seed0", "seed1"):
        single, run = alone / seed, folder / seed
        with np.load(single / FINAL_STATE) as wanted, np.load(run / FINAL_STATE) as found:
            for name in set(wanted.files) - {"stamp"}:
                np.testing.assert_allclose(found[name], wanted[name], rtol=ROUNDING, atol=ROUNDING, err_msg=name)
            assert found["stamp"].tobytes() == wanted["stamp"].tobytes()
        ours, theirs = metrics(run), metrics(single)
        returns = [[float(row.pop("return_mean")) for row in rows] for rows in (ours, theirs)]
        assert ours == theirs
        assert returns[0] == pytest.approx(returns[1], abs=ROUNDING)
        assert [row[:3] for row in values(run)] == [row[:3] for row in values(single)]
        terms = [[value for *_, value in values(one)] for one in (run, single)]
        assert terms[0] == pytest.approx(terms[1], rel=1e-4, abs=ROUNDING)


# --------------------------------------------------------------------------- one seed


def test_two_seeds_begin_with_other_networks_and_draw_other_batches(tmp_path):
    kernels, keys = [], []
    for seed in (0, 5):
        spec = spec_of("dfp", seed)
        with Session(spec, tmp_path / f"seed{seed}", options(), 40) as one, Shards(spec, tmp_path) as shards:
            loop = OfflineLoop(one, shards)
        critics = loop.state.critic["params"]["VmapMLP_0"]
        kernels.append([layers["Dense_1"]["kernel"] for layers in (loop.state.actor["params"], critics)])
        keys.append(jax.random.key_data(loop.key).tolist())
    for ours, theirs in zip(*kernels, strict=True):
        assert np.all(ours != theirs)
    # The key of the batches and of the updates' noise: 2918445923 is the CRC-32 of "data".
    expected = [jax.random.fold_in(jax.random.key(seed), 2918445923) for seed in (0, 5)]
    assert keys == [jax.random.key_data(key).tolist() for key in expected]


class Noted:
    """In place of the simulators: it keeps the reset seeds, and the chunks of two episodes that are in one state."""

    def __init__(self) -> None:
        self.starts: list[list[int]] = []
        self.chunks: list[list[bytes]] = []

    def evaluate(self, policy, seeds) -> Evaluation:
        self.starts.append(list(seeds))
        chunks = policy(np.zeros((2, 28), np.float32), np.arange(2), np.zeros(2, int))
        self.chunks.append([chunk.tobytes() for chunk in chunks])
        return Evaluation(0.5, len(seeds), -200.0, 200.0)


def test_every_evaluation_of_every_seed_has_starts_and_noise_of_its_own(tmp_path):
    """Of one and the same policy; and the same evaluation is the same again."""
    noted = Noted()
    for seed in (0, 5):
        with Session(spec_of("dfp", seed), tmp_path / f"seed{seed}", options(), 40) as one:
            one.evaluator = noted  # pyright: ignore[reportAttributeAccessIssue]
            state = jax.jit(one.agent.init)(jax.random.key(0))
            for step in (25, 40):
                one.evaluate(state, step)
            one.evaluate(state, 40)
    assert noted.starts[4] == [episode_seed(5, "evaluation", 40, number) for number in (0, 1)]
    for found in (noted.starts, noted.chunks):
        assert (found[1], found[4]) == (found[2], found[5])
        assert len({number for evaluation in found for number in evaluation}) == 2 * 4


def test_an_online_evaluation_has_other_starts_and_noise_than_the_offline_one_of_as_many_steps(tmp_path):
    noted, online = Noted(), make_spec()
    for spec, name, steps in ((online.pretraining(), "pretrained", 40), (online, "run", 450)):
        with Session(spec, tmp_path / name, options(), steps, tmp_path) as one:
            one.evaluator = noted  # pyright: ignore[reportAttributeAccessIssue]
            one.evaluate(jax.jit(build_agent(online).init)(jax.random.key(0)), 25)
    assert not set(noted.starts[0]) & set(noted.starts[1])
    assert not set(noted.chunks[0]) & set(noted.chunks[1])


def test_what_is_evaluated_is_the_policy_as_it_acts(tmp_path):
    """Neither its average nor the target critic has a part in it."""
    chunks = []
    with Session(make_spec(), tmp_path / "run", options(), 450, tmp_path) as one:
        one.evaluator = noted = Noted()  # pyright: ignore[reportAttributeAccessIssue]
        first, other = (jax.jit(one.agent.init)(jax.random.key(number)) for number in (0, 1))
        live = first._replace(anchor=other.actor, target_critic=other.critic)
        for state in (live, first, live._replace(actor=other.actor), live._replace(critic=other.critic)):
            one.evaluate(state, 225)
            chunks.append(noted.chunks[-1])
    assert chunks[0] == chunks[1]
    assert chunks[0] != chunks[2]
    assert chunks[0] != chunks[3]


def test_an_offline_run_is_evaluated_after_every_interval_and_at_its_end(alone):
    assert [(row["phase"], row["step"]) for row in metrics(alone("dfp") / "seed0")] == [
        ("offline", "25"),
        ("offline", "40"),
    ]


def stop_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Late once the session has seen the step: a run alone saves there, seeds together after their next block."""
    patch.setattr(Session, "late", lambda self: self._step >= step)


@pytest.mark.parametrize("together", [False, True])
def test_an_evaluation_at_the_step_of_a_checkpoint_is_kept(alone, tmp_path, monkeypatch, together):
    if together:
        stop_at(monkeypatch, 24)
        assert train(tmp_path) == [75, 75]
    else:
        stop_at(monkeypatch, 25)
        with pytest.raises(stages.Unfinished, match="at step 25 of 40"):
            stages.pretrain(spec_of("dfp", 0), tmp_path / "seed0", options())
    stop_at(monkeypatch, 1000)
    stages.pretrain(spec_of("dfp", 0), tmp_path / "seed0", options())
    assert read_attempts(tmp_path / "seed0")[-1].from_step == 25
    assert [row["step"] for row in metrics(tmp_path / "seed0")] == ["25", "40"]


# --------------------------------------------------------------------------- several in one program


class Stand:
    """In place of a seed."""

    def __init__(self, loop, advance) -> None:
        self.loop, self.advance = loop, advance


def test_seeds_behind_go_no_further_than_those_ahead(monkeypatch):
    """Two at step 3 and one at step 10, with room for a block of 64: seven updates of the two."""
    made, advanced = [], []

    def seed(number: int, step: int) -> Stand:
        folder = SimpleNamespace(companions=set())
        one = SimpleNamespace(folder=folder, checkpoint_is_due=lambda: False)
        loop = SimpleNamespace(
            step=step, session=one, spec=SimpleNamespace(seed=number), updates_to_next_stop=lambda: 30
        )
        return Stand(loop, lambda updated: advanced.append((number, updated.count)))

    def noted(loops, rows, count):
        made.append((len(loops), rows, count))
        return loops

    monkeypatch.setattr(seeds, "updates", noted)
    shards = SimpleNamespace(buffer=lambda step: f"rows of update {step}")
    seeds.update_together([seed(0, 3), seed(1, 10), seed(2, 3)], shards, 64)  # pyright: ignore
    assert made == [(2, "rows of update 3", 7)]
    assert advanced == [(0, 7), (2, 7)]


def manifest(run: Path) -> dict:
    return json.loads((run / "manifest.json").read_text())


@pytest.mark.parametrize("method", METHODS)
def test_seeds_in_one_program_end_as_single_runs(alone, tmp_path, method):
    assert train(tmp_path, method) == [0, 0]
    assert_equal_within_rounding(tmp_path, alone(method))
    for seed in (0, 1):
        run, single = tmp_path / f"seed{seed}", alone(method) / f"seed{seed}"
        assert {path.name for path in run.iterdir()} == {path.name for path in single.iterdir()}
        assert manifest(run).pop("companions") == [1 - seed]
        assert manifest(run).keys() - manifest(single).keys() == {"companions"}
        assert manifest(run)["digest"] == spec_of(method, seed).digest()
        assert [(one.reason, one.step) for one in read_attempts(run)] == [("finished", 40)]
        assert (run / "train.log").read_text().count("finished after") == 1


def test_a_seed_ahead_of_another_waits_for_it(alone, tmp_path, monkeypatch, capsys):
    """Seed 0 stopped alone at step 7, both together at 20; then seed 1 is trained by itself to step 30."""
    together = []
    of_seeds = seeds.offline_updates_of_seeds

    def noted(agent, states, rows, keys, first, count):
        together.append(first)
        return of_seeds(agent, states, rows, keys, first, count)

    monkeypatch.setattr(seeds, "offline_updates_of_seeds", noted)

    stop_at(monkeypatch, 7)
    with pytest.raises(stages.Unfinished):
        stages.pretrain(spec_of("dfp", 0), tmp_path / "seed0", options())
    stop_at(monkeypatch, 19)
    assert train(tmp_path) == [75, 75]
    assert together == list(range(7, 20))
    stop_at(monkeypatch, 30)
    with pytest.raises(stages.Unfinished):
        stages.pretrain(spec_of("dfp", 1), tmp_path / "seed1", options())
    stop_at(monkeypatch, 1000)
    assert train(tmp_path) == [0, 0]
    assert together == [*range(7, 20), *range(30, 40)]
    assert_equal_within_rounding(tmp_path, alone("dfp"))
    steps = [[(one.from_step, one.step) for one in read_attempts(tmp_path / seed)] for seed in ("seed0", "seed1")]
    assert steps == [[(0, 7), (7, 20), (20, 40)], [(0, 20), (20, 30), (30, 40)]]
    assert capsys.readouterr().err.count("deadline reached at step 20 of 40; run it again") == 2


def _attempt(folder: Path) -> None:
    without_data_and_simulator(pytest.MonkeyPatch())
    train(folder, checkpoint_s=0.0)


@pytest.mark.slow
def test_a_kill_leaves_every_seed_its_checkpoint(alone, tmp_path):
    """kill -9 as soon as the last seed has saved, while the first one goes on."""
    process = multiprocessing.get_context("spawn").Process(target=_attempt, args=(tmp_path,))
    process.start()
    while process.is_alive() and not list((tmp_path / "seed1").glob("checkpoint-*.npz")):
        time.sleep(0.0005)
    process.kill()
    process.join()
    assert not list(tmp_path.glob("*/metrics.csv"))
    assert train(tmp_path) == [0, 0]
    assert_equal_within_rounding(tmp_path, alone("dfp"))
    for seed in ("seed0", "seed1"):
        killed, finished = read_attempts(tmp_path / seed)
        assert (killed.reason, finished.reason) == ("killed", "finished")
        assert finished.from_step > 0


def test_a_finished_seed_is_left_alone(alone, tmp_path):
    stages.pretrain(spec_of("dfp", 0), tmp_path / "seed0", options())
    finished = manifest(tmp_path / "seed0")
    assert train(tmp_path) == [0, 0]
    assert manifest(tmp_path / "seed0") == finished
    assert "companions" not in manifest(tmp_path / "seed1")
    assert (tmp_path / "seed1" / FINAL_STATE).read_bytes() == (alone("dfp") / "seed1" / FINAL_STATE).read_bytes()


def test_a_seed_that_fails_leaves_the_others_training(tmp_path, monkeypatch, capsys):
    take = OfflineLoop.take

    def poisoned(loop, result, count):
        if loop.spec.seed == 1 and loop.step == 5:
            state, diagnostics = result
            bad = diagnostics.first_bad | {"critic_loss": np.int32(5)}
            result = state, diagnostics._replace(first_bad=bad)
        take(loop, result, count)

    monkeypatch.setattr(OfflineLoop, "take", poisoned)
    assert train(tmp_path) == [0, STOPPED]
    assert "seed1: critic_loss is not finite at step 5" in capsys.readouterr().err
    (attempt,) = read_attempts(tmp_path / "seed1")
    assert (attempt.code, attempt.step) == (STOPPED, 6)
    monkeypatch.undo()
    assert read_attempts(tmp_path / "seed0")[-1].reason == "finished"
    assert not (tmp_path / "seed1" / "metrics.csv").exists()
    assert not list(tmp_path.glob("*/.lease*"))


def test_an_interruption_ends_every_seed(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(seeds, "offline_updates_of_seeds", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert [read_attempts(tmp_path / seed)[-1].code for seed in ("seed0", "seed1")] == [130, 130]


def test_a_checkpoint_is_of_all_seeds_at_one_step(tmp_path, monkeypatch):
    """Though the clock of one alone says that it is due."""
    saved = []
    save = Session.save

    def noted(self, step, state, *rest):
        saved.append((self.spec.seed, step))
        save(self, step, state, *rest)

    monkeypatch.setattr(Session, "save", noted)
    monkeypatch.setattr(Session, "checkpoint_is_due", lambda self: self.spec.seed == 1 and self._step == 12)
    assert train(tmp_path) == [0, 0]
    assert saved == [(0, 13), (1, 13)]
