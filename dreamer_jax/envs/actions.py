"""From the agent's action, one float32 vector, to the action that an environment takes."""

from typing import Any

import numpy as np
from gymnasium import spaces

from dreamer_jax.core.errors import EnvError
from dreamer_jax.core.spaces import ActionSpec
from dreamer_jax.envs.advice import action_advice, space_text

# Bounds beyond this stand for "no bound" (such as the largest float32) and give no scale to learn on.
_LARGEST_BOUND = 1e30


class OneHotConversion:
    """From f32[n], one number a choice, to the integer of the largest."""

    def __init__(self, space: spaces.Discrete) -> None:
        self.space = space
        self.spec = ActionSpec(discrete=True, size=int(space.n))
        self._start = int(space.start)

    def __call__(self, action: np.ndarray) -> int:
        return int(action.argmax()) + self._start


class RescalingConversion:
    """From f32[A], clipped to [-1, 1], to the bounds, dtype and shape of a Box."""

    def __init__(self, space: spaces.Box) -> None:
        self.space = space
        self.spec = ActionSpec(discrete=False, size=int(space.low.size))
        # In float64, and clipped last: rounding must not leave the bounds, which environments assert.
        self._low = space.low.astype(np.float64).ravel()
        self._high = space.high.astype(np.float64).ravel()
        self._middle = (self._low + self._high) / 2
        self._half = (self._high - self._low) / 2
        self._integer = np.issubdtype(space.dtype, np.integer)

    def __call__(self, action: np.ndarray) -> np.ndarray:
        value = self._middle + self._half * action
        value = np.minimum(np.maximum(value, self._low), self._high)
        if self._integer:
            value = np.rint(value)  # a plain cast would reach the highest integer at exactly 1 only
        return value.astype(self.space.dtype).reshape(self.space.shape)


ActionConversion = OneHotConversion | RescalingConversion
"""Called with the agent's action. `space` is the environment's own action space, `spec` what the agent's numbers mean."""


def action_conversion(space: Any, name: str) -> ActionConversion:
    """The conversion for an action space.

    Args:
      name: the task, for messages.

    Raises:
      EnvError: an action space that the agent cannot use.
    """
    if isinstance(space, spaces.Discrete):
        return OneHotConversion(space)
    if isinstance(space, spaces.Box):
        _check_bounds(space, name)
        return RescalingConversion(space)
    raise EnvError(
        f"{name}: action space {space_text(space)} cannot be used; Discrete or a bounded Box was expected. "
        f"{action_advice(space)}"
    )


def _check_bounds(space: spaces.Box, name: str) -> None:
    if not space.low.size:
        raise EnvError(f"{name}: action space {space_text(space)} holds no numbers; at least one was expected")
    bound = np.maximum(np.abs(space.low.astype(np.float64)), np.abs(space.high.astype(np.float64)))
    if not (bound < _LARGEST_BOUND).all():
        raise EnvError(
            f"{name}: action space {space_text(space)} has no finite bounds, so [-1, 1] cannot be rescaled to it. "
            f"{action_advice(space)}"
        )
