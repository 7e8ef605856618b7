"""Actions as the agent sees them: one float32 vector, whatever the environment takes."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.core.errors import EnvError
from dreamer_jax.core.spaces import ActionSpec

# Bounds beyond this stand for "no bound" (such as the largest float32) and give no scale to learn on.
_LARGEST_BOUND = 1e30


def canonical_action(env: gymnasium.Env, name: str) -> gymnasium.Env:
    """Wraps `env` so that it takes f32[A]; the wrapper's `action_spec` says what the numbers mean.

    Raises:
      EnvError: an action space that the agent cannot use.
    """
    space = env.action_space
    if isinstance(space, spaces.Discrete):
        return OneHotAction(env, space)
    if isinstance(space, spaces.Box):
        _check_bounds(space, name)
        return RescaledAction(env, space)
    raise EnvError(
        f"{name}: action space {space} cannot be used; Discrete or a bounded Box was expected. "
        "Wrap the environment with gymnasium.wrappers.TransformAction"
    )


def _check_bounds(space: spaces.Box, name: str) -> None:
    if not space.low.size:
        raise EnvError(f"{name}: action space {space} holds no numbers; at least one was expected")
    bound = np.maximum(np.abs(space.low.astype(np.float64)), np.abs(space.high.astype(np.float64)))
    if not (bound < _LARGEST_BOUND).all():
        raise EnvError(
            f"{name}: action space {space} has no finite bounds, so [-1, 1] cannot be rescaled to it. "
            "Wrap the environment with gymnasium.wrappers.RescaleAction or give its Box finite low and high"
        )


class OneHotAction(gymnasium.ActionWrapper):
    """Takes f32[n], one number a choice; the largest is chosen."""

    def __init__(self, env: gymnasium.Env, space: spaces.Discrete):
        super().__init__(env)
        size = int(space.n)
        self._start = int(space.start)
        self.action_spec = ActionSpec(discrete=True, size=size)
        self.action_space = spaces.Box(0.0, 1.0, (size,), np.float32)

    def action(self, action: np.ndarray) -> int:
        return int(action.argmax()) + self._start


class RescaledAction(gymnasium.ActionWrapper):
    """Takes f32[A], clipped to [-1, 1] and mapped to the bounds, dtype and shape of the environment's Box."""

    def __init__(self, env: gymnasium.Env, space: spaces.Box):
        super().__init__(env)
        size = int(space.low.size)
        # In float64, and clipped last: rounding must not leave the bounds, which environments assert.
        self._low = space.low.astype(np.float64).ravel()
        self._high = space.high.astype(np.float64).ravel()
        self._middle = (self._low + self._high) / 2
        self._half = (self._high - self._low) / 2
        self._target = space
        self._integer = np.issubdtype(space.dtype, np.integer)
        self.action_spec = ActionSpec(discrete=False, size=size)
        self.action_space = spaces.Box(-1.0, 1.0, (size,), np.float32)

    def action(self, action: np.ndarray) -> Any:
        value = self._middle + self._half * action
        value = np.minimum(np.maximum(value, self._low), self._high)
        if self._integer:
            value = np.rint(value)  # a plain cast would reach the highest integer at exactly 1 only
        return value.astype(self._target.dtype).reshape(self._target.shape)
