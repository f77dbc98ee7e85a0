"""A trained policy for your own code.

``policy = dfp.load_policy("results/runs/lift/dfp/seed0")`` loads a run. ``policy(observation, seed=0)`` returns a chunk
``[H, A]``, to execute open loop.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np

from dfp.agents.base.actor_critic import ActorCritic, AgentState
from dfp.plan.foreign import refuse_misplaced
from dfp.runs.checkpoint import CheckpointError, Rotation, load_final
from dfp.runs.folder import read_spec
from dfp.runs.layout import FINAL_STATE, METRICS
from dfp.spec import RunSpec
from dfp.training.session import build_agent
from dfp.training.updates import act


@dataclasses.dataclass(frozen=True, repr=False)
class Policy:
    """A policy as it acts in training and evaluation, best-of-N included."""

    spec: RunSpec
    agent: ActorCritic
    state: AgentState
    step: int  #: step of its stage at which the state was saved

    def __repr__(self) -> str:
        """One line, without the parameters."""
        spec, shape = self.spec, [self.agent.chunk, self.agent.action_size]
        return f"Policy({spec.agent.name} on {spec.task.key}, seed {spec.seed}, step {self.step:,}, chunk {shape})"

    def __call__(self, observation: np.ndarray, seed: int) -> np.ndarray:
        """Chunks of actions in [-1, 1]. The same observation and seed give the same chunk.

        Args:
          observation: states, ``[S]`` or ``[n, S]``.
          seed: of the noise, in [0, 2^31). Use another one for every chunk. Each row of a batch has its own noise.

        Returns:
          ``[H, A]`` or ``[n, H, A]``: the actions to execute one after the other.

        Raises:
          ValueError: the states do not have the task's width.
        """
        states = np.atleast_2d(np.asarray(observation, np.float32))
        if states.ndim != 2 or states.shape[1] != self.agent.observation_size:
            raise ValueError(f"observation: shape {np.shape(observation)}; wanted [{self.agent.observation_size}]")
        rows = np.arange(len(states))
        with jax.enable_x64(False):
            chunks = act(self.agent, self.state, states, np.full_like(rows, seed), rows, jax.random.key(0))
        return np.asarray(chunks).reshape(*np.shape(observation)[:-1], self.agent.chunk, self.agent.action_size)


def load_policy(folder: str | Path) -> Policy:
    """The policy of a run: its final state, or its newest checkpoint if the run is not finished.

    It acts in 32 bits, as it was trained, even if ``jax_enable_x64`` is set.

    Raises:
      ConfigError: no run was started in ``folder``, or the run table has another run for this folder.
      CheckpointError: nothing was saved there yet, or the saved file is damaged.
    """
    folder = Path(folder)
    refuse_misplaced(folder)
    spec = read_spec(folder)
    with jax.enable_x64(False):
        agent = build_agent(spec)
        template = agent.state_shape()
        if (folder / FINAL_STATE).exists() or (folder / METRICS).exists():  # finished, so there are no checkpoints
            state, progress = load_final(folder, template, spec.digest())
        else:
            found, refused = Rotation(folder, spec.digest()).load(template)
            if found is None:
                raise CheckpointError("; ".join(refused) or f"{folder}: nothing is saved yet")
            state, progress = found
        return Policy(spec, agent, jax.device_put(state), progress["step"])
