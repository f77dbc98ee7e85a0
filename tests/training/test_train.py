"""The stages in the real simulator, at small size: equal bits, restarts, and what stops a run."""

import contextlib
import errno
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_runs import (
    Poisoned,
    RandomShards,
    make_spec,
    metrics,
    options,
    use_random_data,
    values,
    weights,
)

from dfp.runs import finished
from dfp.runs.attempts import read_attempts, spent_s
from dfp.runs.checkpoint import Rotation, load_final, save
from dfp.runs.finished import identity
from dfp.runs.value_log import read_values
from dfp.spec import ConfigError, RunSpec
from dfp.tasks import Dataset
from dfp.training import offline, session, stages
from dfp.training.online import OnlineLoop
from dfp.training.rollout import (
    Checked,
    SimulatorError,
    episode_seed,
)
from dfp.training.session import Session, build_agent
from dfp.training.updates import Diagnostics


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


# --------------------------------------------------------------------------- results


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


# --------------------------------------------------------------------------- restarts


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


def test_a_row_of_the_value_log_has_the_mean_of_its_interval(tmp_path):
    """1 to 9, then nine times 2. A look inside an interval begins no new one."""
    with Session(make_spec().pretraining(), tmp_path / "pre", options(), 450) as session:
        state = jax.jit(session.agent.init)(jax.random.key(0))
        diagnostics = session.diagnostics(state)
        names = set(diagnostics.total)
        for step, value in enumerate([*range(1, 10), *[2] * 9], start=1):
            diagnostics = diagnostics.add(dict.fromkeys(names, jnp.float32(value)), jnp.int32(step - 1))
            if step in (4, 9, 18):
                diagnostics = session.check(state, diagnostics, step)
    rows = read_values(tmp_path / "pre")
    assert "critic_loss" in names
    assert {(row.step, row.name, row.value) for row in rows} == {
        (step, name, value) for step, value in ((9, 5.0), (18, 2.0)) for name in names
    }


def test_the_end_of_a_run_has_a_row_of_its_own(tmp_path):
    """Of 101 steps: after every second one, and after the last."""
    with Session(make_spec().pretraining(), tmp_path / "pre", options(), 101) as session:
        state = jax.jit(session.agent.init)(jax.random.key(0))
        diagnostics = session.diagnostics(state)
        for step in (99, 100, 101):
            values = dict.fromkeys(diagnostics.total, jnp.float32(step))
            diagnostics = session.check(state, diagnostics.add(values, jnp.int32(step - 1)), step)
    assert {(row.step, row.value) for row in read_values(tmp_path / "pre")} == {(100, 99.5), (101, 101.0)}


def test_an_attempt_that_begins_with_an_interval_has_no_sums_of_the_one_before(tmp_path):
    """Checkpoints inside an interval of nine steps, and at its end."""
    spec = make_spec().pretraining()
    for step, count in ((4, 4), (9, 0)):
        with Session(spec, tmp_path / "pre", options(), 450) as session:
            assert session.begin()
            state = jax.jit(session.agent.init)(jax.random.key(0))
            diagnostics = session.diagnostics(state)
            for number in range(int(diagnostics.count), step):
                diagnostics = diagnostics.add(dict.fromkeys(diagnostics.total, jnp.float32(1)), jnp.int32(number))
            session.check(state, diagnostics, step)
            session.save(step, state)
        with Session(spec, tmp_path / "pre", options(), 450) as session:
            assert session.begin()
            again = session.diagnostics(state)
        assert int(again.count) == count
        assert set(map(float, again.total.values())) == {float(count)}


def _attempt(stage: str, folder: str, pretrained: str) -> None:
    use_random_data()
    if stage == "pretrain":
        stages.pretrain(long_spec(stage).pretraining(), Path(folder), options(checkpoint_s=0.0))
    else:
        stages.finetune(long_spec(stage), Path(folder), Path(pretrained), options(checkpoint_s=0.0))


def long_spec(stage: str) -> RunSpec:
    """A run of this stage of several seconds, so that it can be killed in the middle; the other stage is short."""
    spec = make_spec()
    assert spec.online is not None
    return make_spec(
        training=spec.training.model_copy(update={"offline_steps": 10_000 if stage == "pretrain" else 300}),
        online=spec.online.model_copy(update={"steps": 2000}),
        evaluation=spec.evaluation.model_copy(update={"interval": 1000, "episodes": 1}),
    )


# How each attempt ends: killed at a random moment; while a checkpoint is being written; or killed, and its newest
# checkpoint cut to so many bytes (negative: so many from its end).
ENDS: dict[str, list[str | int]] = {
    "pretrain": ["random", "writing", -1],
    "finetune": ["random", "writing", 0, 100, 20_000],
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ENDS)
def test_killed_at_random_moments_gives_the_same_bits(tmp_path, stage):
    """kill -9 of the whole process, several times; checkpoints are written all the time."""
    stages.pretrain(long_spec(stage).pretraining(), tmp_path / "pretrain", options())
    if stage == "finetune":
        stages.finetune(long_spec(stage), tmp_path / "finetune", tmp_path / "pretrain", options())
    folder, moments = tmp_path / "killed", random.Random(0)
    for end in ENDS[stage]:
        process = start_attempt(stage, folder, tmp_path)
        wait_for_checkpoint(folder, process)
        if end == "writing":
            wait_for(lambda: any(folder.glob(".checkpoint-*.tmp")), process)
        else:
            time.sleep(moments.uniform(0.0, 0.3))
        assert process.is_alive(), "finished before it could be killed: make the run longer"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if isinstance(end, int):
            latest = max(folder.glob("checkpoint-*.npz"), key=lambda path: path.stat().st_mtime_ns)
            os.truncate(latest, end if end >= 0 else latest.stat().st_size + end)
    start_attempt(stage, folder, tmp_path).join()
    assert weights(folder) == weights(tmp_path / stage)
    assert metrics(folder) == metrics(tmp_path / stage)
    assert values(folder) == values(tmp_path / stage)
    log = (folder / "train.log").read_text()
    assert log.count("checkpoint refused") == sum(isinstance(end, int) for end in ENDS[stage])
    assert log.count("continues from step") >= len(ENDS[stage]) - 1
    attempts = read_attempts(folder)
    assert [one.reason for one in attempts] == ["killed"] * len(ENDS[stage]) + ["finished"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["attempts"] == len(attempts)
    assert manifest["spent_s"] >= manifest["wall_s"]


def start_attempt(stage: str, folder: Path, tmp_path: Path) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("forkserver")  # its processes begin with the libraries loaded
    context.set_forkserver_preload(["dfp.training.stages"])
    process = context.Process(target=_attempt, args=(stage, str(folder), str(tmp_path / "pretrain")))
    process.start()
    return process


def wait_for(condition, process) -> None:
    while not condition() and process.is_alive():
        time.sleep(0.0005)


def wait_for_checkpoint(folder: Path, process) -> None:
    before = newest(folder)
    wait_for(lambda: newest(folder) != before, process)


def newest(folder: Path) -> int:
    return max((path.stat().st_mtime_ns for path in folder.glob("checkpoint-*.npz")), default=0)


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


# --------------------------------------------------------------------------- what stops a run


def test_a_loss_that_is_not_finite_stops_with_step_term_and_spec(tmp_path, monkeypatch):
    class Poisoned(RandomShards):
        def read(self, shard) -> Dataset:
            data = super().read(shard)
            data.rewards[:] = np.inf
            return data

    monkeypatch.setattr(offline, "ShardReader", Poisoned)
    with pytest.raises(stages.TrainingError, match=r"(critic_loss|target_mean) .*step 0; .*spec \{"):
        stages.pretrain(make_spec().pretraining(), tmp_path / "pre", options())
    assert not (tmp_path / "pre" / "metrics.csv").exists()


def test_a_parameter_that_is_not_finite_stops_though_every_term_is(tmp_path):
    with Session(make_spec().pretraining(), tmp_path / "pre", options(), 40) as session:
        state = jax.jit(session.agent.init)(jax.random.key(0))
        diagnostics = session.diagnostics(state)
        session.check(state, diagnostics, 7)
        for part, number in (("actor", np.nan), ("critic", np.inf)):
            *others, last = jax.tree.leaves(getattr(state, part))
            leaves = [*others, last.at[(0,) * last.ndim].set(number)]
            broken = jax.tree.unflatten(jax.tree.structure(getattr(state, part)), leaves)
            with pytest.raises(stages.TrainingError, match="parameters is not finite at step 7; "):
                session.check(state._replace(**{part: broken}), diagnostics, 7)


def test_a_term_that_the_log_could_not_name_stops_before_the_first_update(tmp_path, monkeypatch):
    empty = Diagnostics(jnp.int32(0), {"q mean": jnp.zeros(())}, {"q mean": jnp.int32(-1)})
    monkeypatch.setattr(session, "no_diagnostics", lambda agent, state: empty)
    with pytest.raises(ConfigError, match=r"^agent 'dfp': a term cannot be called 'q mean' in train\.csv; allowed"):
        stages.pretrain(make_spec().pretraining(), tmp_path / "pre", options())
    assert read_attempts(tmp_path / "pre")[-1].step == 0


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


def test_the_papers_scale_without_a_gpu_stops_before_the_first_update(tmp_path):
    network = {"width": 512, "depth": 4, "ensemble_size": 2}
    training = make_spec().training.model_copy(update={"offline_steps": 1_000_000, "batch_size": 256})
    spec = make_spec(network=network, training=training).pretraining()
    with pytest.raises(stages.TrainingError, match=r"about \d+ hours .* --allow-cpu"):
        stages.pretrain(spec, tmp_path / "pre", options())
