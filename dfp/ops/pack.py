"""Several runs on one GPU, each in its own process: networks of this size leave most of a GPU idle.

The processes share nothing but the device: each has its own share of the memory, each run its own folder, lease and
checkpoints, and one that fails or is killed leaves the others alone. A run does not know that it is packed: its result
is the same. With ``seeds_per_job`` a process trains several seeds of one offline run (:mod:`dfp.training.seeds`).
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, NamedTuple

from dfp.errors import UNFINISHED
from dfp.files import parsed_json
from dfp.plan.experiments import programs
from dfp.runs.finished import identity, problem, recall
from dfp.spec import ConfigError, RunSpec, canonical_json, validate

MEMORY = 0.9  # of the GPU's, over all members


class Member(NamedTuple):
    """One run of a pack."""

    spec: RunSpec
    folder: Path
    start: Path | None  #: folder of the pretraining, of a fine-tuning

    def finished(self) -> bool:
        """Whether the run, started from ``start``, is finished. Results that were removed are put back."""
        start = identity(self.start)
        return problem(self.folder, self.spec.digest(), start) is None or recall(self.folder, self.spec, start)


def parse_members(text: str) -> list[Member]:
    """Members from JSON: a list of ``{"spec": ..., "run_dir": ..., "pretrained": ... or null}``."""
    try:
        entries = parsed_json(text)
        members = [(entry["spec"], Path(entry["run_dir"]), entry["pretrained"]) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--runs: not a list of spec, run_dir and pretrained: {error!r}") from None
    found = [
        Member(validate(RunSpec, spec, "--runs"), folder, start and Path(start)) for spec, folder, start in members
    ]
    if len({member.folder for member in found}) != len(found):
        raise ConfigError("--runs: two runs have one folder")
    return found


def run_pack(members: list[Member], options: list[str], threads: int, seeds_per_job: int = 1) -> int:
    """Train what is not finished, side by side; up to ``seeds_per_job`` seeds of an offline run in one process.

    Returns the exit code of the whole: 0 if all are finished; 75 if running it again can help, since a member
    met its deadline or was killed; else the code of the first member that failed for good.
    """
    unfinished = {str(member.folder): member for member in members if not member.finished()}
    groups = programs({folder: member.spec for folder, member in unfinished.items()}, seeds_per_job)
    waiting = [[unfinished[folder] for folder in group] for group in groups]
    environment = os.environ | {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{MEMORY / max(len(waiting), 1):.3f}"}
    share = max(threads // max(len(waiting), 1), 1)
    children = [_start(group, [*options, "--threads", str(share)], environment) for group in waiting]

    def forward(number: int, _: Any) -> None:
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    readers = [
        threading.Thread(target=_copy, args=(child.stdout, f"[{_name(group)}] "))
        for group, child in zip(waiting, children, strict=True)
    ]
    for reader in readers:
        reader.start()
    codes = [child.wait() for child in children]
    for reader in readers:
        reader.join()
    for number, handler in before.items():
        signal.signal(number, handler)
    for group, code in zip(waiting, codes, strict=True):
        print(f"[{_name(group)}] exit code {code}", flush=True)
    return exit_code(codes)


def exit_code(codes: list[int]) -> int:
    """Exit code of the pack, from the codes of its members. A negative code is the signal that killed a member."""
    if any(code == UNFINISHED or code < 0 for code in codes):
        return UNFINISHED
    return next((code for code in codes if code), 0)


def _start(group: list[Member], options: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dfp", "train", *(_one(group[0]) if len(group) == 1 else _seeds(group)), *options]
    # A driver may write bytes that are not text. They must not end the thread that reads: the child would wait for it.
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )


def _one(member: Member) -> list[str]:
    start = ["--pretrained", str(member.start)] if member.start else []
    return [member.spec.stage, "--spec", member.spec.canonical(), "--run-dir", str(member.folder), *start]


def _seeds(group: list[Member]) -> list[str]:
    runs = [{"spec": one.spec.model_dump(mode="json"), "run_dir": str(one.folder), "pretrained": None} for one in group]
    return ["seeds", "--runs", canonical_json(runs)]


def _copy(stream: IO[str], prefix: str) -> None:
    with stream:
        for line in stream:
            print(prefix + line, end="", flush=True)


def _name(group: list[Member]) -> str:
    parts = group[0].folder.parts
    return "/".join(parts[-3:] if len(group) == 1 else parts[-3:-1])
