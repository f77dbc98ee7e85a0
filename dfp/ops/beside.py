"""The authors' release beside our code: its updates, timed in a separate process on the same rows.

The release needs older versions of JAX and NumPy, so its process runs another Python, with ``release_clock.py`` as its
program. Nothing of the release is part of this package.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from dfp.errors import DfpError
from dfp.ops import release_clock
from dfp.spec import ConfigError, RunSpec
from dfp.tasks import Dataset

# Ours by name: the release's agent.
AGENTS = {"dfp": "drift", "mvp": "meanflow", "fql": "acfql", "bfn": "acfql"}


def release_settings(spec: RunSpec) -> dict[str, Any]:
    """The release's agent and the entries of its configuration that make its update the same work as ours.

    Raises:
      ConfigError: the release has no such method.
    """
    name, agent, training = spec.agent.name, spec.agent.model_dump(), spec.training
    if name not in AGENTS:
        raise ConfigError(f"--beside: the release has no '{name}'; allowed: methods of {', '.join(AGENTS)}")
    layers = [spec.network.width] * spec.network.depth
    config: dict[str, Any] = {
        "actor_hidden_dims": layers,
        "value_hidden_dims": layers,
        "num_qs": spec.network.ensemble_size,
        "batch_size": training.batch_size,
        "lr": training.learning_rate,
        "discount": training.discount,
        "tau": training.target_update_rate,
        "horizon_length": agent["chunk"],
        "action_chunking": agent["chunk"] > 1,
    }
    if "best_of" in agent:
        config |= {"actor_type": "best-of-n", "actor_num_samples": agent["best_of"], "q_bon": agent["best_of"]}
    top_k = agent.get("top_k")
    if top_k is not None:
        config |= {"online_n_samples": top_k["candidates"], "alpha_pos": top_k["weight"]}
        config |= {"actor_ema_tau": top_k["ema_rate"]}
    match name:
        case "dfp":
            config |= {"gen_per_label": agent["samples"], "drift_temps": list(agent["bandwidths"])}
            config |= {"online_drift_mode": "none" if top_k is None else "hard", "online_neg_samples": 0}
            config |= {} if top_k is None else {"online_pos_samples": top_k["positives"]}
        case "mvp":
            config |= {"ivc_lambda": agent["ivc_weight"], "online_top_k": 0 if top_k is None else top_k["positives"]}
        case "fql":
            config |= {"actor_type": "distill-ddpg", "alpha": agent["alpha"], "flow_steps": agent["flow_steps"]}
        case "bfn":
            config |= {"flow_steps": agent["flow_steps"]}
    return {"agent": AGENTS[name], "config": config}


def release_rows(rows: Dataset) -> dict[str, np.ndarray]:
    """The columns of the release's dataset, of the same transitions. It stores each next observation as well."""
    following = np.roll(rows.observations, -1, axis=0)
    following[rows.terminals] = rows.final_observations
    return {
        "observations": rows.observations,
        "actions": rows.actions,
        "rewards": rows.rewards,
        "masks": rows.masks,
        "terminals": rows.terminals.astype(np.float32),
        "next_observations": following,
    }


class ReleaseError(DfpError):
    """The release does not run: the last line that its process wrote."""


class Release:
    """A process that makes updates of the release when asked."""

    def __init__(self, folder: Path, python: Path, spec: RunSpec, rows: Dataset, phase: Literal["offline", "online"]):
        """``folder``: a checkout of the release. ``python``: an interpreter that has the release's requirements.

        Raises:
          ConfigError: there is no release in ``folder``, or it has no such method.
        """
        if not (folder / "agents" / "drift.py").is_file():
            raise ConfigError(f"--beside: {folder}: no agents/drift.py; allowed: a checkout of the authors' release")
        settings = release_settings(spec)
        self._scratch = tempfile.TemporaryDirectory()
        file = Path(self._scratch.name) / "rows.npz"
        np.savez(file, **release_rows(rows))  # pyright: ignore[reportArgumentType]
        self._errors = (Path(self._scratch.name) / "stderr").open("w+")
        arguments = [release_clock.__file__, folder.resolve(), file, json.dumps(settings), phase]
        self._process = subprocess.Popen(
            [str(part) for part in (python, *arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=release_environment(),
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its input, which ends it
        self._errors.close()
        self._scratch.cleanup()

    def advance(self, count: int) -> None:
        """Make ``count`` updates; returns when they are done. Raises :class:`ReleaseError`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{count}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the empty answer below says so too
        if not self._process.stdout.readline():
            self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines() or ["no message"]
            raise ReleaseError(f"--beside: the release's process ended: {lines[-1]}")


def release_environment() -> dict[str, str]:
    """This process's variables, without what only our own engine and environment need."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "prefer_vector_width" not in flag]
    dropped = ("PYTHONPATH", "VIRTUAL_ENV", "JAX_COMPILATION_CACHE_DIR")
    return {name: value for name, value in os.environ.items() if name not in dropped} | {"XLA_FLAGS": " ".join(flags)}
