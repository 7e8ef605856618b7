"""Sequence replay in NumPy: one ring of records for each environment, sampled in windows. Imports no JAX.

Every environment writes one record a step, so all rings move together and one counter describes them. A record holds the
observation, the action that led to it, the reward received with it and the three flags; episodes follow one another.
"""

from dataclasses import dataclass

import numpy as np

from dreamer_jax.spaces import ActionSpec, ObsSpecs, obs_bytes

FLAGS = ("is_first", "is_last", "is_terminal")


class ReplayError(ValueError):
    """The replay cannot do what was asked. The message is one line for the user."""


@dataclass(frozen=True)
class Sequences:
    """A sampled batch: obs {name: [B, T, ...]}, prev_action f32[B, T, A], reward f32[B, T], flags bool[B, T]."""

    obs: dict[str, np.ndarray]
    prev_action: np.ndarray
    reward: np.ndarray
    is_first: np.ndarray
    is_last: np.ndarray
    is_terminal: np.ndarray


def predict_bytes(obs_specs: ObsSpecs, action_spec: ActionSpec, capacity: int) -> int:
    """Bytes that a full replay of `capacity` records takes."""
    return capacity * (obs_bytes(obs_specs) + 4 * action_spec.size + 4 + len(FLAGS))


class Replay:
    """Preallocated storage [num_envs, length, ...] with uniform sampling of contiguous windows.

    Args:
      capacity: records over all environments; each ring holds capacity // num_envs.
      num_envs: environments E that write in lockstep.
      sequence_length: records T in a sampled window.
      seed: seed of the sampling.
    """

    def __init__(
        self, obs_specs: ObsSpecs, action_spec: ActionSpec, capacity: int, num_envs: int, sequence_length: int, seed: int
    ) -> None:
        self.length = capacity // num_envs
        if self.length < sequence_length:
            raise ReplayError(
                f"replay of {capacity} steps over {num_envs} environments holds {self.length} steps each; a sequence needs "
                f"{sequence_length}. Raise replay.capacity, or lower replay.batch_length"
            )
        self.num_envs = num_envs
        self.sequence_length = sequence_length
        self.added = 0  # records added to each ring since the beginning
        self.rng = np.random.default_rng(seed)
        # np.empty: pages are taken from the system only when records arrive.
        shape = (num_envs, self.length)
        self._obs_keys = tuple(sorted(obs_specs))
        self.storage: dict[str, np.ndarray] = {
            f"obs/{name}": np.empty((*shape, *spec.shape), spec.dtype) for name, spec in sorted(obs_specs.items())
        }
        self.storage["prev_action"] = np.empty((*shape, action_spec.size), np.float32)
        self.storage["reward"] = np.empty(shape, np.float32)
        for flag in FLAGS:
            self.storage[flag] = np.empty(shape, bool)

    def __len__(self) -> int:
        """Records held over all environments."""
        return self.num_envs * min(self.added, self.length)

    @property
    def items(self) -> int:
        """Start positions from which a whole window exists, over all environments."""
        return self.num_envs * max(0, min(self.added, self.length) - self.sequence_length + 1)

    def add(
        self,
        obs: dict[str, np.ndarray],
        prev_action: np.ndarray,
        reward: np.ndarray,
        is_first: np.ndarray,
        is_last: np.ndarray,
        is_terminal: np.ndarray,
    ) -> None:
        """Writes one record of every environment: obs {name: [E, ...]}, prev_action [E, A], the others [E]."""
        at = self.added % self.length
        for name in self._obs_keys:
            self.storage[f"obs/{name}"][:, at] = obs[name]
        self.storage["prev_action"][:, at] = prev_action
        self.storage["reward"][:, at] = reward
        self.storage["is_first"][:, at] = is_first
        self.storage["is_last"][:, at] = is_last
        self.storage["is_terminal"][:, at] = is_terminal
        self.added += 1

    def sample(self, batch_size: int) -> Sequences:
        """Draws windows uniformly from all start positions, with replacement.

        A window never spans the write head. Its first step is marked is_first: it starts from the zero state.

        Raises:
          ReplayError: fewer records than one window.
        """
        if self.items == 0:
            raise ReplayError(
                f"replay holds {min(self.added, self.length)} steps of each environment; batch_length="
                f"{self.sequence_length} needs {self.sequence_length}. Collect more first, or lower replay.batch_length"
            )
        env = self.rng.integers(self.num_envs, size=batch_size)
        start = self.rng.integers(self.items // self.num_envs, size=batch_size)
        # Positions count from the oldest record held; the modulus maps them into the ring.
        oldest = max(0, self.added - self.length)
        steps = (oldest + start[:, None] + np.arange(self.sequence_length)) % self.length  # [B, T]
        window = {name: values[env[:, None], steps] for name, values in self.storage.items()}
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
        )

    def read(self, begin: int, end: int) -> dict[str, np.ndarray]:
        """Copies records `begin` to `end` (counted from the beginning of the run) -> {name: [E, end - begin, ...]}."""
        steps = np.arange(begin, end) % self.length
        return {name: values[:, steps] for name, values in self.storage.items()}

    def write(self, begin: int, records: dict[str, np.ndarray]) -> None:
        """Puts back what `read` returned, and moves the counter to the end of it.

        Raises:
          ReplayError: records of other keys, shapes or dtypes than this replay's.
        """
        for name, values in self.storage.items():
            expected = (self.num_envs, *values.shape[2:])
            came = records.get(name)
            if came is None or (came.shape[0], *came.shape[2:]) != expected or came.dtype != values.dtype:
                found = "nothing" if came is None else f"{came.dtype}{list(came.shape)}"
                raise ReplayError(f"saved replay: {name!r} holds {found}; expected {values.dtype}[{self.num_envs}, n, ...]")
        count = records["reward"].shape[1]
        steps = np.arange(begin, begin + count) % self.length
        for name, values in self.storage.items():
            values[:, steps] = records[name]
        self.added = begin + count


class TrainRatio:
    """How many updates follow a number of collected records.

    `ratio` is replayed steps per record; one update replays batch_size * batch_length of them. The first call grants one
    update and starts the count there, so that a warm-up is not caught up on.
    """

    def __init__(self, ratio: float, batch_size: int, batch_length: int) -> None:
        self.updates_per_record = ratio / (batch_size * batch_length)
        self.previous: float | None = None

    def __call__(self, records: int) -> int:
        """Updates due now that `records` have been collected over all environments."""
        if self.previous is None:
            self.previous = float(records)
            return 1
        due = int((records - self.previous) * self.updates_per_record)
        self.previous += due / self.updates_per_record
        return due
