"""Environments whose observations are those that the agent sees, and whose every return is checked."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.core.errors import RAISED_OUTSIDE, EnvError
from dreamer_jax.core.text import one_line
from dreamer_jax.envs.observations import ObservationConversion, canonical_space, describe

logger = logging.getLogger(__name__)
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_NUMBER = (int, float, np.integer, np.floating, np.bool_)
_BOOL = (bool, np.bool_)


class CanonicalObservation(gymnasium.Wrapper):
    """Flattens and converts the observation, and checks everything that `reset` and `step` return.

    `obs_specs` describes the result. `info` keeps "success" alone (a float), if the environment reports it:
    anything else would only be carried between processes and thrown away.
    """

    def __init__(self, env: gymnasium.Env, name: str, kinds: Sequence[str] = ()):
        super().__init__(env)
        self._name = name
        self._steps = 0  # since the reset
        self.observation_conversion = ObservationConversion(env.observation_space, name, kinds)
        self.obs_specs = self.observation_conversion.specs
        self.observation_space = spaces.Dict({key: canonical_space(spec) for key, spec in self.obs_specs.items()})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self._steps = 0
        try:
            result = self.env.reset(seed=seed, options=options)
        except RAISED_OUTSIDE as error:
            raise self._error(f"reset raised {one_line(error)}") from error
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._error(f"reset returned {describe(result)}; the tuple (observation, info) was expected")
        observation, info = result
        return self._observation(observation), self._info(info)

    def step(self, action: Any):
        self._steps += 1
        try:
            result = self.env.step(action)
        except RAISED_OUTSIDE as error:
            raise self._error(f"step raised {one_line(error)}") from error
        if not isinstance(result, tuple) or len(result) != 5:
            raise self._error(
                f"step returned {describe(result)}; the tuple (observation, reward, terminated, truncated, info) was expected"
            )
        observation, reward, terminated, truncated, info = result
        # False for NaN too. The agent keeps rewards as float32, where larger ones become infinite.
        if not isinstance(reward, _NUMBER) or not -_FLOAT32_MAX <= reward <= _FLOAT32_MAX:
            raise self._error(f"reward is {describe(reward)}; one finite number was expected. Return float(reward)")
        if not isinstance(terminated, _BOOL) or not isinstance(truncated, _BOOL):
            key, value = ("truncated", truncated) if isinstance(terminated, _BOOL) else ("terminated", terminated)
            raise self._error(f"{key} is {describe(value)}; a bool was expected. Return bool({key})")
        return self._observation(observation), float(reward), bool(terminated), bool(truncated), self._info(info)

    def close(self):
        try:
            self.env.close()
        except RAISED_OUTSIDE as error:  # nothing depends on it any more, least of all an evaluation that is over
            logger.warning("%s: close raised %s; going on without", self._name, one_line(error))

    def _observation(self, observation: Any) -> dict[str, np.ndarray]:
        try:
            return self.observation_conversion(observation)
        except EnvError as error:
            raise self._error(str(error)) from None

    def _info(self, info: Any) -> dict[str, float]:
        if not isinstance(info, dict):
            raise self._error(f"info is {describe(info)}; a dict was expected")
        for key in ("success", "is_success"):
            if key in info:
                if not isinstance(info[key], _NUMBER) or not math.isfinite(info[key]):
                    raise self._error(f"info[{key!r}] is {describe(info[key])}; a bool or a finite number was expected")
                return {"success": float(info[key])}
        return {}

    def _error(self, text: str) -> EnvError:
        place = f"at step {self._steps} of the episode" if self._steps else "at reset"
        return EnvError(f"{self._name} {place}: {text}")
