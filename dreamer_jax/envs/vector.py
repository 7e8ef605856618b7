"""Many environments stepped together, as the stream of records that the replay stores.

For an episode of N decisions there are N + 1 records (reset observation first), and streams follow each other:

    decision          a_0    a_1    a_2   (ignored)  a_0'
    record      o_0    o_1    o_2    o_3     o_0'     o_1'
    is_first     1                            1
    is_last                           1
    reward       0     r_1    r_2    r_3      0       r_1'

This is gymnasium's NEXT_STEP autoreset: the terminal observation o_3 is a record of its own.
"""

import multiprocessing
import os
import signal
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.async_vector_env import AsyncState

from dreamer_jax.config import EnvConfig
from dreamer_jax.envs.canonical import make_env
from dreamer_jax.envs.episodes import EpisodeState, SeededEpisodes
from dreamer_jax.envs.errors import ActionError, EnvError
from dreamer_jax.spaces import ActionSpec, ObsSpecs

_CLOSE_SECONDS = 10.0  # what a process gets to finish its step before it is terminated


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

    def __getitem__(self, part: slice) -> "Step":
        """The records of some of the environments."""
        arrays = {name: value[part] for name, value in vars(self).items() if name != "obs"}
        return Step({name: value[part] for name, value in self.obs.items()}, **arrays)


def make_vector_env(config: EnvConfig, seeds: Sequence[int]) -> "VectorEnv":
    """Makes an environment for each seed (see `env_seeds`), in processes of their own if `config.processes`.

    Raises:
      EnvError: the environment cannot be made or used.
    """
    if not config.processes:
        makers = [partial(_make, config, seed) for seed in seeds]
        return VectorEnv(SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP), config.task)
    makers = [partial(_make_in_worker, config, seed, os.getpid()) for seed in seeds]
    # Never plain fork: it copies the locks of JAX's threads in whatever state they are, and workers can hang.
    context = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    try:
        vector = _Workers(makers, shared_memory=True, copy=False, context=context, autoreset_mode=AutoresetMode.NEXT_STEP)
    except (EOFError, OSError) as error:
        raise _dead_process(config.task, error) from None
    return VectorEnv(vector, config.task)


def env_seeds(seed: int, num_envs: int) -> list[int]:
    """One seed an environment from (seed, index), so that neighbouring runs and environments share no stream.

    31 bits each, since many simulators hand the seed to C code.
    """
    return [int(np.random.SeedSequence([seed, index]).generate_state(1)[0]) >> 1 for index in range(num_envs)]


class VectorEnv:
    """E environments stepped together. `reset` comes first, then `step`. Every episode is seeded by itself.

    Attributes:
      obs_specs: what each observation key holds, without the batch axis.
      action_spec: what `step` takes.
      num_envs: E.
    """

    def __init__(self, vector: SyncVectorEnv | AsyncVectorEnv, name: str):
        self.num_envs = vector.num_envs
        self._vector = vector
        self._name = name
        self._was_last = np.zeros(vector.num_envs, bool)
        self.obs_specs: ObsSpecs = vector.get_attr("obs_specs")[0]
        self.action_spec: ActionSpec = vector.get_attr("action_spec")[0]

    def reset(self, episodes: Sequence[EpisodeState | None] | None = None) -> Step:
        """Starts an episode in every environment, or goes on with those of `episodes`.

        Returns:
          the record where each is; is_first also where a begun episode could not be repeated, so that its next one starts.
        """
        try:
            if episodes:
                self._vector.set_attr("continued", list(episodes))
            obs, infos = self._vector.reset()
        except (EOFError, OSError) as error:
            raise _dead_process(self._name, error) from None
        nothing = np.zeros(self.num_envs)
        continued = infos.get("continued", nothing).astype(bool)
        reward, terminated, truncated = (infos.get(name, nothing) for name in ("reward", "terminated", "truncated"))
        begun = np.array([state is not None and len(state.actions) > 0 for state in episodes or [None] * self.num_envs])
        self._was_last = (terminated + truncated).astype(bool)
        return self._record(obs, reward, ~(continued & begun), self._was_last, terminated.astype(bool), infos)

    def episodes(self) -> list[EpisodeState]:
        """What each environment is playing."""
        try:
            return list(self._vector.get_attr("episode"))
        except (EOFError, OSError) as error:
            raise _dead_process(self._name, error) from None

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
        try:
            obs, reward, terminated, truncated, infos = self._vector.step(action)
        except (EOFError, OSError) as error:
            raise _dead_process(self._name, error) from None
        is_first, self._was_last = self._was_last, terminated | truncated
        return self._record(obs, reward, is_first, self._was_last, terminated, infos)

    def close(self) -> None:
        """Ends the environments and their processes. A second call does nothing."""
        if isinstance(self._vector, SyncVectorEnv):
            self._vector.close()
            return
        try:
            self._vector.close(timeout=_CLOSE_SECONDS)
        except (EOFError, OSError, EnvError):  # one of the processes is gone or failing; end them all
            for process in self._vector.processes:
                process.terminate()
                process.join()
            self._vector.closed = True

    def _record(self, obs, reward, is_first, is_last, is_terminal, infos) -> Step:
        # Every array is copied: gymnasium reuses its buffers, and the flags are kept here for the next step.
        success = np.full(self.num_envs, np.nan, np.float32)
        if "success" in infos:
            reported = infos["_success"]
            success[reported] = infos["success"][reported]
        return Step(
            obs={name: obs[name].astype(spec.dtype) for name, spec in self.obs_specs.items()},
            reward=reward.astype(np.float32),
            is_first=is_first.copy(),
            is_last=is_last.copy(),
            is_terminal=is_terminal.copy(),
            success=success,
        )


class _Workers(AsyncVectorEnv):
    """AsyncVectorEnv that raises a worker's own error and nothing else, and can end workers that leave SIGTERM to it.

    gymnasium prints the worker's trace as well, through %-formatting: a "%" in the trace raises a second error.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for process in self.processes:
            process.terminate = process.kill  # which is what gymnasium calls
        weakref.finalize(self, _kill, self.processes)  # at exit Python would wait for them

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        errors = [self.error_queue.get() for success in successes if not success]
        for index, *_ in errors:
            self.parent_pipes[index].close()
            self.parent_pipes[index] = None  # type: ignore[call-overload]  # how gymnasium's close() knows
        if errors:
            self._state = AsyncState.DEFAULT
            _, _, error, trace = errors[0]
            error.add_note(trace)
            raise error


def _make(config: EnvConfig, seed: int) -> gymnasium.Env:
    return SeededEpisodes(make_env(config), seed)


def _make_in_worker(config: EnvConfig, seed: int, main_process: int) -> gymnasium.Env:
    """`_make` in a process that leaves signals to stop to the main one, which can then do so in good order."""
    if os.getpid() != main_process:  # gymnasium makes one in the main process too, to read its spaces
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _leave)
    return _make(config, seed)


def _leave(number: int, frame: Any) -> None:
    """Does nothing; unlike SIG_IGN it is not inherited by the programs that an environment starts."""


def _kill(processes: Sequence[Any]) -> None:
    for process in processes:
        process.kill()


def _dead_process(name: str, error: BaseException) -> EnvError:
    return EnvError(
        f"{name}: an environment process ended unexpectedly ({type(error).__name__}); its own message stands above, if it left "
        "one. Try --env.processes false to see the error here; a killed process often means too little memory"
    )
