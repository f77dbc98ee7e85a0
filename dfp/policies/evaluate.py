"""``dfp run evaluate``: the success rate of a saved policy on new episodes."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

from dfp.policies.policy import Policy
from dfp.runs.folder import Evaluation
from dfp.training import rollout
from dfp.training.rollout import Evaluator, episode_seed
from dfp.training.updates import act, stream

STREAM = "evaluate"  # not "evaluation", the stream of the run's own evaluations


def episode_seeds(seed: int, episodes: int) -> list[int]:
    """Reset seeds of the first ``episodes`` episodes of ``seed``."""
    return [episode_seed(seed, STREAM, episode) for episode in range(episodes)]


def player(policy: Policy, seed: int) -> rollout.Policy:
    """``policy`` for the :class:`Evaluator`. The noise depends on ``seed``, episode and chunk alone."""
    key = stream(seed, STREAM)

    def chunks(observation: np.ndarray, episode: np.ndarray, chunk: np.ndarray) -> np.ndarray:
        return np.asarray(act(policy.agent, policy.state, observation, episode, chunk, key))

    return chunks


def evaluate(policy: Policy, episodes: int, seed: int, workers: int | None = None) -> Evaluation:
    """Run ``episodes`` (> 0) from start to end.

    Args:
      seed: of the starts and of the policy's noise (>= 0).
      workers: processes; None: one per core. The result does not depend on their number.
    """
    with Evaluator(policy.spec.task, episodes, workers) as evaluator:
        return evaluator.evaluate(player(policy, seed), episode_seeds(seed, episodes))


def summary(policy: Policy, found: Evaluation, seed: int) -> str:
    """The result in one line, with its 95 % Wilson interval."""
    counted = binomtest(round(found.success_rate * found.episodes), found.episodes)
    low, high = counted.proportion_ci(confidence_level=0.95, method="wilson")  # Wilson 1927
    return (
        f"{policy.spec.task.key}, {policy.spec.stage} step {policy.step}: success {found.success_rate:.1%}, "
        f"95 % Wilson interval {low:.1%} to {high:.1%}, of {found.episodes} episodes (seed {seed}); "
        f"return {found.return_mean:.1f}, length {found.length_mean:.1f}"
    )
