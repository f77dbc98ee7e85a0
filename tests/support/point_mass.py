"""A toy environment from outside the package: a point in the plane that has to come to the origin."""

from typing import Any

import gymnasium
import numpy as np

GOAL_RADIUS = 0.1


class PointMass(gymnasium.Env):
    """States are places [2]; an action is a shift, inside bounds that are not symmetric."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's way)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-2.0, 2.0, (2,))
        self.action_space = gymnasium.spaces.Box(np.array([-0.3, -0.2], np.float32), np.array([0.1, 0.2], np.float32))
        self.place = np.zeros(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(0.3, 1.0, 2)
        return self.place.astype(np.float32), {}

    def step(self, action: np.ndarray):
        self.place = np.clip(self.place + action, -2.0, 2.0)
        success = bool(np.linalg.norm(self.place) < GOAL_RADIUS)
        return self.place.astype(np.float32), float(success) - 1.0, success, False, {"success": success}

    def render(self) -> np.ndarray:
        """A white dot on black, [64, 64, 3]."""
        picture = np.zeros((64, 64, 3), np.uint8)
        column, row = ((self.place + 2.0) * 15).astype(int)
        picture[row : row + 4, column : column + 4] = 255
        return picture


class Silent(PointMass):
    """It does not say whether it succeeded."""

    def step(self, action: np.ndarray):
        *step, _ = super().step(action)
        return *step, {}


class Restless(PointMass):
    """Its start does not depend on the seed."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.place = np.random.default_rng().uniform(0.3, 1.0, 2)
        return self.place.astype(np.float32), {}


class Reusing(Restless):
    """... and it writes every state into one array."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.state = np.zeros(2, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self.state[:], info = super().reset(seed=seed)
        return self.state, info

    def step(self, action: np.ndarray):
        self.state[:], *rest = super().step(action)
        return self.state, *rest


class Unbounded(PointMass):
    """Its actions have no bounds."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))


class Pictures(PointMass):
    """Its states are pictures."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)


class Buttons(PointMass):
    """Its actions are choices."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.action_space = gymnasium.spaces.Discrete(3)


class LostError(Exception):
    """Pickle cannot make it again: it passes on one of its two arguments."""

    def __init__(self, what: str, place: str) -> None:
        super().__init__(f"{what} at {place}")


class Fragile(PointMass):
    """It breaks at the largest shift, in another way in each direction."""

    def step(self, action: np.ndarray):
        right, up = action >= self.action_space.high
        if right and up:
            raise LostError("the point", "the corner")
        if right:
            raise ValueError("too far right")
        if up:
            raise OSError("too far up")
        return super().step(action)


for kind in (PointMass, Silent, Restless, Reusing, Unbounded, Pictures, Buttons, Fragile):
    gymnasium.register(f"{kind.__name__}-v0", kind, max_episode_steps=20)
gymnasium.register("Uncapped-v0", PointMass)


def episodes(count: int, seed: int) -> dict[str, np.ndarray]:
    """Columns of a dataset: a clumsy walk towards the origin, in the format of ``dfp/tasks/npz.py``."""
    environment = gymnasium.make("PointMass-v0")
    stream = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for episode in range(count):
        place, _ = environment.reset(seed=seed + episode)
        ended = False
        while not ended:
            shift = np.clip(
                -place + stream.normal(0, 0.1, 2), environment.action_space.low, environment.action_space.high
            )
            after, reward, terminated, truncated, _ = environment.step(shift.astype(np.float32))
            ended = terminated or truncated
            row = {
                "observations": place,
                "actions": shift,
                "rewards": reward,
                "masks": not terminated,
                "terminals": False,
            }
            rows.append(row)
            place = after
        rows.append(rows[-1] | {"observations": place, "terminals": True})
    return {name: np.array([row[name] for row in rows], np.float32) for name in rows[0]}
