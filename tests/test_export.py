"""Export, read back: by the reader of TensorBoard, and by the messages of Weights & Biases."""

import importlib.util
import json
import struct
from pathlib import Path

import pytest

from dfp.export import Point, export, log_points, read_points
from dfp.spec import ConfigError

HEADER = (
    "experiment,title,stage,task,group,column,task_title,method,label,backbone,top_k,color,seed,run,pretrained,"
    "offline_steps,online_steps"
)
LOG = """2026-11-24 22:00:00 step 100/2000  50.0 steps/s  critic_loss 0.5  q_mean -3
2026-11-24 22:00:10 checkpoint at step 100
2026-11-24 22:00:20 step 200/2000  50.0 steps/s  critic_loss 0.4  q_mean -2
2026-11-24 22:10:00 continues from step 100 (attempt 2)
2026-11-24 22:10:20 step 180/2000  25.0 steps/s  critic_loss 0.3  q_mean -1
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A finished pretraining, a fine-tuning that runs, and one that has not begun."""
    root = tmp_path / "results"
    rows = [
        f"table2,t,finetune,cube,g,c,Cube,dfp,DFP,Drifting,-,#cc0000,{seed},runs/cube/dfp/seed{seed},"
        "pretrained/cube/drifting/seed0,1000,2000"
        for seed in (0, 1)
    ]
    start, run = root / "pretrained/cube/drifting/seed0", root / "runs/cube/dfp/seed0"
    start.mkdir(parents=True)
    run.mkdir(parents=True)
    (root / "runs.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (start / "metrics.csv").write_text(
        "phase,step,success_rate,episodes,return_mean,length_mean,wall_s,env_steps\noffline,1000,0.25,4,-150,180,60,0\n"
    )
    row = {"step": 1500, "success_rate": 0.5, "return_mean": -90.0, "length_mean": 120.0, "wall_s": 30.0}
    (run / "progress.json").write_text(json.dumps({"metrics": [row]}))
    (run / "train.log").write_text(LOG)
    return root


def test_the_log_counts_over_both_phases_and_forgets_lost_work(results):
    points = log_points(results / "runs/cube/dfp/seed0/train.log", before=1000)
    assert [point.step for point in points] == [1100, 1180]
    assert points[1].values == {"training/critic_loss": 0.3, "training/q_mean": -1.0, "training/steps_per_s": 25.0}
    assert points[1].time - points[0].time == 620.0


def test_points_are_in_the_order_of_their_steps(results):
    points = read_points(results / "runs/cube/dfp/seed0", before=1000)
    assert [point.step for point in points] == [1100, 1180, 1500]
    expected = {"evaluation/success_rate": 0.5, "evaluation/return_mean": -90.0, "evaluation/length_mean": 120.0}
    assert points[2] == Point(1500, 30.0, expected)


def test_tensorboard_reads_it_back(results, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # exporting again replaces
        written = export("tensorboard", results, tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == [
        "pretrained/cube/drifting/seed0",
        "runs/cube/dfp/seed0",
    ]
    events = EventAccumulator(str(written[1]))
    events.Reload()
    losses = [(event.step, round(event.value, 4)) for event in events.Scalars("training/critic_loss")]
    assert losses == [(1100, 0.5), (1180, 0.3)]
    assert [(event.step, event.value) for event in events.Scalars("evaluation/success_rate")] == [(1500, 0.5)]


def records(path: Path):
    """Messages of a ``.wandb`` file: seven bytes of heading, then LevelDB's log, blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    content, message, place = path.read_bytes(), b"", 7
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # the rest of a block is padding
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        message += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            yield record
            message = b""


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra 'wandb' is not installed")
def test_weights_and_biases_reads_it_back(results, tmp_path):
    for _ in range(2):
        written = export("wandb", results, tmp_path / "out")
    assert len(written) == len(list((tmp_path / "out/wandb").glob("offline-run-*"))) == 2
    (file,) = written[1].glob("*.wandb")
    found = list(records(file))
    history = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]
    assert [row["step"] for row in history] == [1100, 1180, 1500]
    assert history[1]["training/critic_loss"] == 0.3
    assert history[2]["evaluation/success_rate"] == 0.5
    (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name, run.run_group) == ("dfp-repro", "runs/cube/dfp/seed0", "cube")


def test_a_missing_package_names_its_extra(results, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"package 'wandb' is not installed; `uv sync --inexact --extra wandb`"):
        export("wandb", results, None)
    with pytest.raises(ConfigError, match="--to: 'aim'; allowed: tensorboard, wandb"):
        export("aim", results, None)
