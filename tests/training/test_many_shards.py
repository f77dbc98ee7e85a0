"""cube-quadruple-100m at small and at full size: where a restart goes on, and how much memory the files take."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.helpers import CUBE, DOWNLOAD, TASKS, full_size, npz, record, small
from support.small_runs import make_spec, options, weights

from dfp.tasks.shards import ShardReader
from dfp.training import stages
from dfp.training.offline import OfflineLoop
from dfp.training.stages import Unfinished

COUNT, INTERVAL = 20, 7


@pytest.mark.slow
def test_a_restart_goes_on_with_the_file_of_its_step(tmp_path, monkeypatch):
    """Twenty files of two short episodes; interrupted in the fourth, the run ends with the weights of a whole one."""
    contents = []
    for shard in range(COUNT):
        columns = small()
        columns["observations"] += shard
        contents.append(npz(columns))
    task = CUBE.model_copy(update={"shards": COUNT, "shard_interval": INTERVAL})
    record(tmp_path / "data", task, *contents)
    agent = make_spec().agent.model_copy(update={"chunk": 2})
    spec = make_spec(task=task, agent=agent, data=DOWNLOAD, evaluation={"interval": 225, "episodes": 1}).pretraining()
    given = options(data_dir=tmp_path / "data")

    read, block = [], OfflineLoop.block
    original = ShardReader.read
    monkeypatch.setattr(ShardReader, "read", lambda self, shard: (read.append(shard), original(self, shard))[1])
    stages.pretrain(spec, tmp_path / "whole", given)
    assert read == [0, 1, 2, 3, 4, 5]  # 40 updates; the file changes before updates 7, 14, ..., 35

    def interrupted(loop: OfflineLoop) -> None:
        block(loop)
        if loop.step >= 22:
            loop.session.save(loop.step, loop.state)
            raise Unfinished(str(loop.step))

    read.clear()
    monkeypatch.setattr(OfflineLoop, "block", interrupted)
    with pytest.raises(Unfinished) as stopped:
        stages.pretrain(spec, tmp_path / "parts", given)
    step = int(str(stopped.value))
    assert 22 <= step < 28
    assert read == [0, 1, 2, 3]
    read.clear()
    monkeypatch.setattr(OfflineLoop, "block", block)
    stages.pretrain(spec, tmp_path / "parts", given)
    assert read == [(step + 1) // INTERVAL, *range((step + 1) // INTERVAL + 1, 6)]
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


SCRIPT = """
from pathlib import Path
from dfp.runs.attempts import peak_mb
from dfp.spec import parse_spec
from dfp.training import stages
spec = parse_spec(Path("spec.json").read_text())
stages.pretrain(spec, Path("run"), stages.Options(Path("data"), workers=1))
# Not getrusage: its peak begins with that of the process that started this one.
print(peak_mb())  # of this process alone: the evaluation's have ended
"""


@pytest.mark.slow
def test_files_of_full_size_take_less_than_3_gb(tmp_path):
    """A million rows per file, as published, and one file after another: training, prefetching, judging."""
    task = TASKS["cube-quadruple-task2"].model_copy(update={"shards": 3, "shard_interval": 15})
    full_size(tmp_path / "data", task)
    spec = make_spec(task=task, data=DOWNLOAD, evaluation={"interval": 225, "episodes": 1}).pretraining()
    (tmp_path / "spec.json").write_text(spec.canonical())
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 500 < int(done.stdout.split()[-1]) < 3000
    assert Path(tmp_path / "run" / "agent.npz").exists()
