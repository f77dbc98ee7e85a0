"""``status`` and ``why``: states from run folders written by hand, times worked out, and the page in a browser."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dfp.ops.status import curves, overview, page, terminal
from dfp.ops.status.runs import counts, duration, planned_runs, run_states, state_of
from dfp.ops.status.why import fruitless, why
from dfp.plan.run_table import read_runs
from dfp.runs.attempts import Attempt, read_attempts
from dfp.spec import ConfigError

HEADER = (
    "experiment,title,stage,task,group,column,task_title,method,label,backbone,top_k,color,seed,run,pretrained,"
    "offline_steps,online_steps"
)
METRICS = "phase,step,success_rate,episodes,return_mean,length_mean,wall_s,env_steps"


def moment(age: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - age))


def table(results: Path, seeds: int = 5) -> None:
    """Table 2 has two methods on one pretraining; table 4 needs the second of them as well."""
    rows = [
        f"{experiment},t,finetune,cube,g,c,Cube <1>,{method},{label},Drifting,-,{color},{seed},"
        f"runs/cube/{method}/seed{seed},pretrained/cube/drifting/seed{seed},1000,2000"
        for experiment, method, label, color in (
            ("table2", "dfp", "DFP", "#cc0000"),
            ("table2", "dfp-no-topk", "DFP w/o top-K", "#0000cc"),
            ("table4", "dfp", "DFP", "#cc0000"),
        )
        for seed in range(seeds)
    ]
    results.mkdir(exist_ok=True)
    (results / "runs.csv").write_text("\n".join([HEADER, *rows]) + "\n")


def attempt(folder: Path, number: int, begun: float, step: int, end: tuple | None = None) -> None:
    """``begun``: seconds ago. ``end``: (seconds ago, exit code, reason, step)."""
    folder.mkdir(parents=True, exist_ok=True)
    events = [{"event": "start", "time": moment(begun), "host": "node1", "pid": 7, "job": "41", "step": step}]
    if end is not None:
        ago, code, reason, last = end
        events.append({"event": "end", "time": moment(ago), "code": code, "reason": reason, "step": last})
    with (folder / "attempts.jsonl").open("a") as file:
        file.writelines(json.dumps({"attempt": number, **event}) + "\n" for event in events)


def done(folder: Path, phase: str, first: int, rates: list[float], spent: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{phase},{first + 1000 * i},{rate},10,0,0,1,0" for i, rate in enumerate(rates)]
    (folder / "metrics.csv").write_text("\n".join([METRICS, *rows]) + "\n")
    (folder / "agent.npz").touch()
    (folder / "manifest.json").write_text(json.dumps({"attempts": 2, "spent_s": spent, "device": "gpu: H100"}))


def progress(folder: Path, number: int, step: int, age: float, **more) -> None:
    content = {"attempts": number, "step": step, "total": 2000, "updated": moment(age), **more}
    (folder / "progress.json").write_text(json.dumps(content))


def lease(folder: Path, age: float) -> None:
    (folder / "lease.json").write_text("{}")
    for path in folder.iterdir():
        os.utime(path, 2 * (time.time() - age,))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Pretraining 0 is done; of its two fine-tunings one runs, one stalled. Seed 1 failed, seed 2 met its deadline."""
    root = tmp_path / "results"
    table(root)
    done(root / "pretrained/cube/drifting/seed0", "offline", 1000, [0.25], 3600.0)
    running = root / "runs/cube/dfp/seed0"
    attempt(running, 1, 7200, 0, (3600, 75, "unfinished", 1000))
    attempt(running, 2, 1000, 1000)
    row = {
        "phase": "online", "step": 2000, "success_rate": 0.5, "episodes": 4, "return_mean": -90.0, "length_mean": 120.0,
        "wall_s": 30.0, "env_steps": 1000,
    }  # fmt: skip
    progress(running, 2, 1400, 0, metrics=[row])
    lease(running, 5)
    stalled = root / "runs/cube/dfp-no-topk/seed0"
    attempt(stalled, 1, 4000, 0)
    lease(stalled, 400)
    attempt(root / "pretrained/cube/drifting/seed1", 1, 60, 0, (50, 3, "failed: q_mean is not finite", 12))
    attempt(root / "pretrained/cube/drifting/seed2", 1, 60, 0, (50, 75, "unfinished", 12))
    log = root / "logs/pretrain/cube/drifting/seed3.log"
    log.parent.mkdir(parents=True)
    log.write_text("something\ndfp: data/x: no such dataset\n")
    return root


def test_a_run_is_planned_once_however_many_cells_need_it(results):
    runs = {run.folder: run for run in planned_runs(results)}
    assert len(runs) == 5 + 10
    assert runs["runs/cube/dfp/seed3"].experiments == ("table2", "table4")
    start = runs["pretrained/cube/drifting/seed3"]
    assert (start.methods, start.total, start.stage) == (("dfp", "dfp-no-topk"), 1000, "pretrain")
    assert runs["runs/cube/dfp/seed3"].after == start.folder


def test_the_state_of_every_run(results):
    runs = {run.planned.folder: run for run in run_states(results)}
    assert {folder: run.state for folder, run in runs.items() if run.state != "waiting"} == {
        "pretrained/cube/drifting/seed0": "done",
        "runs/cube/dfp/seed0": "running",
        "runs/cube/dfp-no-topk/seed0": "stalled",
        "pretrained/cube/drifting/seed1": "failed",
        "pretrained/cube/drifting/seed3": "failed",
    }
    running = runs["runs/cube/dfp/seed0"]
    # 400 steps since the start 1,000 s ago; 600 to go.
    assert running.rate == pytest.approx(0.4, rel=0.01)
    assert running.eta_s == pytest.approx(1500, rel=0.01)
    assert (running.step, running.host, running.job, running.attempts) == (1400, "node1", "41", 2)
    assert running.spent_s == pytest.approx(3600 + 1000, abs=60)
    # It counts until its last sign of life, 400 s ago, not until now.
    assert runs["runs/cube/dfp-no-topk/seed0"].spent_s == pytest.approx(3600, abs=2)
    assert runs["pretrained/cube/drifting/seed1"].note == "q_mean is not finite"
    assert runs["pretrained/cube/drifting/seed3"].note == "data/x: no such dataset"
    assert "deadline" in runs["pretrained/cube/drifting/seed2"].note
    assert runs["runs/cube/dfp/seed1"].note == "starts after pretrained/cube/drifting/seed1"
    assert runs["runs/cube/dfp/seed0"].note == ""


BEGUN = Attempt(1, "h", 1, None, 0.0, 0)


@pytest.mark.parametrize(
    ("last", "heartbeat", "state"),
    [
        (None, None, "waiting"),
        (BEGUN, 950.0, "running"),
        (BEGUN, 880.0, "stalled"),
        (BEGUN, None, "stalled"),
        (BEGUN._replace(code=75, reason="unfinished"), None, "waiting"),
        (BEGUN._replace(code=0, reason="finished"), None, "waiting"),  # its results were removed
        (BEGUN._replace(code=2, reason="failed: x"), None, "failed"),
        (BEGUN._replace(code=2, reason="failed: x"), 990.0, "running"),
    ],
)
def test_the_state_follows_from_the_lease_and_the_last_end(last, heartbeat, state):
    assert state_of(last, heartbeat, now=1000.0) == state


def test_hours_used_and_left(results):
    view = overview.overview(results)
    assert view.unit == "GPU-hours"
    # 3600 + 4600 + 3600 + 10 + 10 s
    assert view.hours_used == pytest.approx(11820 / 3600, rel=0.01)
    # Running: 1,500 s. Pretrainings at 3.6 s a step, of seed 0: 4 * 1000 - 12 - 12 steps. Tunings at 2.5 s: 9 * 2000.
    assert view.hours_left == pytest.approx((1500 + 3.6 * 3976 + 2.5 * 18000) / 3600, rel=0.01)
    assert view.unknown == 0
    assert [(line.experiment, sum(line.counts.values())) for line in view.lines] == [("table2", 15), ("table4", 10)]


def test_exit_codes_for_scripts(results, tmp_path):
    assert overview.exit_status(run_states(results)) == 4
    fresh = tmp_path / "fresh"
    table(fresh, seeds=1)
    assert overview.exit_status(run_states(fresh)) == 75
    done(fresh / "pretrained/cube/drifting/seed0", "offline", 1000, [0.0], 1.0)
    for method in ("dfp", "dfp-no-topk"):
        done(fresh / "runs/cube" / method / "seed0", "online", 3000, [0.0], 1.0)
    assert overview.exit_status(run_states(fresh)) == 0
    (fresh / "runs/cube/dfp/seed0/manifest.json").write_text("{")
    (run,) = [run for run in run_states(fresh) if run.state == "failed"]
    assert run.note.startswith("manifest.json is missing or damaged")


def test_a_run_whose_final_state_is_gone_is_not_done(results):
    folder = results / "pretrained/cube/drifting/seed0"
    (folder / "agent.npz").unlink()
    state = {run.planned.folder: run for run in run_states(results)}["pretrained/cube/drifting/seed0"]
    assert state.state == "failed"
    assert state.note.startswith("agent.npz is missing")


@pytest.mark.parametrize("name", ["agent.npz", "metrics.csv"])
def test_a_run_with_a_cut_result_is_not_done(results, name):
    folder = results / "pretrained/cube/drifting/seed0"
    content = json.loads((folder / "manifest.json").read_text())
    size = (folder / name).stat().st_size
    (folder / "manifest.json").write_text(json.dumps(content | {"results": {name: {"bytes": size + 1}}}))
    state = {run.planned.folder: run for run in run_states(results)}["pretrained/cube/drifting/seed0"]
    assert (state.state, state.note[:40]) == ("failed", f"{name} is missing or damaged; the run's"[:40])


def test_a_configuration_that_was_shortened_under_a_run_is_noticed(results):
    folder = results / "runs/cube/dfp/seed0"
    progress(folder, 2, 2400, 0, total=3000)
    run = {run.planned.folder: run for run in run_states(results)}["runs/cube/dfp/seed0"]
    assert run.note.startswith("was started for 3,000 steps, runs.csv has 2,000")
    assert run.eta_s is None
    left = overview.overview(results).hours_left
    assert left is not None
    assert left > 0


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "dfp", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)


def test_the_command_prints_lines_and_json_and_loads_no_jax(results, tmp_path):
    made = command("ops", "status", "--results-dir", results, "--json", "--html", tmp_path / "page.html")
    assert made.returncode == 4
    content = json.loads(made.stdout)
    assert content["counts"] == {"running": 1, "stalled": 1, "failed": 2, "waiting": 10, "done": 1}
    assert {run["folder"] for run in content["runs"]} == {run.folder for run in planned_runs(results)}
    assert (tmp_path / "page.html").exists()
    code = "import sys; from dfp.ops.status import overview, page, terminal, why; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300, check=False).returncode == 0


def test_lines_fold_what_waits_and_what_is_done(results):
    view = overview.overview(results)
    assert [line.split("\t")[0] for line in terminal.lines(view, everything=False)][4:] == [
        "running", "stalled", "failed", "failed",
    ]  # fmt: skip
    assert len(list(terminal.lines(view, everything=True))) == 4 + 15


def test_a_finished_run_whose_metrics_were_removed_is_not_called_stalled(results):
    attempt(results / "pretrained/cube/drifting/seed4", 1, 60, 0, (50, 0, "finished", 1000))
    run = {run.planned.folder: run for run in run_states(results)}["pretrained/cube/drifting/seed4"]
    assert (run.state, run.note[:44]) == ("waiting", "finished, but metrics.csv was removed; the r")


def test_a_table_without_runs_is_shown(tmp_path):
    """Such as that of a configuration that only checks the theory."""
    (tmp_path / "runs.csv").write_text(HEADER + "\n")
    terminal.tables(overview.overview(tmp_path), everything=True)


def test_no_run_table_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"runs.csv: no such file; the workflow and `dfp report runs` write it"):
        overview.overview(tmp_path)


def test_a_thousand_runs_read_each_folder_once(tmp_path, monkeypatch):
    table(tmp_path, seeds=350)
    seen = []
    monkeypatch.setattr(
        "dfp.ops.status.runs.read_attempts", lambda folder: seen.append(folder) or read_attempts(folder)
    )
    assert counts(run_states(tmp_path))["waiting"] == 350 * 3
    assert len(seen) == len(set(seen)) == 350 * 3


# --------------------------------------------------------------------------- why


def test_why_tells_attempts_slurm_logs_and_what_to_type(results):
    folder = results / "runs/cube/dfp/seed0"
    (folder / "run.json").write_text(
        json.dumps({"command": ["python", "-m", "dfp", "train", "finetune"], "spec": {"online": {"steps": 2000}}})
    )
    (folder / "train.log").write_text("".join(f"line {n}\n" for n in range(40)))
    text = why(folder, lambda command: "41|TIMEOUT|0:0|01:00:00|node1\n" if command[0] == "sacct" else None)
    assert "running, step 1,400 of 2,000" in text
    assert re.search(r"1\. .*node1 process 7, job 41; from step 0 to 1,000 in 1 h 0 min; exit code 75", text)
    assert "2. " in text
    assert "no end yet" in text
    assert "41 TIMEOUT" in text
    assert "raise runtime" in text
    assert "line 39" in text
    assert "line 24\n" not in text
    failed = why(results / "pretrained/cube/drifting/seed1", lambda command: None)
    assert "exit code 3: failed: q_mean is not finite (training had to stop" in failed
    assert "change its configuration" in failed
    broken = results / "pretrained/cube/drifting/seed4"
    attempt(broken, 1, 60, 0, (50, 3, "failed: JAX_PLATFORMS=cuda: no such platform", 0))
    assert "dfp ops doctor --gpu" in why(broken, lambda command: None)
    (broken / "attempts.jsonl").unlink()
    attempt(broken, 1, 60, 0, (50, 3, "failed: manifest.json: not the data that x was trained on", 0))
    assert "change its configuration" not in why(broken, lambda command: None)
    with pytest.raises(ConfigError, match="not a run folder"):
        why(broken.rename(broken.with_name("seed4.old")), lambda command: None)
    early = why(results / "pretrained/cube/drifting/seed3", lambda command: None)
    assert "dfp ops doctor" in early
    with pytest.raises(ConfigError, match="not a run folder"):
        why(results, lambda command: None)
    with pytest.raises(ConfigError, match="nothing was started here"):
        why(results / "runs/cube/dfp/seed99", lambda command: None)


def test_attempts_without_a_step_are_counted():
    attempts = [BEGUN._replace(from_step=start, step=end) for start, end in ((0, 10), (10, 10), (10, 10))]
    assert fruitless(attempts) == 2
    assert fruitless(attempts[:1]) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(45, "45 s"), (720, "12 min"), (3599, "1 h 0 min"), (12000, "3 h 20 min"), (187200, "2 d 4 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


# --------------------------------------------------------------------------- curves and the page


def test_the_curves_end_where_the_slowest_seed_is_and_have_what_runs_now(results):
    slow = results / "runs/cube/dfp/seed0"
    (slow / "train.csv").write_text(
        "step,phase,name,value,time\n"
        f"1500,online,success_rate,0.75,{moment(500)}\n"
        f"1500,online,critic_loss,3.0,{moment(500)}\n"
    )  # the evaluation at step 2000 is in progress.json alone
    done(results / "pretrained/cube/drifting/seed1", "offline", 1000, [0.75], 1.0)
    runs = read_runs(results)
    both = [(1000, 0, 0.25), (1000, 1, 0.75)]

    def rates(method: str) -> list[tuple]:
        found = curves.success_rates(results, runs[runs.method == method].drop_duplicates("run"))
        return sorted(found[["step", "seed", "success_rate"]].itertuples(index=False, name=None))

    assert rates("dfp") == both
    shutil.rmtree(results / "pretrained/cube/drifting/seed1")
    assert rates("dfp") == [(1000, 0, 0.25), (1500, 0, 0.75), (2000, 0, 0.5)]
    assert rates("dfp-no-topk") == [(1000, 0, 0.25)]


def test_a_picture_per_kind_of_run_even_without_an_evaluation(tmp_path):
    table(tmp_path, seeds=1)
    ((title, svg),) = curves.pictures(tmp_path)
    assert title == "Offline, then online"
    assert b"<svg" in svg


def test_the_page_needs_nothing_from_elsewhere_and_escapes(results):
    text = page.page(overview.overview(results))
    assert not re.search(r"https?://|<script|<link|src=\"(?!data:)|url\(", text)
    (picture,) = re.findall(r"base64,([^\"]*)", text)
    assert b"Cube &lt;1&gt;" in base64.b64decode(picture)  # the text of a path, as a comment


def test_the_page_escapes_a_note(results):
    log = results / "logs/pretrain/cube/drifting/seed3.log"
    log.write_text("dfp: <b>no such dataset\n")
    text = page.page(overview.overview(results))
    assert "&lt;b&gt;no such dataset" in text
    assert "<b>no such" not in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here (Debian: apt-get install chromium)")
def test_the_page_opens_in_a_browser(results, tmp_path):
    path = page.write_page(overview.overview(results), tmp_path / "page.html")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += f" --disable-component-update --disable-sync --user-data-dir={tmp_path / 'profile'}"
    line = ["chromium", *flags.split(), "--dump-dom", path.as_uri()]
    shown = subprocess.run(line, capture_output=True, text=True, timeout=240, check=True).stdout
    assert shown.count("<tr") == 2 + 3 + 15  # two heads, two experiments and their sum, the runs
    assert shown.count("<img") == 1
    assert "q_mean is not finite" in shown
