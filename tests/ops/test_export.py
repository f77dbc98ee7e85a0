"""Export, read back: by the reader of TensorBoard, and by the messages of Weights & Biases."""

import errno
import importlib.util
import json
import struct
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dfp.errors import one_line
from dfp.ops.export import Point, export, read_points
from dfp.runs.same_spec import digest_of
from dfp.spec import ConfigError
from tests.support.report_runs import minimal_spec, write_json

HEADER = (
    "experiment,title,stage,task,group,column,task_title,method,label,backbone,top_k,color,seed,run,pretrained,"
    "offline_steps,online_steps,digest,pretrained_digest"
)
VALUES = """step,phase,name,value,time
1100,online,critic_loss,0.5,2026-11-24T22:00:00.000+00:00
1100,online,q_mean,-3.0,2026-11-24T22:00:00.000+00:00
1180,online,critic_loss,0.3,2026-11-24T22:00:20.000+00:00
1180,online,q_mean,-1.0,2026-11-24T22:00:20.000+00:00
1260,online,critic_loss,0.25,2026-11-24T22:10:20.000+00:00
1280,online,critic_l"""
START = {
    "attempt": 2,
    "event": "start",
    "time": "2026-11-24T22:05:00+00:00",
    "host": "h",
    "pid": 1,
    "job": None,
    "step": 180,
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A finished pretraining, a fine-tuning that runs, and one that has not begun."""
    root = tmp_path / "results"
    pretraining = minimal_spec("pretrain", "cube", "drifting", 0)
    finetunings = [minimal_spec("finetune", "cube", "dfp", seed) for seed in (0, 1)]
    rows = [
        f"table2,t,finetune,cube,g,c,Cube,dfp,DFP,Drifting,-,#cc0000,{seed},runs/cube/dfp/seed{seed},"
        f"pretrained/cube/drifting/seed0,1000,2000,{digest_of(spec)},{digest_of(pretraining)}"
        for seed, spec in enumerate(finetunings)
    ]
    start, run = root / "pretrained/cube/drifting/seed0", root / "runs/cube/dfp/seed0"
    start.mkdir(parents=True)
    run.mkdir(parents=True)
    (root / "runs.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (start / "metrics.csv").write_text(
        "phase,step,success_rate,episodes,return_mean,length_mean,wall_s,env_steps\noffline,1000,0.25,4,-150,180,60,0\n"
    )
    row = {
        "phase": "online", "step": 1500, "success_rate": 0.5, "episodes": 4, "return_mean": -90.0, "length_mean": 120.0,
        "wall_s": 30.0, "env_steps": 500,
    }  # fmt: skip
    write_json(start / "manifest.json", {"digest": digest_of(pretraining), "spec": pretraining})
    progress = {"step": 600, "total": 2000, "attempts": 2, "updated": "2026-11-24T22:11:00+00:00", "metrics": [row]}
    (run / "progress.json").write_text(json.dumps(progress))
    (run / "attempts.jsonl").write_text(json.dumps(START) + "\n")
    (run / "train.csv").write_text(VALUES)
    return root


def test_points_are_the_rows_in_the_order_of_their_steps(results):
    points = read_points(results / "runs/cube/dfp/seed0")
    assert [point.step for point in points] == [1100, 1180, 1260, 1500]
    # 80 steps in 20 s. Between the next two an attempt ended and another began: no speed. UTC, not the local zone.
    assert points[1].values == {"training/critic_loss": 0.3, "training/q_mean": -1.0, "training/steps_per_s": 4.0}
    assert points[2].values == {"training/critic_loss": 0.25}
    assert points[1].time == 1795557620.0
    expected = {"evaluation/success_rate": 0.5, "evaluation/return_mean": -90.0, "evaluation/length_mean": 120.0}
    assert {name: points[3].values[name] for name in expected} == expected


def test_a_run_of_an_earlier_version_has_its_evaluations(results):
    (point,) = read_points(results / "pretrained/cube/drifting/seed0")
    rates = {"success_rate": 0.25, "return_mean": -150.0, "length_mean": 180.0}
    assert point == Point(1000, 60.0, {f"evaluation/{name}": value for name, value in rates.items()})


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
    assert losses == [(1100, 0.5), (1180, 0.3), (1260, 0.25)]
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
    assert [row["step"] for row in history] == [1100, 1180, 1260, 1500]
    assert history[1]["training/critic_loss"] == 0.3
    assert history[3]["evaluation/success_rate"] == 0.5
    (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name, run.run_group) == ("dfp-repro", "runs/cube/dfp/seed0", "cube")


def test_a_full_disk_is_named_with_the_folder(results, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(sys.modules, "tensorboard", ModuleType("tensorboard"))  # an extra, replaced here
    monkeypatch.setattr("dfp.ops.export.write_tensorboard", full)
    with pytest.raises(OSError, match="No space") as raised:
        export("tensorboard", results, None)
    assert one_line(raised.value).startswith(
        f"{results}/export/tensorboard/pretrained/cube/drifting/seed0: no space left"
    )


def test_a_missing_package_names_its_extra(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"'wandb'.*`uv sync --inexact --extra wandb`"):
        export("wandb", results, None)
    with pytest.raises(ConfigError, match="--to: 'aim'; allowed: tensorboard, wandb"):
        export("aim", results, None)
