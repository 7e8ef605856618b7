"""Episodes that can be played again: each has a seed of its own, and its actions are known while it is played."""

import contextlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from dreamer_jax.core.errors import EnvError
from dreamer_jax.envs.spaces import spaces_of

MAX_ACTIONS = 100_000  # of an episode that can be repeated; others are begun anew


@dataclass(frozen=True)
class Record:
    """What one environment shows at one moment: a `Step` without its axis."""

    obs: dict[str, np.ndarray]
    reward: float
    is_first: bool
    is_last: bool
    is_terminal: bool
    success: float


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


def restart_seed(seed: int, restarts: int) -> int:
    """The seed of an environment that is started anew, `restarts` from 1: that of none of its episodes so far."""
    return int(np.random.SeedSequence([seed, 0, restarts]).generate_state(1)[0]) >> 1


def _what(drawn: Any, frame: np.ndarray) -> str:
    """What `render` returned, in words."""
    if not isinstance(drawn, np.ndarray):
        return type(drawn).__name__
    numbers = f" from {frame.min():g} to {frame.max():g}" if frame.size and frame.dtype.kind in "iuf" else ""
    return f"{frame.dtype}{list(frame.shape)}{numbers}"


class SeededEpisodes:
    """An environment as a stream of records, in which every episode has a seed of its own."""

    def __init__(self, env: gymnasium.Env, seed: int):
        self.spaces = spaces_of(env)
        self.specs = self.spaces.specs
        self._env = env
        self._seed, self._number = seed, -1
        self._actions: list[np.ndarray] = []
        self._digest = 0
        self._over = False  # the last record was is_last

    def episode(self) -> EpisodeState:
        """What has been played of the current episode."""
        known = 0 < len(self._actions) <= MAX_ACTIONS
        actions = np.stack(self._actions) if known else np.zeros((0, self.specs[1].size), np.float32)
        return EpisodeState(self._seed, self._number, actions, self._digest)

    def reset(self, state: EpisodeState | None = None) -> Record:
        """Starts the next episode, or goes on with that of `state`, which was being played in another process.

        Its actions are played again -> the record that the last of them led to. An environment that does not repeat itself
        starts the following episode instead.
        """
        if state is not None:
            self._seed, self._number = state.seed, state.number - 1
            with contextlib.suppress(EnvError):  # it refuses what it took before
                record = self._play(state.actions)
                if self._digest == state.digest:
                    return record
        return self._begin()

    def step(self, action: np.ndarray) -> Record:
        """Takes one decision; after a record that was is_last it is ignored, and the next episode starts."""
        if self._over:
            return self._begin()
        if len(self._actions) <= MAX_ACTIONS:
            self._actions.append(np.array(action, np.float32))
        obs, reward, terminated, truncated, info = self._env.step(action)
        self._note(obs, np.array([reward, terminated, truncated], np.float64))
        self._over = terminated or truncated
        return Record(obs, float(reward), False, self._over, terminated, info.get("success", np.nan))

    def render(self) -> np.ndarray:
        """Draws the environment as it is now -> uint8[H, W, 3]. Only an environment that was made to render can do so.

        Raises:
          EnvError: its `render` returns something else. Other whole numbers from 0 to 255 are taken.
        """
        drawn = self._env.render()
        frame = np.array(drawn)
        if frame.ndim == 3 and frame.shape[-1] == 3 and frame.dtype.kind in "iu" and 0 <= frame.min() <= frame.max() <= 255:
            return frame.astype(np.uint8, copy=False)
        raise EnvError(
            f"render returned {_what(drawn, frame)}; uint8[height, width, 3] was expected, RGB colours from 0 to 255. "
            "Convert it there, fractions with np.uint8(255 * frame), grey [height, width] with np.stack([frame] * 3, axis=-1)"
        )

    @property
    def render_mode(self) -> str | None:
        """ "rgb_array" where `render` gives images."""
        return self._env.render_mode

    @property
    def frame_rate(self) -> int:
        """Decisions in a second of real time, at least 1; 30 where the environment does not say."""
        return max(1, round(self._env.metadata.get("render_fps") or 30))

    def close(self) -> None:
        """Ends the environment."""
        self._env.close()

    def _begin(self) -> Record:
        self._number += 1
        self._actions, self._over, self._digest = [], False, 0
        obs, info = self._env.reset(seed=episode_seed(self._seed, self._number))
        self._note(obs)
        return Record(obs, 0.0, True, False, False, info.get("success", np.nan))

    def _note(self, obs: dict[str, np.ndarray], *rest: np.ndarray) -> None:
        for values in (*(obs[name] for name in sorted(obs)), *rest):
            self._digest = zlib.crc32(np.ascontiguousarray(values).data, self._digest)

    def _play(self, actions: Iterable[np.ndarray]) -> Record:
        """Plays an episode's actions, as far as it goes."""
        record = self._begin()
        for action in actions:
            if self._over:
                break  # it was longer
            record = self.step(action)
        return record
