"""Catch, from pixels: the smallest task that needs the image encoder and decoder.

Task `import:dreamer_jax.envs.catch:make`; with `make_64` in 64x64 pixels, for measuring what images of the usual size cost.
"""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

GRID = 8  # cells along each side
CELL = 2  # pixels along each side of a cell; 8 in 64x64
BALL, PADDLE = (255, 220, 80), (80, 200, 255)
VIDEO_CELL = 24  # pixels of a cell in a video


class Catch(gymnasium.Env):
    """A ball falls straight down, one cell a step, from a random column; a paddle below can go one cell left or right.

    Shows uint8 [8 * cell, 8 * cell, 3]. The reward is 1 when the ball is caught in the bottom row, where the episode ends after
    7 steps, and 0 otherwise: the largest return is 1, and a paddle that never moves gets 1/8 on average. (Known from bsuite,
    Osband et al. 2020, there with rewards of 1 and -1 on a field of 10 x 5.)
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 8}
    action_space = spaces.Discrete(3)  # left, stay, right

    def __init__(self, render_mode: str | None = None, cell: int = CELL) -> None:
        self.render_mode, self._cell = render_mode, cell
        self.observation_space = spaces.Box(0, 255, (GRID * cell, GRID * cell, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._row, self._ball, self._paddle = 0, int(self.np_random.integers(GRID)), GRID // 2
        return self._draw(self._cell), {}

    def step(self, action: int):
        self._paddle = int(np.clip(self._paddle + action - 1, 0, GRID - 1))
        self._row += 1
        landed = self._row == GRID - 1
        reward = float(landed and self._ball == self._paddle)
        return self._draw(self._cell), reward, landed, False, {}

    def render(self) -> np.ndarray:
        return self._draw(VIDEO_CELL)

    def _draw(self, cell: int) -> np.ndarray:
        grid = np.zeros((GRID, GRID, 3), np.uint8)
        grid[-1, self._paddle] = PADDLE
        grid[self._row, self._ball] = BALL  # last: a caught ball is seen in front of the paddle
        return grid.repeat(cell, 0).repeat(cell, 1)


def make(render_mode: str | None = None) -> Catch:
    """The environment, rendered if `render_mode` is "rgb_array"."""
    return Catch(render_mode)


def make_64(render_mode: str | None = None) -> Catch:
    """The environment in 64x64 pixels."""
    return Catch(render_mode, cell=8)
