"""Many environments stepped together, as the stream of records that the replay stores.

For an episode of N decisions there are N + 1 records (reset observation first), and streams follow each other:

    decision          a_0    a_1    a_2   (ignored)  a_0'
    record      o_0    o_1    o_2    o_3     o_0'     o_1'
    is_first     1                            1
    is_last                           1
    reward       0     r_1    r_2    r_3      0       r_1'

As with gymnasium's NEXT_STEP autoreset, the terminal observation o_3 is a record of its own. A reset that follows a record that
was not is_last cuts its episode off, which then counts as truncated.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import ActionError, EnvError
from dreamer_jax.core.extensions import import_extensions, imported_extensions
from dreamer_jax.core.spaces import ActionSpec, ObsSpecs
from dreamer_jax.envs.canonical import make_env
from dreamer_jax.envs.episodes import EpisodeState, Record, SeededEpisodes
from dreamer_jax.envs.spaces import EnvSpaces
from dreamer_jax.envs.workers import Workers, locate


@dataclass(frozen=True)
class Step:
    """One record of each of E environments.

    obs {name: [E, ...]} with the shapes and dtypes of `VectorEnv.obs_specs`; reward f32[E] received on arriving at
    obs (0 at a reset); is_first, is_last, is_terminal bool[E]: a time limit is last, only a true end is terminal;
    success f32[E], NaN where the environment does not report it.
    """

    obs: dict[str, np.ndarray]
    reward: np.ndarray
    is_first: np.ndarray
    is_last: np.ndarray
    is_terminal: np.ndarray
    success: np.ndarray

    def __getitem__(self, part: int | slice) -> "Step":
        """The records of some of the environments."""
        arrays = {name: value[part] for name, value in vars(self).items() if name != "obs"}
        return Step({name: value[part] for name, value in self.obs.items()}, **arrays)


def make_vector_env(config: EnvConfig, seeds: Sequence[int], render: bool = False) -> "VectorEnv":
    """Makes an environment for each seed (see `env_seeds`), in processes of their own if `config.processes`.

    With `render`, `VectorEnv.render` draws them, and all of them are in this process.

    Raises:
      EnvError: the environment cannot be made or used, or it cannot render.
    """
    # One in this process first: it says more simply what is wrong with the task, and finds out for all which OpenGL draws.
    modules = imported_extensions()
    first = _make(config, None, modules, seeds[0], render)
    if render and first.render_mode != "rgb_array":
        first.close()
        raise EnvError(
            f"{config.task} cannot render images; switch its video off: --eval.video false, or --no-video of `dreamer evaluate`"
        )
    if render or not config.processes:
        envs = _Here([first, *(_make(config, first.specs, modules, seed, render) for seed in seeds[1:])])
    else:
        first.close()
        make = partial(_make, config, first.specs, modules)
        envs = Workers(make, seeds, first.specs, config.task, config.timeout, config.restarts)
    return VectorEnv(envs, first.spaces, len(seeds), config.task)


def env_seeds(seed: int, num_envs: int) -> list[int]:
    """One seed an environment from (seed, index), so that neighbouring runs and environments share no stream.

    31 bits each, since many simulators hand the seed to C code.
    """
    return [int(np.random.SeedSequence([seed, index]).generate_state(1)[0]) >> 1 for index in range(num_envs)]


class VectorEnv:
    """E environments stepped together. `reset` comes first, then `step`. Every episode is seeded by itself.

    Attributes:
      spaces: what one environment shows and takes, in its own form and in the agent's.
      obs_specs: what each observation key holds, without the batch axis.
      action_spec: what `step` takes.
      num_envs: E.
    """

    def __init__(self, envs: "_Here | Workers", spaces: EnvSpaces, num_envs: int, name: str):
        self.spaces = spaces
        self.obs_specs, self.action_spec = spaces.specs
        self.num_envs = num_envs
        self._envs, self._name = envs, name

    def keep_bounds(self, specs: ObsSpecs) -> list[str]:
        """Has images divided by what a begun run divides them by; older versions of this project took 255 for all.

        Returns:
          the keys of those that this changes.
        """
        usual = {key: replace(spec, high=255) for key, spec in specs.items()}
        kept = {
            key: specs[key]
            for key, spec in self.obs_specs.items()
            if usual.get(key) == replace(spec, high=255) and spec != specs[key]
        }
        self.obs_specs |= kept
        return list(kept)

    def reset(self, episodes: Sequence[EpisodeState] | None = None) -> Step:
        """Starts an episode in every environment, or goes on with those of `episodes`.

        Returns:
          the record where each is; is_first also where a begun episode could not be repeated, so that its next one starts.
        """
        return self._stack(self._envs.reset(episodes or [None] * self.num_envs))

    def episodes(self) -> list[EpisodeState]:
        """What each environment is playing."""
        return self._envs.episodes()

    def step(self, action: np.ndarray) -> Step:
        """Takes one decision f32[E, A] everywhere; where the last record was is_last, it is ignored and a reset follows.

        Raises:
          ActionError: an action of the wrong shape or not finite.
          EnvError: an environment that breaks its promises.
        """
        expected = (self.num_envs, self.action_spec.size)
        if action.shape != expected:
            raise ActionError(f"{self._name}: the action has shape {list(action.shape)}; {list(expected)} was expected")
        if not np.isfinite(action).all():
            raise ActionError(f"{self._name}: the action holds NaN or infinity; the agent's parameters have probably diverged")
        return self._stack(self._envs.step(action))

    def render(self) -> list[np.ndarray]:
        """Draws each environment as it is now -> uint8[H, W, 3]. They have to be made with `render`."""
        assert isinstance(self._envs, _Here)
        return self._envs.render()

    @property
    def frame_rate(self) -> int:
        """How many decisions a second of real time has, for a video. The environments have to be made with `render`."""
        assert isinstance(self._envs, _Here)
        return self._envs.frame_rate

    def close(self) -> None:
        """Ends the environments and their processes. A second call does nothing."""
        self._envs.close()

    def _stack(self, records: Sequence[Record]) -> Step:
        def column(name: str, dtype: Any) -> np.ndarray:
            return np.array([getattr(record, name) for record in records], dtype)

        return Step(
            obs={
                name: np.stack([record.obs[name] for record in records], dtype=spec.dtype)
                for name, spec in self.obs_specs.items()
            },
            reward=column("reward", np.float32),
            is_first=column("is_first", bool),
            is_last=column("is_last", bool),
            is_terminal=column("is_terminal", bool),
            success=column("success", np.float32),
        )


class _Here:
    """The environments in this process, one after another; methods as those of `Workers`, and drawing."""

    def __init__(self, envs: Sequence[SeededEpisodes]) -> None:
        self._envs: Sequence[SeededEpisodes] = envs

    def reset(self, episodes: Sequence[EpisodeState | None]) -> list[Record]:
        return self._records("reset", episodes)

    def step(self, actions: np.ndarray) -> list[Record]:
        return self._records("step", actions)

    def episodes(self) -> list[EpisodeState]:
        return [env.episode() for env in self._envs]

    def render(self) -> list[np.ndarray]:
        return [env.render() for env in self._envs]

    @property
    def frame_rate(self) -> int:
        return self._envs[0].frame_rate

    def close(self) -> None:
        for env in self._envs:
            env.close()
        self._envs = ()

    def _records(self, method: str, arguments: Iterable[Any]) -> list[Record]:
        records = []
        for i, (env, argument) in enumerate(zip(self._envs, arguments, strict=True)):
            try:
                records.append(getattr(env, method)(argument))
            except EnvError as error:
                locate(error, i, len(self._envs))
                raise
        return records


def _make(
    config: EnvConfig, specs: tuple[ObsSpecs, ActionSpec] | None, modules: Sequence[str], seed: int, render: bool = False
) -> SeededEpisodes:
    """An environment; it has to show and take what `specs` says, if that is known.

    Imports `modules` before, which register what the configuration names: this may be a process of the environment's own.
    """
    import_extensions(modules)
    env = SeededEpisodes(make_env(config, render), seed)
    if specs and env.specs != specs:
        raise EnvError(
            f"{config.task} has other spaces each time that it is made: {env.specs}, before {specs}. Let them be the same"
        )
    return env
