"""Replay context: stored latents, their write-back, and the online queue."""

import numpy as np
import pytest

from dreamer_jax.core.spaces import ActionSpec, LatentSpec, ObsSpec
from dreamer_jax.replay.buffer import Replay

OBS = {"counter": ObsSpec("vector", ())}
LATENT = LatentSpec(deter=2, stoch=3, classes=7, bfloat16=False)
ACTION = ActionSpec(discrete=False, size=1)


def _replay(length=12, num_envs=2, sequence_length=4, online=False, latent: LatentSpec | None = LATENT):
    return Replay(OBS, ACTION, latent, length * num_envs, num_envs, sequence_length, online, seed=0)


def _latent(env, counter):
    """The latent that a record (environment, number) is given: deter [.., 2] and stoch [.., 3]."""
    env, counter = np.broadcast_arrays(env, counter)
    deter = np.stack([env + 0.5, counter + 0.25], -1).astype(np.float32)
    return deter, np.stack([env, counter % 7, (env + counter) % 7], -1)


def _fill(replay, count, first_every=1000):
    for _ in range(count):
        counter, envs = replay.added, np.arange(replay.num_envs)
        none = np.zeros(replay.num_envs, bool)
        first = np.full(replay.num_envs, counter % first_every == 0)
        deter, stoch = _latent(envs, counter)
        obs = {"counter": np.full(replay.num_envs, counter)}
        replay.add(obs, np.zeros((replay.num_envs, 1)), np.zeros(replay.num_envs), first, none, none, deter, stoch)


@pytest.mark.parametrize("count", [7, 12, 20, 31])
def test_a_window_starts_from_the_latent_of_the_record_before_it(count):
    """Also across the end of the ring; the context record itself is not among the trained ones."""
    replay = _replay()
    _fill(replay, count)
    batch = replay.sample(200)
    assert batch.obs["counter"].shape == (200, 4)
    deter, stoch = _latent(batch.env, batch.obs["counter"][:, 0] - 1)
    np.testing.assert_array_equal(batch.start_deter, deter)
    np.testing.assert_array_equal(batch.start_stoch, stoch)
    np.testing.assert_array_equal(batch.first, batch.obs["counter"][:, 0])
    oldest = max(0, count - 12)
    assert set(batch.first) == set(range(oldest + 1, count - 4 + 1)), "every start with a context record, and no other"


def test_is_first_is_forced_only_without_context():
    """With a stored latent the sequence continues; without one it starts anew."""
    with_context, without = _replay(), _replay(latent=None)
    for replay in (with_context, without):
        _fill(replay, 12)
    batch = with_context.sample(100)
    np.testing.assert_array_equal(batch.is_first, batch.obs["counter"] == 0)
    assert without.sample(100).is_first[:, 0].all()
    assert without.sample(1).start_deter is None


def test_latents_are_written_back_to_the_records_they_came_from():
    """Newer latents replace the stored ones of exactly the trained records; overwritten records are left alone."""
    replay = _replay()
    _fill(replay, 12)
    batch = replay.sample(1)
    env, first = int(batch.env[0]), int(batch.first[0])
    before = {name: values.copy() for name, values in replay.storage.items()}
    deter, stoch = np.full((1, 4, 2), -1, np.float32), np.full((1, 4, 3), 6)
    replay.write_latents(batch.env, batch.first, deter, stoch)
    for name, values in replay.storage.items():
        expected = before[name]
        if name.startswith("latent/"):
            expected[env, first : first + 4] = deter[0] if name == "latent/deter" else stoch[0]
        np.testing.assert_array_equal(values, expected)

    # Record 12 + k overwrites record k: of records 1 to 4, only 4 is still held after 16 have been added.
    replay = _replay(num_envs=1)
    _fill(replay, 16)
    replay.write_latents(np.array([0]), np.array([1]), deter, stoch)
    changed = (replay.storage["latent/deter"][0] == -1).all(-1)
    np.testing.assert_array_equal(np.flatnonzero(changed), [4])


def test_online_windows_come_first_and_do_not_overlap():
    """Each environment's records 0 to 4, then 5 to 9, ... are given once, in order of arrival; the rest is uniform."""
    replay = _replay(length=40, online=True)
    _fill(replay, 13)  # two whole windows of 1 + 4 records in each environment
    batch = replay.sample(3)
    np.testing.assert_array_equal(np.stack([batch.env, batch.first], -1), [[0, 1], [1, 1], [0, 6]])
    batch = replay.sample(3)
    assert (batch.env[0], batch.first[0]) == (1, 6)
    assert not replay.queue
    firsts = np.concatenate([replay.sample(50).first for _ in range(4)])
    assert set(firsts) == set(range(1, 10)), "every start position once the queue is empty"


def test_overwritten_online_windows_are_dropped():
    """A queued window whose records are gone is not sampled."""
    replay = _replay(online=True, num_envs=1)
    _fill(replay, 14)  # the ring holds records 2 to 13; the queue has windows 0 and 5
    batch = replay.sample(1)
    assert batch.first[0] == 6


def test_bfloat16_latents_are_stored_as_their_bits():
    """What is read back equals what was computed, bit for bit."""
    import ml_dtypes

    latent = LatentSpec(deter=2, stoch=1, classes=300, bfloat16=True)
    replay = Replay(OBS, ACTION, latent, 10, 1, 2, False, seed=0)
    values = np.array([[1.5, -3.0e-5]], ml_dtypes.bfloat16)
    none = np.zeros(1, bool)
    for _ in range(3):
        replay.add({"counter": np.zeros(1)}, np.zeros((1, 1)), np.zeros(1), none, none, none, values, np.array([[299]]))
    batch = replay.sample(1)
    assert batch.start_deter is not None
    np.testing.assert_array_equal(batch.start_deter.view(ml_dtypes.bfloat16), values)
    np.testing.assert_array_equal(batch.start_stoch, [[299]])
    assert replay.storage["latent/stoch"].dtype == np.uint16
