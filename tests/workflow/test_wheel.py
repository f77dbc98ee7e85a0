"""The wheel, in an empty environment and an empty folder: what somebody has who never saw the checkout."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = [sys.executable, "-m", "uv"] if (Path(sys.executable).parent / "uv").exists() else ["uv"]
PLAY = "from dfp.policies.policy import load_policy; print(load_policy('{folder}').spec.task.key)"


@pytest.mark.slow
def test_the_wheel_does_everything_in_an_empty_folder(tmp_path):
    kept = re.compile(r"HOME|PATH|(SSL|PIP|UV|REQUESTS|CURL)_.*|.*_PROXY", re.IGNORECASE)
    bare = {name: value for name, value in os.environ.items() if kept.fullmatch(name)} | {"JAX_PLATFORMS": "cpu"}
    bare.pop("UV_PROJECT_ENVIRONMENT", None)
    place, environment = tmp_path / "empty", tmp_path / "environment"
    place.mkdir()

    def call(*command: str, folder: Path = place) -> str:
        done = subprocess.run(command, cwd=folder, env=bare, capture_output=True, text=True, timeout=1500, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call(*UV, "build", "--wheel", "--out-dir", str(tmp_path), folder=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    locked = ("--locked", "--no-default-groups", "--no-emit-project", "--no-hashes", "--extra", "workflow")
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(call(*UV, "export", *locked, folder=ROOT))
    call(*UV, "venv", "--python", sys.executable, str(environment), folder=ROOT)
    python = str(environment / "bin" / "python")
    install = ("pip", "install", "--python", python, "--constraint", str(constraints))
    dfp = str(environment / "bin" / "dfp")

    call(*UV, *install, str(wheel), folder=ROOT)  # without extras: data, training, policies
    assert "Commands:" in call(dfp, "--help")
    smoke = ("--config", "config/smoke.yaml")
    call(dfp, "data", "cube-single-task2", *smoke)
    call(dfp, "train", "pretrain", *smoke, "--task", "cube-single-task2", "--method", "dfp", "--seed", "0")
    folder = "results/smoke/pretrained/cube-single-task2/drifting/seed0"
    assert call(python, "-c", PLAY.format(folder=folder)).strip() == "cube-single-task2"

    call(*UV, *install, f"{wheel}[workflow]", folder=ROOT)
    call(dfp, "workflow", "--cores", "2", "--configfile", "config/smoke.yaml", "--quiet", "rules")
    for name in ("table2.csv", "table2.tex", "figure3.png", "report.html"):
        assert (place / "results" / "smoke" / name).stat().st_size > 0
