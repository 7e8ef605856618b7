"""Environments that take the agent's action: one float32 vector, whatever they take themselves."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.actions import action_conversion


class CanonicalAction(gymnasium.ActionWrapper):
    """Takes f32[A], and hands the environment its own action; `action_spec` says what the numbers mean.

    Raises:
      EnvError: an action space that the agent cannot use.
    """

    def __init__(self, env: gymnasium.Env, name: str) -> None:
        super().__init__(env)
        self.action_conversion = action_conversion(env.action_space, name)
        self.action_spec = self.action_conversion.spec
        self.action_space = spaces.Box(0.0 if self.action_spec.discrete else -1.0, 1.0, (self.action_spec.size,), np.float32)

    def action(self, action: np.ndarray) -> Any:
        return self.action_conversion(action)
