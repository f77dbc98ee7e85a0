"""The online phase: one environment step, one update, and how the two overlap.

The update of a step draws from the rows up to that step. A chunk is chosen after the updates of all steps before it.
The environment is a separate process. It plays the rest of a chunk while the updates of the first steps run. When the
host dispatches updates does not change the result.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dfp.agents.base.actor_critic import AgentState
from dfp.runs.checkpoint import load_final
from dfp.runs.same_spec import refuse_other
from dfp.tasks import Dataset, Step
from dfp.training.replay import Rows, grow_finals, make_buffer
from dfp.training.rollout import RemoteEnvironment, episode_seed
from dfp.training.session import Session
from dfp.training.updates import Span, act, online_updates, stream

CHECK_S = 2.0  # seconds between looks at the online losses


class Transition(NamedTuple):
    """One environment step."""

    observation: np.ndarray  #: [S], before the step
    action: np.ndarray  #: [A]
    result: Step


class OnlineLoop:
    """The online phase, episode by episode. Checkpoints are taken at the start of an episode."""

    def __init__(self, session: Session, environment: RemoteEnvironment, pretrained: Path, dataset: Dataset) -> None:
        """``pretrained``: folder of the finished offline phase. ``dataset``: the rows it ended with."""
        assert session.spec.online is not None
        self.session, self.spec, self.online = session, session.spec, session.spec.online
        self.agent = session.agent
        self.environment = environment
        assert session.rows is not None
        self.rows = session.rows
        self.data_key, self.actor_key = stream(self.spec.seed, "data"), stream(self.spec.seed, "actor")
        self.step = 0  # environment steps made
        self.episodes = 0  # episodes played to their end
        self.state = self._initial_state(pretrained)
        self.diagnostics = session.diagnostics(self.state)
        self.offline = len(dataset.rewards)
        self.capacity = max(self.online.buffer_capacity, self.offline + 1)
        # Places beyond the capacity, for a chunk stored ahead of its updates and for the newest next observation.
        self.buffer = make_buffer(dataset, self.capacity + self.agent.chunk + 1, self.rows)
        self.finals = len(dataset.final_observations) + self.rows.episodes
        self._waiting: list[Transition] = []  # made, but not yet handed to the device
        self._checked = time.monotonic()
        # Compile now, while the environment's process starts. A dispatch of no rows changes nothing.
        self._dispatch()
        self._act(np.zeros(self.spec.task.observation_size, np.float32), 0)

    def _initial_state(self, pretrained: Path) -> AgentState:
        if (found := self.session.restore()) is not None:
            state, progress = found
            self.step, self.episodes = progress["step"], progress["episodes"]
            self.rows.truncate(progress["records"])
        else:
            offline = self.spec.pretraining()
            # pi_old begins at the switch, so the pretraining has none.
            template = self.agent.state_shape()._replace(anchor=None)
            refuse_other(pretrained, offline)
            state, _ = load_final(pretrained, template, offline.digest())
            state = self.agent.start_improving(state)
            self.rows.truncate(0)
        return jax.tree.map(jnp.asarray, state)

    def episode(self) -> None:
        """Play one episode to its end, or to the end of the phase, with the updates that belong to its steps."""
        if self.session.checkpoint_is_due():
            self._update()  # the last steps' updates may still wait for the device
            self._check()
            self.session.save(self.step, self.state, self._progress)
        with self.session.simulating(f"training episode {self.episodes}"):
            self._play(self.environment.reset(episode_seed(self.spec.seed, "environment", self.episodes)))
        self.episodes += 1

    def _progress(self) -> dict[str, int]:
        """What a checkpoint keeps of the loop."""
        records = self.rows.flush()
        return {"episodes": self.episodes, "records": records, "checksum": self.rows.checksum}

    def _play(self, observation: np.ndarray) -> None:
        done, chunks = False, 0
        while not done and self.step < self.online.steps:
            chunk = self._choose(observation, chunks)
            for action, result in zip(chunk, self.environment.play(chunk), strict=False):
                self._store(Transition(observation, action, result))
                observation, done = result.observation, result.terminated or result.truncated
                if self.step == self.online.steps:
                    break
            chunks += 1

    def _choose(self, observation: np.ndarray, chunk: int) -> np.ndarray:
        """The chunk ``[H, A]`` to play from ``observation``, after the updates of all steps so far."""
        self._update()
        if time.monotonic() - self._checked > CHECK_S:
            self._check()
        return self._act(observation, chunk)

    def _act(self, observation: np.ndarray, chunk: int) -> np.ndarray:
        number = np.array([self.episodes]), np.array([chunk])
        return np.asarray(act(self.agent, self.state, observation[None], *number, self.actor_key))[0]

    def _store(self, transition: Transition) -> None:
        """Queue one environment step, dispatch its update at the latest at the next chunk, evaluate if it is due."""
        self._waiting.append(transition)
        self.step += 1
        if self._device_is_idle():
            self._update()
        evaluation = self.step % self.spec.evaluation.interval == 0 or self.step == self.online.steps
        if evaluation or self.step % self.session.interval == 0:
            self._update()
            self._check()
        if evaluation:
            self.session.evaluate(self.state, self.step)

    def _device_is_idle(self) -> bool:
        """Whether the last updates are done. It decides when updates are dispatched, never what they are."""
        return self.diagnostics.count.is_ready()  # pyright: ignore[reportAttributeAccessIssue] not in JAX's annotations

    def _update(self) -> None:
        """Dispatch the waiting transitions and their updates to the device, without waiting for the result."""
        if self._waiting:
            self._dispatch()

    def _dispatch(self) -> None:
        before = self.step - len(self._waiting)
        span = Span(
            end=self.offline + before,
            count=len(self._waiting),
            first=self.spec.training.offline_steps + before,
            skip=min(max(self.online.warmup_steps - before, 0), len(self._waiting)),
        )
        if self.finals + len(self._waiting) > self.buffer.final_observation.shape[0]:
            self.buffer = grow_finals(self.buffer)
        self.state, self.diagnostics, self.buffer = online_updates(
            self.agent, self.capacity, self.state, self.diagnostics, self.buffer, self.data_key, self._pack(), span
        )

    def _pack(self) -> Rows:
        """The waiting transitions as padded arrays; they are also queued for the file."""
        count, width = self.agent.chunk, self.spec.task.observation_size
        rows = Rows(
            observation=np.zeros((count, width), np.float32),
            action=np.zeros((count, self.spec.task.action_size), np.float32),
            reward=np.zeros(count, np.float32),
            mask=np.ones(count, np.float32),
            final=np.full(count, -1, np.int32),
            next_observation=np.zeros((count, width), np.float32),
        )
        for index, (observation, action, result) in enumerate(self._waiting):
            done = result.terminated or result.truncated
            rows.observation[index], rows.action[index] = observation, action
            rows.reward[index], rows.mask[index] = result.reward, 1.0 - result.terminated
            rows.next_observation[index] = result.observation
            if done:
                rows.final[index] = self.finals
                self.finals += 1
            final = result.observation if done else None
            self.rows.add(observation, action, result.reward, 1.0 - result.terminated, final)
        self._waiting.clear()
        return rows

    def _check(self) -> None:
        self.diagnostics = self.session.check(self.state, self.diagnostics, self.step)
        self._checked = time.monotonic()
