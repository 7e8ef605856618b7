"""The environments of all seeds as one, with the axes [N seeds, E environments, ...]."""

from collections.abc import Sequence

import numpy as np

from dreamer_jax.envs import EpisodeState, Step, VectorEnv


class SeedEnvs:
    """Groups the environments of a `VectorEnv`, one seed's after another's.

    Attributes:
      obs_specs, action_spec: what each environment shows and takes.
    """

    def __init__(self, envs: VectorEnv, seeds: int) -> None:
        self._envs, self._shape = envs, (seeds, envs.num_envs // seeds)
        self.obs_specs, self.action_spec = envs.obs_specs, envs.action_spec

    def reset(self, episodes: Sequence[EpisodeState] | None = None) -> Step:
        """Begins new episodes, or goes on with those given, one for each environment -> Step [N, E, ...]."""
        return self._grouped(self._envs.reset(episodes))

    def step(self, action: np.ndarray) -> Step:
        """Takes actions f32[N, E, A] -> Step [N, E, ...]. Raises ActionError and EnvError as `VectorEnv.step`."""
        return self._grouped(self._envs.step(action.reshape((-1, action.shape[-1]))))

    def episodes(self, seed: int) -> list[EpisodeState]:
        """What the environments of the seed at this index are playing."""
        count = self._shape[1]
        return self._envs.episodes()[seed * count : (seed + 1) * count]

    def _grouped(self, step: Step) -> Step:
        def group(x: np.ndarray) -> np.ndarray:
            return x.reshape((*self._shape, *x.shape[1:]))

        arrays = {name: group(value) for name, value in vars(step).items() if name != "obs"}
        return Step({name: group(value) for name, value in step.obs.items()}, **arrays)
