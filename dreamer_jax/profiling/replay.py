"""The speed of the replay, and replays of random records to measure with."""

import time

import numpy as np

from dreamer_jax.agent.networks import Networks
from dreamer_jax.core.config import Config
from dreamer_jax.core.memory import available_memory
from dreamer_jax.core.spaces import ObsSpec
from dreamer_jax.profiling.timing import timed_in_turn
from dreamer_jax.replay.buffer import Replay, Sequences, predict_bytes
from dreamer_jax.training.build import stored_latent

SIZES = (10_000, 100_000, 1_000_000)  # records held
LEAST_CALLS = 300  # the first hundred after filling gigabytes are slower


def make_replay(nets: Networks, config: Config, capacity: int, num_envs: int) -> Replay:
    """An empty replay of `capacity` records in memory, as training has it but for its size and its sampling: uniform."""
    latent, length = stored_latent(nets, config), config.replay.batch_length
    return Replay(nets.obs_specs, nets.action_spec, latent, capacity, num_envs, length, online=False, seed=config.seed)


def fill(replay: Replay, nets: Networks, steps: int) -> None:
    """Adds `steps` equal records of random observations to every ring."""
    rng, envs = np.random.default_rng(0), replay.num_envs
    none = np.zeros(envs, bool)
    obs = random_obs(rng, nets, envs)
    action = rng.uniform(-1, 1, (envs, nets.action_spec.size)).astype(np.float32)
    latent, stored = replay.latent, {}
    if latent:
        stored = {
            "deter": np.zeros((envs, latent.deter), latent.deter_dtype),
            "stoch": np.zeros((envs, latent.stoch), latent.stoch_dtype),
        }
    for _ in range(steps):
        replay.add(obs, action, np.zeros(envs), none, none, none, **stored)


def least_records(config: Config) -> int:
    """Records that batches can be drawn from, and as many as a batch has copied."""
    replay, envs = config.replay, config.env.num_envs
    return max(envs * 4 * (replay.batch_length + 2), 2 * replay.batch_size * replay.batch_length + envs)


def measure_replay(nets: Networks, config: Config, calls: int) -> list[dict[str, float]]:
    """Fills a replay with random records, and measures it at each of `SIZES` that capacity and free memory allow.

    Returns:
      for each size the rates of adding and sampling. Beside sampling stands a plain copy of as many records that lie
      together, at random places of the replay: what the machine's memory allows.
    """
    capacity, least = config.replay.capacity, least_records(config)
    record = predict_bytes(nets.obs_specs, nets.action_spec, stored_latent(nets, config), 1)
    sizes = [size for size in SIZES if least <= size <= capacity and size * record <= available_memory() * 3 // 4] or [least]
    replay = make_replay(nets, config, sizes[-1], config.env.num_envs)
    return [_measure_size(replay, nets, config, size, max(calls, LEAST_CALLS)) for size in sizes]


def _measure_size(replay: Replay, nets: Networks, config: Config, size: int, calls: int) -> dict[str, float]:
    """Fills the replay up to `size` records, and measures adding and sampling."""
    batch_size, envs, rng = config.replay.batch_size, replay.num_envs, np.random.default_rng(0)
    steps = size // envs - replay.added
    start = time.perf_counter()
    fill(replay, nets, steps)
    seconds = time.perf_counter() - start
    total = sum(array.nbytes for array in _arrays(replay.sample(batch_size)))
    places = [values for name, values in replay.storage.items() if not name.startswith("latent/")]
    together = batch_size * config.replay.batch_length // envs  # steps of all environments with as many records

    def copy() -> list[np.ndarray]:
        first = rng.integers(replay.added - together)
        return [values[:, first : first + together].copy() for values in places]

    sampled, copied = timed_in_turn((lambda: replay.sample(batch_size), copy), calls)
    return {
        "records": size,
        "add_records_per_second": steps * envs / seconds,
        "sample_sequences_per_second": batch_size / sampled["median"],
        "sample_bytes_per_second": total / sampled["median"],
        "sample_time_over_copy_time": sampled["median"] / copied["median"],
        "batch_bytes": total,
    }


def random_obs(rng: np.random.Generator, nets: Networks, count: int) -> dict[str, np.ndarray]:
    """Random observations {name: [count, ...]} of the kinds that the networks see."""
    return {name: _random(rng, spec, count) for name, spec in nets.obs_specs.items()}


def _random(rng: np.random.Generator, spec: ObsSpec, count: int) -> np.ndarray:
    if spec.kind == "vector":
        return rng.normal(size=(count, *spec.shape)).astype(np.float32)
    return rng.integers(spec.classes or 256, size=(count, *spec.shape)).astype(spec.dtype)


def _arrays(sequences: Sequences) -> list[np.ndarray]:
    """What a batch hands to the device."""
    values = [*sequences.obs.values(), *(value for name, value in vars(sequences).items() if name != "obs")]
    return [value for value in values if value is not None]
