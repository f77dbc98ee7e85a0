"""Any one file of a run folder damaged: the checkpoint before is used, or one line says what is wrong.

Never another error, never a run that cannot go on, never numbers that nobody saved.
"""

import contextlib
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.helpers import CUBE
from support.small_runs import make_spec

from dfp.errors import DfpError
from dfp.ops.export import read_points
from dfp.ops.status.runs import Planned, read_state
from dfp.ops.status.why import read_start
from dfp.runs import finished, layout
from dfp.runs.attempts import AttemptLog, read_attempts, read_progress
from dfp.runs.checkpoint import CheckpointError, Rotation, load_final, save
from dfp.runs.folder import Evaluation, RunFolder, read_run
from dfp.runs.lease import Lease
from dfp.runs.online_rows import OnlineRows
from dfp.runs.value_log import ValueLog, read_values

SPEC = make_spec()
DIGEST = SPEC.digest()
STATES = {step: {"w": np.full(50, step, np.float32), "n": np.int32(step)} for step in (100, 200)}
TEMPLATE = STATES[100]
ROUNDS = 15  # bits that are flipped in each file, one at a time


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning that was killed: two checkpoints, its rows, logs and lease."""
    folder = tmp_path_factory.mktemp("running")
    run, rows, values = RunFolder(folder, SPEC), OnlineRows(folder / layout.ONLINE_ROWS, CUBE), ValueLog(folder)
    run.start(["python", "-m", "dfp", "finetune"], "cpu: cpu")
    run.attempts.start(0)
    values.start(0)
    rotation = Rotation(folder, DIGEST)
    for step, state in STATES.items():
        rng = np.random.default_rng(step)
        for _ in range(20):
            rows.add(rng.normal(size=CUBE.observation_size), rng.normal(size=CUBE.action_size), float(step), 1.0, None)
        values.add(40 + step, "online", {"critic_loss": 0.1 * step})
        run.add_row("online", 40 + step, Evaluation(0.5, 2, -100.0, 50.0), step)
        run.write_progress(step, 450, 10.0)
        records = rows.flush()
        rotation.save(state, {"step": step, "records": records, "checksum": rows.checksum})
    (folder / layout.LEASE).write_text(json.dumps({"host": "gone", "pid": 1, "job": "1", "since": 1}))
    (folder / layout.CLAIM).write_text(json.dumps({"host": "gone", "pid": 1, "job": "2", "since": 2}))
    (folder / layout.TEXT_LOG).write_text("2026-01-01T00:00:00Z continues\n")
    return folder


@pytest.fixture(scope="module")
def done(running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its record."""
    folder = tmp_path_factory.mktemp("done") / "run"
    shutil.copytree(running, folder)
    for name in (*layout.CHECKPOINTS, layout.ONLINE_ROWS, layout.LEASE, layout.CLAIM):
        (folder / name).unlink()
    run = RunFolder(folder, SPEC)
    run.attempts.start(200)
    run.start(["python", "-m", "dfp", "finetune"], "cpu: cpu")
    run.add_row("online", 490, Evaluation(0.75, 2, -90.0, 40.0), 450)
    save(folder / layout.FINAL_STATE, STATES[200], DIGEST, {"step": 450})
    run.finish()
    finished.keep(folder, "start")
    run.attempts.end(None, 450)
    return folder


def damages(path: Path):
    """The file cut, zeroed, empty, gone, a folder in its place, and with single bits flipped; each by name."""
    content, draw = path.read_bytes(), random.Random(path.name)

    def write(changed: bytes) -> None:
        path.unlink()  # not in place: it may have a second name
        path.write_bytes(changed)

    for share in (0.1, 0.5, 0.9):
        yield f"cut to {share}", lambda share=share: write(content[: int(len(content) * share)])
    yield "its last byte cut", lambda: write(content[:-1])
    yield "zeroed", lambda: write(bytes(len(content)))
    yield "its second half zeroed", lambda: write(content[: len(content) // 2] + bytes(len(content) // 2))
    yield "empty", lambda: write(b"")
    yield "gone", path.unlink
    for _ in range(ROUNDS):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} flipped", lambda changed=bytes(changed): write(changed)


def look(folder: Path) -> None:
    """Everything that shows a run: damage changes what is shown, and is no error but of one line."""
    planned = Planned("runs/cube/dfp/seed0", "finetune", "cube", ("dfp",), 0, 450, (), None)
    place = folder.parent / "results"
    (place / planned.folder).parent.mkdir(parents=True, exist_ok=True)
    (place / planned.folder).symlink_to(folder)
    read_state(place, planned, now=2e9)
    read_points(folder)
    read_start(folder)
    shutil.rmtree(place)
    with contextlib.suppress(DfpError):
        read_run(folder)


def restart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """What a restart does before the first update; the step that it continues from, 0 from the start."""
    for name, seconds in (("WATCH_S", 0.001), ("STALE_S", 0.002)):
        monkeypatch.setattr(f"dfp.runs.lease.{name}", seconds)
    layout.require_files(folder)
    rows, log = OnlineRows(folder / layout.ONLINE_ROWS, CUBE), AttemptLog(folder)
    with Lease(folder):
        found, refused = Rotation(folder, DIGEST).load(
            TEMPLATE, lambda progress: rows.problem(progress["records"], progress["checksum"])
        )
        step = 0 if found is None else found[1]["step"]
        log.start(step)
        ValueLog(folder).start(40 + step)
        rows.truncate(0 if found is None else found[1]["records"])
        assert all(len(line.splitlines()) == 1 for line in refused)
        if found is not None:
            np.testing.assert_array_equal(found[0]["w"], STATES[step]["w"])
            assert found[0]["n"] == step
        # Rows 1 to 20 were made before step 100, and 21 to 40 before step 200.
        assert rows.read()["reward"].tolist() == [100.0] * min(step // 5, 20) + [200.0] * max(step // 5 - 20, 0)
        assert all(row.step <= 40 + step for row in read_values(folder))
        assert read_attempts(folder)[-1].reason is None
    return step


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("checkpoint-0.npz", {200}),
        ("checkpoint-1.npz", {100, 200}),  # 200: a bit that means nothing, such as the time in the archive
        ("online_rows.bin", {0, 100}),
        *((name, {200}) for name in ("progress.json", "attempts.jsonl", "lease.json", "claim.json", "run.json")),
        *((name, {200}) for name in ("train.csv", "train.log")),
    ],
)
def test_a_run_goes_on_whatever_file_is_damaged(running, tmp_path, monkeypatch, name, steps):
    found = set()
    for number, (damage, _) in enumerate(damages(running / name)):
        folder = shutil.copytree(running, tmp_path / str(number))
        dict(damages(folder / name))[damage]()
        look(folder)
        found.add(restart(folder, monkeypatch))
        look(folder)
    assert found <= steps
    assert min(steps) in found


@pytest.mark.parametrize("name", layout.FILES)
def test_a_folder_in_the_place_of_a_file_is_one_line(running, tmp_path, monkeypatch, name):
    folder = shutil.copytree(running, tmp_path / "run")
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    look(folder)
    with pytest.raises(layout.RunFolderError, match=rf"{name}: a folder is in the place of a file"):
        restart(folder, monkeypatch)


@pytest.mark.parametrize("name", ["agent.npz", "metrics.csv", "manifest.json"])
def test_a_finished_run_with_a_damaged_result_is_put_back_or_not_finished(done, tmp_path, name):
    assert finished.problem(done, DIGEST) is None
    good = (done / name).read_bytes()
    for number, (damage, _) in enumerate(damages(done / name)):
        folder = shutil.copytree(done, tmp_path / str(number))
        dict(damages(folder / name))[damage]()
        look(folder)
        if finished.problem(folder, DIGEST) is None:  # the manifest alone has bits that nothing depends on
            assert name == "manifest.json"
            continue
        if name == "agent.npz" and (error := loaded(folder)):
            assert error.endswith("to get it back run what made it again: python -m dfp finetune")
            assert error.startswith(f"{folder / 'agent.npz'}: ")
        assert finished.recall(folder, SPEC, "start")
        assert (folder / name).read_bytes() == good
        assert finished.problem(folder, DIGEST) is None


def test_the_command_of_another_run_is_no_way_to_get_a_policy_back(done, tmp_path):
    folder = shutil.copytree(done, tmp_path / "run")
    (folder / "agent.npz").unlink()
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(content | {"spec": content["spec"] | {"seed": 7}}))
    assert loaded(folder).endswith("agent.npz: no such file; to get it back run what made it again")


def test_results_of_an_earlier_version_without_checksums_are_looked_into(done, tmp_path):
    folder = shutil.copytree(done, tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["results"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert finished.problem(folder, DIGEST) is None
    for name in ("agent.npz", "metrics.csv"):
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(good[:-3])
        assert f"{name}: damaged" in str(finished.problem(folder, DIGEST))
        (folder / name).write_bytes(good)


def loaded(folder: Path) -> str:
    """The error of reading the final state; empty if it is bit for bit what was saved: some bits mean nothing."""
    try:
        state, _ = load_final(folder, TEMPLATE, DIGEST)
    except CheckpointError as error:
        return str(error)
    np.testing.assert_array_equal(state["w"], STATES[200]["w"])
    return ""


@pytest.mark.parametrize("name", ["agent.npz", "metrics.csv", "manifest.json", "start.json"])
def test_a_damaged_record_is_no_record(done, tmp_path, name):
    for number, (damage, _) in enumerate(damages(done / "finished" / name)):
        folder = shutil.copytree(done, tmp_path / str(number))
        dict(damages(folder / "finished" / name))[damage]()
        for result in ("agent.npz", "metrics.csv", "manifest.json"):
            (folder / result).unlink()
        if finished.recall(folder, SPEC, "start"):
            assert name in ("manifest.json", "start.json")
            assert finished.problem(folder, DIGEST) is None
        else:
            assert not (folder / "metrics.csv").exists()


def test_progress_of_a_damaged_file_is_none(running, tmp_path):
    assert read_progress(running) is not None
    for text in ("", "{", "[]", '{"step": "many"}', '{"step": -1, "total": 2, "attempts": 1}', "\0" * 20):
        (tmp_path / "progress.json").write_text(text)
        assert read_progress(tmp_path) is None
    assert os.listdir(tmp_path) == ["progress.json"]
