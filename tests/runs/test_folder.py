"""What a run's folder says of the code that ran."""

import json
import subprocess
from pathlib import Path

import pytest
from support.small_runs import make_spec

from dfp.runs import folder
from dfp.runs.folder import RunFolder, git_commit

SPEC = make_spec()


def test_the_manifest_has_what_ran_in_every_attempt(tmp_path, monkeypatch):
    commits = iter(["a" * 40, "a" * 40, "b" * 40])
    monkeypatch.setattr(folder, "git_commit", lambda: next(commits))
    progress = None
    for device in ("gpu: A100", "cpu: cpu", "cpu: cpu"):
        run = RunFolder(tmp_path, SPEC)
        if progress is not None:
            run.restore(json.loads(json.dumps(progress)))
        run.start(["python"], device)
        progress = run.progress()
    (tmp_path / "agent.npz").write_bytes(b"weights")
    run.finish()  # the commits are used up: none is asked for at the end
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["git_commit"], manifest["device"]) == ("b" * 40, "cpu: cpu")
    earlier = [(code["git_commit"], code["device"]) for code in manifest["earlier"]]
    assert earlier == [("a" * 40, "gpu: A100"), ("a" * 40, "cpu: cpu")]


def test_a_run_of_one_piece_names_no_earlier_code(tmp_path):
    run = RunFolder(tmp_path, SPEC)
    run.start(["python"], "cpu: cpu")
    again = RunFolder(tmp_path, SPEC)
    again.restore(run.progress())
    again.start(["python"], "cpu: cpu")
    assert "earlier" not in again.progress()


@pytest.mark.parametrize("tracked", [True, False])
def test_only_a_repository_that_tracks_the_package_names_its_commit(tmp_path, monkeypatch, tracked):
    """An environment inside somebody's repository: its commit says nothing of this package."""
    module = tmp_path / "venv" / "folder.py"
    module.parent.mkdir()
    module.touch()
    (tmp_path / "theirs.txt").touch()
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    added = "venv/folder.py" if tracked else "theirs.txt"
    for command in (["init", "-q"], ["add", added], [*author, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(folder, "__file__", str(module))
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert git_commit() == (head.stdout.strip() if tracked else None)
    assert Path(folder.__file__).exists()
