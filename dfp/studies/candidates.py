"""Studies of trained runs beyond the paper: the values and the spread of the candidates of the old policy.

Legend: ``B`` states of the dataset, ``N`` candidates, ``K`` positives, ``D`` coordinates of a flattened chunk.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

from dfp.agents.base.actor_critic import ActorCritic, AgentState, Params, TopKConfig
from dfp.plan.foreign import refuse_foreign
from dfp.plan.run_table import experiment_runs
from dfp.policies.policy import load_policy
from dfp.report.collect import evaluations
from dfp.runs.checkpoint import CheckpointError
from dfp.spec import ConfigError, RunSpec
from dfp.tasks import load_dataset

STATES = 256
RUN_COLUMNS = ["task", "task_title", "method", "label", "color", "seed"]


class Measured(NamedTuple):
    """The candidates of one policy."""

    q: np.ndarray  #: [N] mean over states of the value of the best candidate, the second best, ...
    q_data: float  #: mean value of the data's own chunks at these states
    spread: float  #: standard deviation over a state's candidates, mean over states and coordinates


def measure(
    agent: ActorCritic, state: AgentState, observations: np.ndarray, actions: np.ndarray, count: int
) -> Measured:
    """``count`` candidates of pi_old, or of the policy if it has none, at ``[B, S]`` states with ``[B, D]`` chunks.

    They are drawn, clipped and valued as in training (Eq. 15), by the live critics' mean.
    """
    actor = state.actor if state.anchor is None else state.anchor
    keys = jax.random.split(jax.random.key(0), len(observations))
    candidates, scores, data = _scored(agent, actor, state.critic, observations, actions, keys, count)
    ranked = np.sort(np.asarray(scores), axis=1)[:, ::-1]
    spread = np.asarray(candidates).std(axis=1, ddof=1).mean()
    return Measured(ranked.mean(axis=0), float(jnp.mean(data)), float(spread))


@functools.partial(jax.jit, static_argnums=(0, 6))  # compiled once for all runs with the same settings
def _scored(
    agent: ActorCritic, actor: Params, critic: Params, observations: Array, actions: Array, keys: Array, count: int
) -> tuple[Array, Array, Array]:
    candidates, scores = agent.scored_candidates(actor, critic, observations, keys, count)
    return candidates, scores, agent.aggregate(agent.values(critic, observations, actions))


def dataset_chunks(spec: RunSpec, data_dir: Path, chunk: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """``count`` states of the run's dataset with their chunks, ``[count, S], [count, D]``: the same at every call.

    No chunk runs past the end of its episode.
    """
    dataset = load_dataset(spec.task, spec.data, data_dir)
    windows = np.lib.stride_tricks.sliding_window_view(dataset.terminals, chunk)
    whole = np.flatnonzero(~windows[:, : chunk - 1].any(axis=1))
    starts = np.random.default_rng(0).choice(whole, min(count, len(whole)), replace=False)
    actions = dataset.actions[starts[:, None] + np.arange(chunk)].reshape(len(starts), -1)
    return dataset.observations[starts], actions


def candidate_rows(experiment: str, results_dir: Path, data_dir: Path, partial: bool = False) -> pd.DataFrame:
    """The candidates of every run of an experiment, at the end of each phase: a row per rank.

    Columns: :data:`RUN_COLUMNS`, ``phase``, ``step`` (over both phases), ``rank`` (1: the best), ``q, q_data, spread``
    (see :class:`Measured`), ``candidates`` N, ``positives`` K, ``states`` B, ``listed`` (seeds in the run table). An
    offline phase without a top-K term has the defaults of N and K. With ``partial``, a phase without a saved state has
    one row, in which all but the run, ``phase`` and ``listed`` is empty.

    Raises:
      ConfigError: the experiment is not in the run table, a folder holds a foreign run, or a method has no candidates.
      CheckpointError: a run has saved nothing (without ``partial``).
    """
    frames = []
    runs = experiment_runs(results_dir, experiment)
    refuse_foreign(results_dir, runs)
    listed = runs.groupby(["task", "method"]).seed.transform("count")
    for run in runs.assign(listed=listed).to_dict("records"):
        for phase, folder in (("offline", run["pretrained"]), ("online", run["run"])):
            which = {name: run[name] for name in (*RUN_COLUMNS, "listed")} | {"phase": phase}
            try:
                policy = load_policy(results_dir / folder)
            except (CheckpointError, ConfigError):
                if not partial:
                    raise
                frames.append(pd.DataFrame([which]))
                continue
            config = getattr(policy.spec.agent, "top_k", None) or TopKConfig()
            chunks = dataset_chunks(policy.spec, data_dir, policy.agent.chunk, STATES)
            found = measure(policy.agent, policy.state, *chunks, config.candidates)
            frames.append(
                pd.DataFrame({"rank": np.arange(1, len(found.q) + 1), "q": found.q}).assign(
                    **which,
                    step=policy.step + (run["offline_steps"] if phase == "online" else 0),
                    q_data=found.q_data,
                    spread=found.spread,
                    candidates=config.candidates,
                    positives=config.positives,
                    states=len(chunks[0]),
                )
            )
    columns = [
        *RUN_COLUMNS, "phase", "step", "rank", "q", "q_data", "spread", "candidates", "positives", "states", "listed",
    ]  # fmt: skip
    return pd.DataFrame(pd.concat(frames, ignore_index=True) if frames else None, columns=columns)


def normalisation_rows(results_dir: Path, data_dir: Path, partial: bool = False) -> pd.DataFrame:
    """The study of the field's two normalisations: spread and worth of the candidates, and success.

    Columns: :data:`RUN_COLUMNS`, ``quantity``, ``phase``, ``x, value``, ``listed``. Quantities: ``spread`` at step
    ``x``; ``q``, the value of rank ``x`` less the mean of the state's candidates; ``success_rate`` at step ``x``. With
    ``partial``, ``x`` and ``value`` of what a run has not saved are empty.
    """
    candidates = candidate_rows("normalisation", results_dir, data_dir, partial)
    cell = [*RUN_COLUMNS, "phase"]
    relative = candidates.q - candidates.groupby(cell).q.transform("mean") if len(candidates) else candidates.q
    runs = experiment_runs(results_dir, "normalisation")
    keys = ["task", "method", "seed"]
    listed = runs.assign(listed=runs.groupby(["task", "method"]).seed.transform("count"))
    success = evaluations(results_dir, runs, partial).merge(listed[[*RUN_COLUMNS, "listed"]], on=keys)
    parts = [
        candidates.drop_duplicates(cell).assign(quantity="spread", x=candidates.step, value=candidates.spread),
        candidates.assign(quantity="q", x=candidates["rank"], value=relative),
        success.assign(quantity="success_rate", x=success.step, value=success.success_rate),
    ]
    columns = [*RUN_COLUMNS, "quantity", "phase", "x", "value", "listed"]
    return pd.DataFrame(pd.concat([part[columns] for part in parts if len(part)] or [pd.DataFrame(columns=columns)]))
