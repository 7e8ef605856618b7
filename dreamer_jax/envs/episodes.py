"""Episodes that can be played again: each has a seed of its own, and its actions are known while it is played."""

import zlib
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from dreamer_jax.envs.errors import EnvError

MAX_ACTIONS = 100_000  # of an episode that can be repeated; others are begun anew


@dataclass(frozen=True)
class EpisodeState:
    """Where an environment is: in the episode `number` of its `seed`, after `actions` f32[T, A].

    `digest` tells what it has shown so far from anything else: a checksum of every observation, reward and flag.
    """

    seed: int
    number: int
    actions: np.ndarray
    digest: int


def episode_seed(seed: int, number: int) -> int:
    """The seed of an environment's episode: for the first one its own."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) >> 1 if number else seed


class SeededEpisodes(gymnasium.Wrapper):
    """Seeds every episode, and can go on with one that was being played in another process.

    Set `continued` to what `episode` was there; the next reset then plays its actions again, and returns what the last of them
    led to with {"continued": True, "reward", "terminated", "truncated"} in its info. An environment that does not repeat itself
    starts the following episode instead.
    """

    def __init__(self, env: gymnasium.Env, seed: int):
        super().__init__(env)
        self.continued: EpisodeState | None = None
        self._seed, self._number = seed, -1
        self._actions: list[np.ndarray] = []
        self._digest = 0
        self._over = False  # at its end since `continued`, of which the vectoriser does not know

    @property
    def episode(self) -> EpisodeState:
        """What has been played of the current episode."""
        known = 0 < len(self._actions) <= MAX_ACTIONS
        actions = np.stack(self._actions) if known else np.zeros((0, *(self.action_space.shape or ())), np.float32)
        return EpisodeState(self._seed, self._number, actions, self._digest)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        state, self.continued = self.continued, None
        if state is not None:
            self._seed, self._number = state.seed, state.number - 1
            try:
                obs, info = self._play(state)
            except EnvError:  # it refuses what it took before
                return self._begin()
            if self._digest == state.digest:
                return obs, info
        return self._begin()

    def step(self, action: np.ndarray):
        if self._over:
            obs, info = self._begin()
            return obs, 0.0, False, False, info
        if len(self._actions) <= MAX_ACTIONS:
            self._actions.append(np.array(action, np.float32))
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._note(obs, np.array([reward, terminated, truncated], np.float64))
        return obs, reward, terminated, truncated, info

    def _begin(self):
        self._number += 1
        self._actions, self._over, self._digest = [], False, 0
        obs, info = self.env.reset(seed=episode_seed(self._seed, self._number))
        self._note(obs)
        return obs, info

    def _note(self, obs: dict[str, np.ndarray], *rest: np.ndarray) -> None:
        for values in (*(obs[name] for name in sorted(obs)), *rest):
            self._digest = zlib.crc32(np.ascontiguousarray(values).data, self._digest)

    def _play(self, state: EpisodeState):
        """Plays an episode's actions, as far as it goes."""
        obs, info = self._begin()
        reward, terminated, truncated = 0.0, False, False
        for action in state.actions:
            if terminated or truncated:
                return {}, {}  # it was longer
            obs, reward, terminated, truncated, info = self.step(action)
        self._over = terminated or truncated
        return obs, {**info, "continued": True, "reward": reward, "terminated": terminated, "truncated": truncated}
