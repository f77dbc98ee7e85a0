"""The stages in the real simulator, at small size: equal bits, restarts, and data that do not belong together."""

import contextlib
import errno
import itertools
import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.small_runs import Poisoned, RandomShards, make_spec, metrics, options, values, weights

from dfp.runs import finished
from dfp.runs.attempts import read_attempts, spent_s
from dfp.runs.checkpoint import Rotation, load_final, save
from dfp.runs.finished import identity
from dfp.runs.value_log import read_values
from dfp.spec import ConfigError
from dfp.training import offline, session, stages
from dfp.training.online import OnlineLoop
from dfp.training.rollout import Checked, SimulatorError, episode_seed
from dfp.training.session import Session, build_agent


@pytest.fixture(autouse=True)
def _random_data(monkeypatch):
    monkeypatch.setattr(offline, "ShardReader", RandomShards)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining and a fine-tuning without interruption, in ``pre`` and ``run``."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offline, "ShardReader", RandomShards)
        stages.pretrain(make_spec().pretraining(), folder / "pre", options())
        stages.finetune(make_spec(), folder / "run", folder / "pre", options())
    return folder


def test_metrics_have_their_fixed_form(straight):
    header = (straight / "run" / "metrics.csv").read_text().splitlines()[0]
    assert header == "phase,step,success_rate,episodes,return_mean,length_mean,wall_s,env_steps"
    assert [(row["phase"], row["step"], row["env_steps"]) for row in metrics(straight / "pre")] == [
        ("offline", "40", "0")
    ]
    assert [(row["phase"], row["step"], row["env_steps"]) for row in metrics(straight / "run")] == [
        ("online", "265", "225"),
        ("online", "490", "450"),
    ]
    # An untrained policy never solves the task: 200 steps at -1.
    assert {(row["episodes"], row["return_mean"], row["length_mean"]) for row in metrics(straight / "run")} == {
        ("2", "-200.0", "200.0")
    }


def test_a_finished_run_is_left_alone(straight):
    before = (straight / "run" / "metrics.csv").stat().st_mtime_ns
    stages.finetune(make_spec(), straight / "run", straight / "pre", options())
    assert (straight / "run" / "metrics.csv").stat().st_mtime_ns == before


def test_the_same_spec_gives_the_same_bits_and_evaluating_changes_nothing(straight, tmp_path):
    """Another evaluation interval also cuts the updates into other dispatches, in the middle of chunks."""
    evaluation = make_spec().evaluation.model_copy(update={"interval": 97, "episodes": 1})
    spec = make_spec(evaluation=evaluation)
    stages.pretrain(spec.pretraining(), tmp_path / "pre", options())
    stages.finetune(spec, tmp_path / "run", tmp_path / "pre", options(checkpoint_s=0.0))
    assert weights(tmp_path / "pre") == weights(straight / "pre")
    assert weights(tmp_path / "run") == weights(straight / "run")
    assert [row["step"] for row in metrics(tmp_path / "run")] == ["137", "234", "331", "428", "490"]


def test_variants_start_from_the_same_offline_rows(straight, tmp_path):
    plain = make_spec("dfp-no-topk")
    assert plain.pretraining() == make_spec().pretraining()
    stages.finetune(plain, tmp_path / "run", straight / "pre", options())
    assert weights(tmp_path / "run") != weights(straight / "run")


def test_another_pretraining_is_refused(straight, tmp_path):
    with pytest.raises(ConfigError, match="belongs here"):
        stages.finetune(make_spec("mvp"), tmp_path / "run", straight / "pre", options())
    (attempt,) = read_attempts(tmp_path / "run")
    assert attempt.code == 2
    assert attempt.reason is not None
    assert attempt.reason.startswith("failed: ")
    assert "belongs here" in attempt.reason


def test_a_manifest_says_which_data_a_run_was_trained_on(straight):
    assert json.loads((straight / "pre" / "manifest.json").read_text())["data_sha256"] == RandomShards.sha256
    assert json.loads((straight / "run" / "manifest.json").read_text())["data_sha256"] == RandomShards.sha256


def test_a_fine_tuning_on_other_data_than_its_pretraining_is_refused(straight, tmp_path, monkeypatch):
    """Data generated on another machine can differ under the same description."""
    monkeypatch.setattr(RandomShards, "sha256", 64 * "1")
    with pytest.raises(stages.TrainingError) as error:
        stages.finetune(make_spec(), tmp_path / "run", straight / "pre", options())
    for part in ("unused/generate/", f"{straight / 'pre'}", 12 * "0", 12 * "1"):
        assert part in str(error.value)
    assert [attempt.step for attempt in read_attempts(tmp_path / "run")] == [0]


def late_at_every_second_look(patch: pytest.MonkeyPatch) -> None:
    """In time at the first episode's start; late at the second, and when it is looked at once more after saving."""
    looks = itertools.count()
    patch.setattr(Session, "late", lambda self: next(looks) % 3 > 0)


@pytest.fixture(scope="module")
def interrupted(straight, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same fine-tuning after two attempts, with checkpoints at steps 200 and 400."""
    run = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offline, "ShardReader", RandomShards)
        late_at_every_second_look(patch)
        for _ in range(2):
            with pytest.raises(stages.Unfinished, match="run it again"):
                stages.finetune(make_spec(), run, straight / "pre", options(deadline=1.0))
    return run


def test_a_deadline_saves_and_the_next_attempt_continues(straight, interrupted, tmp_path):
    run = shutil.copytree(interrupted, tmp_path / "run")
    assert not (run / "metrics.csv").exists()
    # What came after the newest checkpoint, and a line that a killed writer tore.
    late = "489,online,critic_loss,1.0,2026-01-01T00:00:00+00:00\n490,online,criti"
    with (run / "train.csv").open("a") as file:
        file.write(late)
    stages.finetune(make_spec(), run, straight / "pre", options())
    assert "(attempt 3)" in (run / "train.log").read_text()
    assert weights(run) == weights(straight / "run")
    assert metrics(run) == metrics(straight / "run")
    assert values(run) == values(straight / "run")
    assert not list(run.glob("checkpoint-*"))
    attempts = read_attempts(run)
    assert [(one.code, one.reason) for one in attempts] == [(75, "unfinished"), (75, "unfinished"), (0, "finished")]
    assert [(one.from_step, one.step) for one in attempts] == [(0, 200), (200, 400), (400, 450)]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["attempts"] == 3
    # Recorded to a tenth of a second.
    assert manifest["wall_s"] <= manifest["spent_s"] <= spent_s(attempts, now=0.0) + 0.05


def test_an_attempt_on_other_data_than_the_one_before_is_refused(interrupted, straight, tmp_path, monkeypatch):
    run, pre = shutil.copytree(interrupted, tmp_path / "run"), shutil.copytree(straight / "pre", tmp_path / "pre")
    manifest = json.loads((pre / "manifest.json").read_text())
    (pre / "manifest.json").write_text(json.dumps(manifest | {"data_sha256": None}))  # of an earlier version
    monkeypatch.setattr(RandomShards, "sha256", 64 * "1")
    with pytest.raises(stages.TrainingError, match=f"that {run} was trained on"):
        stages.finetune(make_spec(), run, pre, options())
    assert list(run.glob("checkpoint-*"))  # nothing is lost


def test_checkpoints_of_a_run_from_another_pretraining_are_refused(interrupted, straight, tmp_path):
    run, pre = shutil.copytree(interrupted, tmp_path / "run"), shutil.copytree(straight / "pre", tmp_path / "pre")
    spec = make_spec().pretraining()
    state, _ = load_final(pre, build_agent(spec).state_shape()._replace(anchor=None), spec.digest())
    save(pre / "agent.npz", state, spec.digest(), {"step": 40, "made": "again"})  # the same numbers in another file
    stages.finetune(make_spec(), run, pre, options())
    log = (run / "train.log").read_text()
    assert log.count("checkpoint refused") == 2
    assert read_attempts(run)[-1].from_step == 0
    assert json.loads((run / "finished" / "start.json").read_text())["start"] == identity(pre)
    assert weights(run) == weights(straight / "run")


def test_a_full_disk_costs_neither_the_run_nor_its_end(straight, tmp_path, monkeypatch):
    """The first checkpoint and the first attempt at the results find no space; the others do."""
    waits = []

    def once_full(original):
        full = iter([True])

        def call(*arguments):
            if next(full, False):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoint-0.npz")
            return original(*arguments)

        return call

    monkeypatch.setattr(Rotation, "save", once_full(Rotation.save))
    monkeypatch.setattr(session, "save", once_full(save))
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=time.monotonic, sleep=waits.append))
    stages.pretrain(make_spec().pretraining(), tmp_path / "pre", options(checkpoint_s=0.0))
    log = (tmp_path / "pre" / "train.log").read_text()
    assert log.count("not written") == 2
    assert log.count("checkpoint at step 1 not written") == 1
    assert waits == [0.0]  # at most a minute, at most the time between two checkpoints
    assert weights(tmp_path / "pre") == weights(straight / "pre")
    assert finished.problem(tmp_path / "pre", make_spec().pretraining().digest()) is None


def test_damaged_online_rows_send_the_run_back_to_the_checkpoint_before(straight, interrupted, tmp_path):
    run = shutil.copytree(interrupted, tmp_path / "run")
    content = bytearray((run / "online_rows.bin").read_bytes())
    content[-100] ^= 1  # of the records that only the newest checkpoint knows
    (run / "online_rows.bin").write_bytes(content)
    stages.finetune(make_spec(), run, straight / "pre", options())
    log = (run / "train.log").read_text()
    assert "online_rows.bin is damaged" in log
    assert "continues from step 200" in log.rpartition("checkpoint refused")[2]
    assert weights(run) == weights(straight / "run")
    assert values(run) == values(straight / "run")


def test_the_rows_of_the_value_log_are_means_over_equal_intervals(straight):
    rows = [row for row in read_values(straight / "run") if row.name == "critic_loss"]
    # 450 // 50 = 9 steps; 40 before the switch; the first row has the updates after a warm-up of 33 steps.
    assert [row.step for row in rows] == [40 + 9 * number for number in range(4, 51)]
    assert {row.phase for row in rows} == {"online"}
    evaluated = [(row.step, row.value) for row in read_values(straight / "run") if row.name == "return_mean"]
    assert evaluated == [(265, -200.0), (490, -200.0)]
    assert [row.step for row in read_values(straight / "pre") if row.name == "critic_loss"] == list(range(1, 41))


def test_a_checkpoint_of_another_spec_is_not_used(straight, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(stages.Unfinished):
        stages.finetune(make_spec(seed=0), run, straight / "pre", options(deadline=0.0))
    other = make_spec(online={"steps": 20, "warmup_steps": 33, "buffer_capacity": 1100})
    stages.finetune(other, run, straight / "pre", options())
    assert "checkpoint refused" in (run / "train.log").read_text()


@pytest.mark.parametrize("idle", [True, False])
def test_when_updates_are_dispatched_changes_nothing(straight, tmp_path, monkeypatch, idle):
    """After every environment step, or a chunk's all at once; and a checkpoint waits for those that still wait."""
    monkeypatch.setattr(OnlineLoop, "_device_is_idle", lambda self: idle)
    with monkeypatch.context() as patch:
        late_at_every_second_look(patch)
        with pytest.raises(stages.Unfinished):
            stages.finetune(make_spec(), tmp_path / "run", straight / "pre", options(deadline=1.0))
    stages.finetune(make_spec(), tmp_path / "run", straight / "pre", options())
    assert "continues from step 200" in (tmp_path / "run" / "train.log").read_text()
    assert weights(tmp_path / "run") == weights(straight / "run")
    assert metrics(tmp_path / "run") == metrics(straight / "run")


class PoisonedHere(contextlib.nullcontext):
    """In place of the environment in a process of its own."""

    def __init__(self, task) -> None:
        super().__init__(self)
        self.environment = Checked(Poisoned(task, bad=7), task)

    def reset(self, seed: int) -> np.ndarray:
        return self.environment.reset(seed)

    def play(self, actions):
        for action in actions:
            yield (step := self.environment.step(action))
            if step.terminated:
                return


def test_a_simulator_that_returns_no_number_stops_training_before_the_buffer(straight, tmp_path, monkeypatch):
    task = make_spec().task
    monkeypatch.setattr(stages, "RemoteEnvironment", PoisonedHere)
    seed = episode_seed(0, "environment", 1)
    message = rf"'{task.key}': .*observation .*nan \(entry 2\) .*step 4 .*seed {seed}; seed 0, training episode 1"
    with pytest.raises(SimulatorError, match=message):
        stages.finetune(make_spec(), tmp_path / "run", straight / "pre", options(checkpoint_s=0.0))
    rows = np.fromfile(tmp_path / "run" / "online_rows.bin", np.float32)
    assert np.isfinite(rows).all()
    assert read_attempts(tmp_path / "run")[-1].code == 3
