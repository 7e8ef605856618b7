"""Sequence replay in NumPy: one ring of records for each environment, in memory or on disk, sampled in windows. Imports no JAX.

Every environment writes one record a step, so all rings move together and one counter describes them. A record holds the
observation, the action that led to it, the reward received with it, the three flags, and the latent that the policy computed
there; episodes follow one another.

    record      0        1     2    ...    T          a window with one context record
    used for   latent   training steps 1 to T         its flags and observation are not trained on
"""

import errno
import math
import os
import tempfile
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dreamer_jax.core.errors import ReplayError
from dreamer_jax.core.spaces import ActionSpec, LatentSpec, ObsSpecs, obs_bytes

FLAGS = ("is_first", "is_last", "is_terminal")


@dataclass(frozen=True)
class Sequences:
    """A sampled batch: obs {name: [B, T, ...]}, prev_action f32[B, T, A], reward f32[B, T], flags bool[B, T].

    start_deter [B, D] and start_stoch [B, S] are the stored latent before the first step; None without replay context.
    env i64[B] and first i64[B] say which records these are, for `Replay.write_latents`.
    """

    obs: dict[str, np.ndarray]
    prev_action: np.ndarray
    reward: np.ndarray
    is_first: np.ndarray
    is_last: np.ndarray
    is_terminal: np.ndarray
    start_deter: np.ndarray | None
    start_stoch: np.ndarray | None
    env: np.ndarray
    first: np.ndarray


def predict_bytes(obs_specs: ObsSpecs, action_spec: ActionSpec, latent: LatentSpec | None, capacity: int) -> int:
    """Bytes that a full replay of `capacity` records takes."""
    return capacity * (obs_bytes(obs_specs) + 4 * action_spec.size + 4 + len(FLAGS) + (latent.bytes if latent else 0))


class Replay:
    """Preallocated storage [num_envs, length, ...] with sampling of contiguous windows.

    Args:
      latent: the latent that records hold. Then a window has one more record in front, its context: training starts
        from the latent stored there. None: no latents, and a window starts from the zero state.
      capacity: records over all environments; each ring holds capacity // num_envs.
      num_envs: environments E that write in lockstep.
      sequence_length: trained records T in a sampled window.
      online: give every record to training soon after it arrives: batches take the newest windows, one after another
        without overlap, before uniform ones.
      seed: seed of the sampling.
      folder: where the storage lies in files that are mapped into memory and go with the process; None keeps it in memory.

    Raises:
      ReplayError: too few records for a window, or more than memory or disk can hold.
    """

    def __init__(
        self,
        obs_specs: ObsSpecs,
        action_spec: ActionSpec,
        latent: LatentSpec | None,
        capacity: int,
        num_envs: int,
        sequence_length: int,
        online: bool,
        seed: int,
        folder: Path | None = None,
    ) -> None:
        self.length = capacity // num_envs
        self.context = 1 if latent else 0
        self.window = sequence_length + self.context
        if self.length < self.window:
            raise ReplayError(
                f"replay of {capacity} steps over {num_envs} environments holds {self.length} steps each; a sequence needs "
                f"{self.window}. Raise replay.capacity, or lower replay.batch_length"
            )
        self.num_envs = num_envs
        self.sequence_length = sequence_length
        self.latent = latent
        self.online = online
        self.queue: deque[tuple[int, int]] = deque()  # (environment, first record) of windows not yet trained on
        self.added = 0  # records added to each ring since the beginning
        self.rng = np.random.default_rng(seed)
        self._obs_keys = tuple(sorted(obs_specs))
        try:
            self.storage = self._allocate(obs_specs, action_spec, folder)
        except (MemoryError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM):
                raise
            size = predict_bytes(obs_specs, action_spec, latent, capacity) / 2**30
            place = (
                f"in {folder}" if folder else "in memory; lower replay.capacity, or keep it on disk with replay.storage=disk"
            )
            raise ReplayError(f"replay of {capacity} steps takes {size:.1f} GiB: too much {place}") from None

    def _allocate(self, obs_specs: ObsSpecs, action_spec: ActionSpec, folder: Path | None) -> dict[str, np.ndarray]:
        """Arrays [num_envs, length, ...] by name. Memory is taken only as records arrive, space on disk at once."""
        shape, latent = (self.num_envs, self.length), self.latent
        arrays: dict[str, tuple[tuple[int, ...], np.dtype | type]] = {
            f"obs/{name}": (spec.shape, spec.dtype) for name, spec in sorted(obs_specs.items())
        }
        arrays |= {"prev_action": ((action_spec.size,), np.float32), "reward": ((), np.float32)}
        arrays |= dict.fromkeys(FLAGS, ((), bool))
        if latent:
            arrays["latent/deter"] = (latent.deter,), latent.deter_dtype
            arrays["latent/stoch"] = (latent.stoch,), latent.stoch_dtype
        make = partial(_on_disk, folder) if folder else np.empty
        return {name: make((*shape, *own), dtype) for name, (own, dtype) in arrays.items()}

    def __len__(self) -> int:
        """Records held over all environments."""
        return self.num_envs * min(self.added, self.length)

    @property
    def items(self) -> int:
        """Start positions from which a whole window exists, over all environments."""
        return self.num_envs * max(0, min(self.added, self.length) - self.window + 1)

    def add(
        self,
        obs: dict[str, np.ndarray],
        prev_action: np.ndarray,
        reward: np.ndarray,
        is_first: np.ndarray,
        is_last: np.ndarray,
        is_terminal: np.ndarray,
        deter: np.ndarray | None = None,
        stoch: np.ndarray | None = None,
    ) -> None:
        """Writes one record of every environment.

        obs {name: [E, ...]}, prev_action [E, A], reward and flags [E]; with latents deter [E, D] and stoch [E, S].
        """
        at = self.added % self.length
        for name in self._obs_keys:
            self.storage[f"obs/{name}"][:, at] = obs[name]
        self.storage["prev_action"][:, at] = prev_action
        self.storage["reward"][:, at] = reward
        self.storage["is_first"][:, at] = is_first
        self.storage["is_last"][:, at] = is_last
        self.storage["is_terminal"][:, at] = is_terminal
        if self.latent:
            assert deter is not None
            assert stoch is not None
            deter, stoch = self.latent.as_stored(deter, stoch)
            self.storage["latent/deter"][:, at] = deter
            self.storage["latent/stoch"][:, at] = stoch
        self.added += 1
        if self.online and self.added % self.window == 0:
            self.queue.extend((env, self.added - self.window) for env in range(self.num_envs))
            while self.queue[0][1] < self.added - self.length:  # overwritten before training came to them
                self.queue.popleft()

    def sample(self, batch_size: int) -> Sequences:
        """Draws windows: those of the online queue first, the rest uniformly from all start positions.

        A window never spans the write head. Without replay context its first step is marked is_first: it starts from the
        zero state.

        Raises:
          ReplayError: fewer records than one window.
        """
        if self.items == 0:
            raise ReplayError(
                f"replay holds {min(self.added, self.length)} steps of each environment; batch_length={self.sequence_length} "
                f"needs {self.window}. Collect more first, or lower replay.batch_length"
            )
        env, first = self._choose(batch_size)
        steps = (first[:, None] + np.arange(self.window)) % self.length  # [B, window]
        places = env[:, None] * self.length + steps  # in the rings laid end to end, where one index is faster than two
        flat = {name: values.reshape((-1, *values.shape[2:])) for name, values in self.storage.items()}
        window = {
            name: values.take(places[:, self.context :], 0) for name, values in flat.items() if not name.startswith("latent/")
        }
        start_deter = start_stoch = None
        if self.latent:
            start_deter = flat["latent/deter"].take(places[:, 0], 0)
            start_stoch = flat["latent/stoch"].take(places[:, 0], 0)
        else:
            window["is_first"][:, 0] = True
        # A record followed by a reset closes its episode, also one that was abandoned.
        window["is_last"][:, :-1] |= window["is_first"][:, 1:]
        return Sequences(
            obs={name: window[f"obs/{name}"] for name in self._obs_keys},
            prev_action=window["prev_action"],
            reward=window["reward"],
            is_first=window["is_first"],
            is_last=window["is_last"],
            is_terminal=window["is_terminal"],
            start_deter=start_deter,
            start_stoch=start_stoch,
            env=env,
            first=first + self.context,
        )

    def _choose(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Environment [B] and first record [B], counted from the beginning of the run, of each window."""
        oldest = max(0, self.added - self.length)
        fresh: list[tuple[int, int]] = []
        while self.queue and len(fresh) < batch_size:
            item = self.queue.popleft()
            if item[1] >= oldest:  # the ring has moved on since the last one arrived
                fresh.append(item)
        rest = batch_size - len(fresh)
        env = self.rng.integers(self.num_envs, size=rest)
        first = oldest + self.rng.integers(self.items // self.num_envs, size=rest)
        queued = np.array(fresh, np.int64).reshape(-1, 2)
        return np.concatenate([queued[:, 0], env]), np.concatenate([queued[:, 1], first])

    def write_latents(self, env: np.ndarray, first: np.ndarray, deter: np.ndarray, stoch: np.ndarray) -> None:
        """Puts newer latents into the records that a batch came from; those overwritten meanwhile are left alone.

        env, first [B] as `sample` gave them; deter [B, T, D]; stoch [B, T, S].
        """
        assert self.latent
        records = first[:, None] + np.arange(deter.shape[1])  # [B, T]
        held = records >= self.added - self.length
        envs = np.broadcast_to(env[:, None], records.shape)[held]
        steps = records[held] % self.length
        deter, stoch = self.latent.as_stored(deter, stoch)
        self.storage["latent/deter"][envs, steps] = deter[held]
        self.storage["latent/stoch"][envs, steps] = stoch[held]

    def episodes(self) -> np.ndarray:
        """Where the held part of each episode lies: i64[K, 3] of (environment, first record, record after the last).

        Records are counted from the beginning of the run. The oldest episode of an environment may have lost its beginning, and
        the newest may still go on.
        """
        oldest = max(0, self.added - self.length)
        order = np.arange(oldest, self.added) % self.length
        rows = []
        for env in range(self.num_envs):
            begins = oldest + np.flatnonzero(self.storage["is_first"][env, order])
            edges = np.unique(np.concatenate([[oldest], begins, [self.added]]))
            rows.append(np.stack([np.full(len(edges) - 1, env), edges[:-1], edges[1:]], -1))
        return np.concatenate(rows)

    def read(self, begin: int, end: int, env: int | None = None) -> dict[str, np.ndarray]:
        """Copies records `begin` to `end`, counted from the beginning of the run -> {name: [E, end - begin, ...]}.

        With `env` those of one environment alone, without the axis E.
        """
        steps = np.arange(begin, end) % self.length
        return {name: values[slice(None) if env is None else env, steps] for name, values in self.storage.items()}

    def latents(self) -> dict[str, np.ndarray]:
        """The latents of all records held, in the order of the rings: views [E, n, ...] by name; empty where none are held.

        They are rewritten as training goes on, which what `read` returned does not show.
        """
        held = min(self.added, self.length)
        return {name: values[:, :held] for name, values in self.storage.items() if name.startswith("latent/")}

    def write(self, begin: int, records: dict[str, np.ndarray]) -> None:
        """Puts back what `read` returned, and moves the counter to the end of it.

        Raises:
          ReplayError: records of other keys, shapes or dtypes than this replay's.
        """
        count = next((values.shape[1] for values in records.values() if values.ndim > 1), 0)
        for name, values in self.storage.items():
            came = records.get(name)
            if came is None or came.shape != (self.num_envs, count, *values.shape[2:]) or came.dtype != values.dtype:
                found = "nothing" if came is None else f"{came.dtype}{list(came.shape)}"
                raise ReplayError(f"saved replay: {name!r} holds {found}; expected {values.dtype}[{self.num_envs}, n, ...]")
        steps = np.arange(begin, begin + count) % self.length
        for name, values in self.storage.items():
            values[:, steps] = records[name]
        self.added = begin + count


def _on_disk(folder: Path, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """An array in a file of `folder` that has no name, so that nothing is left of it however the process ends.

    Raises:
      OSError: there is no space for all of it. Found out later, that would end the process without a word.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
