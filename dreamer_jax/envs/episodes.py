"""Episodes that can be played again: each has a seed of its own, and its actions are known while it is played."""

import hashlib
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np


@dataclass(frozen=True)
class EpisodeState:
    """Where an environment is: in the episode `number` of its `seed`, after `actions` f32[T, A].

    `digest` tells the observation there from another.
    """

    seed: int
    number: int
    actions: np.ndarray
    digest: str


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
        self._obs: dict[str, np.ndarray] = {}
        self._over = False  # at its end since `continued`, of which the vectoriser does not know

    @property
    def episode(self) -> EpisodeState:
        """What has been played of the current episode."""
        actions = np.stack(self._actions) if self._actions else np.zeros((0, *(self.action_space.shape or ())), np.float32)
        return EpisodeState(self._seed, self._number, actions, _digest(self._obs))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        state, self.continued = self.continued, None
        if state is not None:
            self._seed, self._number = state.seed, state.number - 1
            obs, info = self._play(state)
            if _digest(obs) == state.digest:
                return obs, info
        return self._begin()

    def step(self, action: np.ndarray):
        if self._over:
            obs, info = self._begin()
            return obs, 0.0, False, False, info
        self._actions.append(np.array(action, np.float32))
        self._obs, reward, terminated, truncated, info = self.env.step(action)
        return self._obs, reward, terminated, truncated, info

    def _begin(self):
        self._number += 1
        self._actions, self._over = [], False
        self._obs, info = self.env.reset(seed=episode_seed(self._seed, self._number))
        return self._obs, info

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


def _digest(obs: dict[str, np.ndarray]) -> str:
    """The same for the same observations, to the bit."""
    digest = hashlib.sha256()
    for name in sorted(obs):
        digest.update(name.encode() + np.ascontiguousarray(obs[name]).tobytes())
    return digest.hexdigest()
