"""Several runs on one GPU, each a process of its own: networks of this size leave most of a GPU idle.

The members share nothing but the device: each has its own run folder, lease, checkpoints and share of the memory, and
one that fails or is killed leaves the others alone. A run does not know that it is packed: its result is the same.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, NamedTuple

from dfp.record import identity, recall
from dfp.run_folder import RunFolder
from dfp.spec import ConfigError, RunSpec, validate

MEMORY = 0.9  # of the GPU's, over all members
UNFINISHED = 75


class Member(NamedTuple):
    """One run of a pack."""

    spec: RunSpec
    folder: Path
    start: Path | None  # folder of the pretraining, of a fine-tuning

    def finished(self) -> bool:
        """Whether its results are there, or could be put back."""
        done = RunFolder(self.folder, self.spec).finished()
        return done or recall(self.folder, self.spec, identity(self.start))


def parse_members(text: str) -> list[Member]:
    """Members from JSON: a list of ``{"spec": ..., "run_dir": ..., "pretrained": ... or null}``."""
    try:
        entries = json.loads(text)
        members = [(entry["spec"], Path(entry["run_dir"]), entry["pretrained"]) for entry in entries]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"--runs: not a list of spec, run_dir and pretrained: {error!r}") from None
    found = [
        Member(validate(RunSpec, spec, "--runs"), folder, start and Path(start)) for spec, folder, start in members
    ]
    if len({member.folder for member in found}) != len(found):
        raise ConfigError("--runs: two runs have one folder")
    return found


def run_pack(members: list[Member], options: list[str], threads: int) -> int:
    """Train what is not finished, side by side.

    Returns the exit code of the whole: 0 where all are finished; 75 where running it again can help, since a member
    met its deadline or was killed; else the code of the first member that failed for good.
    """
    waiting = [member for member in members if not member.finished()]
    environment = os.environ | {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{MEMORY / max(len(waiting), 1):.3f}"}
    share = max(threads // max(len(waiting), 1), 1)
    children = [_start(member, [*options, "--threads", str(share)], environment) for member in waiting]

    def forward(number: int, _: Any) -> None:
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    readers = [
        threading.Thread(target=_copy, args=(child.stdout, f"[{_name(member)}] "))
        for member, child in zip(waiting, children, strict=True)
    ]
    for reader in readers:
        reader.start()
    codes = [child.wait() for child in children]
    for reader in readers:
        reader.join()
    for number, handler in before.items():
        signal.signal(number, handler)
    for member, code in zip(waiting, codes, strict=True):
        print(f"[{_name(member)}] exit code {code}", flush=True)
    return exit_code(codes)


def exit_code(codes: list[int]) -> int:
    """Of the pack, from those of its members; a negative one is the signal that killed it."""
    if any(code == UNFINISHED or code < 0 for code in codes):
        return UNFINISHED
    return next((code for code in codes if code), 0)


def _start(member: Member, options: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dfp", member.spec.stage, "--spec", member.spec.canonical()]
    command += [
        "--run-dir",
        str(member.folder),
        *(["--pretrained", str(member.start)] if member.start else []),
        *options,
    ]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _copy(stream: IO[str], prefix: str) -> None:
    with stream:
        for line in stream:
            print(prefix + line, end="", flush=True)


def _name(member: Member) -> str:
    return "/".join(member.folder.parts[-3:])
