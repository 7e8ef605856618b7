"""What a sampled window may hold, over every fill of the ring, and how many updates a record grants."""

import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest

from dreamer_jax.core.errors import ReplayError
from dreamer_jax.core.spaces import ActionSpec, LatentSpec, ObsSpec
from dreamer_jax.replay.buffer import FLAGS, Replay, predict_bytes
from dreamer_jax.replay.train_ratio import TrainRatio

OBS = {"env": ObsSpec("discrete", (), 100), "counter": ObsSpec("vector", (1,))}
ACTION = ActionSpec(discrete=False, size=2)
quick = hypothesis.settings(max_examples=40, deadline=None)


def _replay(length: int = 10, num_envs: int = 2, sequence_length: int = 4, seed: int = 0) -> Replay:
    return Replay(OBS, ACTION, None, length * num_envs, num_envs, sequence_length, False, seed)


def _flags(env: int, counter: int) -> tuple[bool, bool, bool]:
    """Episodes of lengths that differ between environments; every third end is a termination, one in four is abandoned."""
    period = 3 + env
    episode, step = divmod(counter, period)
    last = step == period - 1 and episode % 4 != 0
    return step == 0, last, last and episode % 3 == 0


def _fill(replay: Replay, count: int) -> None:
    """Adds records that name their environment and their number since the beginning."""
    envs = range(replay.num_envs)
    for _ in range(count):
        counter = replay.added
        first, last, terminal = np.array([_flags(env, counter) for env in envs]).T
        obs = {"env": np.array(envs), "counter": np.full((replay.num_envs, 1), counter)}
        action = np.array([[env, counter] for env in envs])
        replay.add(obs, action, np.array([counter + env / 10 for env in envs]), first, last, terminal)


def _check_windows(replay: Replay, batch) -> set[tuple[int, int]]:
    """Asserts all facts about sampled windows and returns their (environment, first record)."""
    oldest = max(0, replay.added - replay.length)
    starts = set()
    for row in range(len(batch.reward)):
        env, counter = batch.obs["env"][row], batch.obs["counter"][row, :, 0]
        assert set(env) == {env[0]}, "one environment"
        np.testing.assert_array_equal(np.diff(counter), 1, "contiguous")
        assert oldest <= counter[0], "not overwritten"
        assert counter[-1] < replay.added, "written"
        np.testing.assert_array_equal(batch.prev_action[row], np.stack([env, counter], -1))
        np.testing.assert_array_equal(batch.reward[row], np.float32(counter + env / 10))
        flags = np.array([_flags(int(env[0]), int(t)) for t in counter])
        flags[0, 0] = True
        for t in range(len(counter) - 1):
            flags[t, 1] |= flags[t + 1, 0]
        for i, name in enumerate(FLAGS):
            np.testing.assert_array_equal(getattr(batch, name)[row], flags[:, i], name)
        starts.add((int(env[0]), int(counter[0])))
    return starts


@quick
@hypothesis.given(
    length=st.integers(2, 12),
    num_envs=st.integers(1, 3),
    sequence_length=st.integers(2, 6),
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_windows_never_span_the_write_head(length, num_envs, sequence_length, chunks, seed):
    """Adding and sampling in turns, past several wraps: windows are contiguous, of one stream, and hold live records."""
    hypothesis.assume(sequence_length <= length)
    replay = _replay(length, num_envs, sequence_length, seed)
    for count in chunks:
        _fill(replay, count)
        held = min(replay.added, length)
        assert len(replay) == num_envs * held
        assert replay.items == num_envs * max(0, held - sequence_length + 1)
        if replay.items:
            _check_windows(replay, replay.sample(8))
        else:
            with pytest.raises(ReplayError, match=f"replay holds {held} steps of each environment; batch_length="):
                replay.sample(8)


@pytest.mark.parametrize("added", [4, 7, 10, 11, 14, 25])
def test_every_valid_start_is_drawn_and_uniformly(added):
    """Before, at and after the wrap: all start positions of all environments come, about equally often, and no others."""
    replay = _replay()
    _fill(replay, added)
    oldest = max(0, added - 10)
    expected = {(env, start) for env in range(2) for start in range(oldest, added - 3)}
    assert len(expected) == replay.items
    batch = replay.sample(400 * len(expected))
    assert _check_windows(replay, batch) == expected
    starts = np.stack([batch.obs["env"][:, 0], batch.obs["counter"][:, 0, 0]], -1)
    counts = np.unique(starts, axis=0, return_counts=True)[1]
    assert counts.min() > 300
    assert counts.max() < 500


def test_sampling_leaves_the_storage_alone():
    """Forcing is_first and is_last happens in the copy."""
    replay = _replay()
    _fill(replay, 13)
    before = {name: values.copy() for name, values in replay.storage.items()}
    batch = replay.sample(50)
    for values in filter(lambda values: values is not None, vars(batch).values()):
        for array in values.values() if isinstance(values, dict) else [values]:
            array[...] = 0
    for name, values in before.items():
        np.testing.assert_array_equal(replay.storage[name], values)


def test_sampling_is_deterministic():
    """One seed draws the same windows, another one others."""
    replays = [_replay(seed=seed) for seed in (5, 5, 6)]
    for replay in replays:
        _fill(replay, 17)
    one, same, other = (np.concatenate([replay.sample(16).reward for _ in range(3)]) for replay in replays)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@quick
@hypothesis.given(added=st.integers(4, 35), tail=st.integers(0, 10))
def test_write_restores_what_read_copied(added, tail):
    """A replay rebuilt from the records it held, in two pieces and across the wrap, samples the same and goes on the same."""
    replay, rebuilt = _replay(), _replay()
    _fill(replay, added)
    oldest = max(0, added - 10)
    middle = max(oldest, added - tail)
    for begin, end in ((oldest, middle), (middle, added)):
        rebuilt.write(begin, replay.read(begin, end))
    for more in (0, 3):
        _fill(replay, more)
        _fill(rebuilt, more)
        assert (rebuilt.added, rebuilt.items) == (replay.added, replay.items)
        batch = rebuilt.sample(8)
        _check_windows(rebuilt, batch)
        np.testing.assert_array_equal(batch.reward, replay.sample(8).reward)


@pytest.mark.parametrize(("begin", "end"), [(0, 3), (8, 12), (15, 25)])
def test_read_gives_the_records_asked_for(begin, end):
    """Records are numbered from the beginning of the run, whatever their place in the ring; the result is a copy."""
    replay = _replay()
    _fill(replay, end)
    records = replay.read(begin, end)
    np.testing.assert_array_equal(records["obs/counter"][..., 0], [np.arange(begin, end)] * 2)
    np.testing.assert_array_equal(records["obs/env"], [[0] * (end - begin), [1] * (end - begin)])
    records["reward"][:] = -1
    assert replay.read(begin, end)["reward"].min() >= 0


@pytest.mark.parametrize("latent", [None, LatentSpec(5, 2, 3, False), LatentSpec(5, 2, 300, True)])
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(
    "obs", [OBS, {"x": ObsSpec("vector", (2, 3))}, {"i": ObsSpec("image", (8, 8, 3)), "n": ObsSpec("discrete", (), 5)}]
)
def test_predicted_memory_is_the_allocated_memory(obs, num_envs, latent):
    """The announced bytes are those of the arrays."""
    replay = Replay(obs, ACTION, latent, 30, num_envs, 4, False, 0)
    assert predict_bytes(obs, ACTION, latent, 30) == sum(values.nbytes for values in replay.storage.values())


FILL = """
import resource
from pathlib import Path
import numpy as np
from dreamer_jax.replay.buffer import Replay, predict_bytes
from dreamer_jax.core.spaces import ActionSpec, LatentSpec, ObsSpec

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

what = {"image": ObsSpec("image", (64, 64, 3))}, ActionSpec(discrete=False, size=2), LatentSpec(512, 32, 4, False), 4000
Replay(*what[:3], 400, 2, 64, True, 0)  # loads what NumPy loads late
before = resident()
replay = Replay(*what, 2, 64, True, 0)
empty, none, image = resident() - before, np.zeros(2, bool), np.ones((2, 64, 64, 3), np.uint8)
for _ in range(2000):
    deter, stoch = np.ones((2, 512), np.float32), np.ones((2, 32))
    replay.add({"image": image}, np.ones((2, 2)), np.ones(2), none, none, none, deter, stoch)
print(empty, resident() - before, predict_bytes(*what))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_predicted_memory_is_what_a_process_grows_by():
    """Within 10%, for images and latents of an ordinary size; nothing before the records arrive. In a process of its own,
    where nothing else comes or goes.
    """
    printed = subprocess.run([sys.executable, "-c", FILL], capture_output=True, text=True, check=True).stdout
    empty, full, predicted = map(int, printed.split())
    assert empty < 0.1 * predicted
    assert full == pytest.approx(predicted, rel=0.1)


def test_a_replay_too_large_for_the_machine_is_refused():
    """A petabyte, in one line with the size and the fix."""
    with pytest.raises(ReplayError, match=r"replay of 1000000000000 steps takes \d+\.\d GiB: too much in memory; lower replay"):
        Replay({"i": ObsSpec("image", (64, 64, 3))}, ACTION, None, 10**12, 1, 64, False, 0)


def test_a_replay_too_large_for_the_disk_is_refused(tmp_path):
    with pytest.raises(ReplayError, match=rf"replay of 1000000000000 steps takes \d+\.\d GiB: too much in {tmp_path}"):
        Replay({"i": ObsSpec("image", (64, 64, 3))}, ACTION, None, 10**12, 1, 64, False, 0, tmp_path)


@pytest.mark.parametrize("latent", [None, LatentSpec(5, 2, 300, True)])
def test_a_replay_on_disk_is_the_one_in_memory(tmp_path, latent):
    """The same records, windows and latents after the rings have wrapped; the files have no names that could be left over."""
    memory, disk = (Replay(OBS, ACTION, latent, 20, 2, 4, True, 0, folder) for folder in (None, tmp_path))
    assert not list(tmp_path.iterdir())
    rng, flags = np.random.default_rng(0), [np.zeros(2, bool)] * 3
    for i in range(17):
        obs = {"env": np.arange(2), "counter": np.full((2, 1), i)}
        drawn = {"deter": rng.random((2, 5)).astype(ml_dtypes.bfloat16), "stoch": rng.integers(300, size=(2, 2))}
        for replay in (memory, disk):
            replay.add(obs, np.ones((2, 2)), np.full(2, i), *flags, **(drawn if latent else {}))
    if latent:
        for replay in (memory, disk):
            new = np.ones((1, 4, 5), ml_dtypes.bfloat16), np.full((1, 4, 2), 7, np.uint16)
            replay.write_latents(np.array([1]), np.array([10]), *new)
    for name, values in memory.read(7, 17).items():
        np.testing.assert_array_equal(disk.read(7, 17)[name], values, err_msg=name)
    one, two = (vars(replay.sample(8)) for replay in (memory, disk))
    np.testing.assert_equal(one, two)
    assert type(disk.storage["reward"]) is np.ndarray  # indexing a np.memmap is slower


def test_windows_that_nobody_trained_on_do_not_pile_up():
    """The online queue holds at most the windows that the rings hold."""
    replay = Replay(OBS, ACTION, None, 20, 2, 4, True, 0)
    _fill(replay, 1000)
    assert list(replay.queue) == [(env, first) for first in (992, 996) for env in (0, 1)]


def test_sampled_types():
    """Observations keep their dtype, actions and rewards are float32, flags bool; all are [B, T, ...]."""
    replay = _replay()
    _fill(replay, 6)
    batch = replay.sample(3)
    types = {"env": np.int32, "counter": np.float32}
    assert {name: value.dtype for name, value in batch.obs.items()} == types
    assert batch.obs["counter"].shape == (3, 4, 1)
    assert (batch.prev_action.dtype, batch.prev_action.shape) == (np.float32, (3, 4, 2))
    assert (batch.reward.dtype, batch.reward.shape) == (np.float32, (3, 4))
    assert all(getattr(batch, flag).dtype == bool for flag in FLAGS)


def test_a_ring_shorter_than_a_sequence_is_refused():
    """The message names the sizes and the two settings that would help."""
    expected = "replay of 10 steps over 4 environments holds 2 steps each; a sequence needs 3. Raise replay.capacity"
    with pytest.raises(ReplayError, match=expected):
        Replay(OBS, ACTION, None, 10, 4, 3, False, 0)


def test_sampling_too_early_is_refused():
    """The message says what is held, what is needed, and what to do."""
    replay = _replay()
    _fill(replay, 3)
    expected = r"replay holds 3 steps of each environment; batch_length=4 needs 4\. Collect more first, or lower"
    with pytest.raises(ReplayError, match=expected):
        replay.sample(1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"reward": None}, "'reward' holds nothing; expected float32"),
        ({"is_last": np.zeros((2, 3), np.int8)}, r"'is_last' holds int8\[2, 3\]; expected bool"),
        ({"obs/counter": np.zeros((2, 3, 4), np.float32)}, r"'obs/counter' holds float32\[2, 3, 4\]"),
        ({"prev_action": np.zeros((1, 3, 2), np.float32)}, r"'prev_action' holds float32\[1, 3, 2\]"),
    ],
)
def test_foreign_records_are_refused(change, expected):
    """Missing keys and other dtypes, shapes or environments are named, and nothing is written."""
    replay = _replay()
    _fill(replay, 5)
    records = {name: values for name, values in {**replay.read(0, 3), **change}.items() if values is not None}
    before = {name: values.copy() for name, values in replay.storage.items()}
    with pytest.raises(ReplayError, match=expected):
        replay.write(0, records)
    assert replay.added == 5
    for name, values in before.items():
        np.testing.assert_array_equal(replay.storage[name], values)


@pytest.mark.parametrize(
    ("ratio", "calls"),
    [
        # 16 steps an update; a ratio of 8 is half an update for each record.
        (8, [(1000, 1), (1001, 0), (1002, 1), (1003, 0), (1004, 1), (1008, 2), (1008, 0), (1011, 1), (1012, 1)]),
        (16, [(7, 1), (8, 1), (9, 1), (9, 0), (20, 11)]),
        (32, [(500, 1), (501, 2), (503, 4), (503, 0), (504, 2)]),
        (24, [(10, 1), (11, 1), (12, 2), (13, 1), (14, 2)]),
        (1, [(64, 1), (79, 0), (80, 1), (95, 0), (112, 2)]),
    ],
)
def test_train_ratio_by_hand(ratio, calls):
    """The first call grants one update however long the warm-up was; later ones what the ratio says, no fraction lost."""
    train_ratio = TrainRatio(ratio, batch_size=2, batch_length=8)
    assert [train_ratio(records) for records, _ in calls] == [updates for _, updates in calls]


@quick
@hypothesis.given(st.integers(1, 500), st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(0, 10**6))
def test_train_ratio_keeps_up(ratio, steps, start):
    """In the long run updates are ratio / (batch steps) times the records since the first call, to within one."""
    train_ratio, records = TrainRatio(ratio, 16, 64), start
    assert train_ratio(records) == 1
    granted = 0
    for step in steps:
        records += step
        granted += train_ratio(records)
        assert abs(granted - (records - start) * ratio / 1024) < 1 + 1e-6


@quick
@hypothesis.given(length=st.integers(4, 12), num_envs=st.integers(1, 3), added=st.integers(0, 40))
def test_episodes_are_where_they_were_added(length, num_envs, added):
    """Every held record lies in exactly one stretch, whose records are those of one episode; nothing is drawn or changed."""
    replay = _replay(length, num_envs, sequence_length=2)
    _fill(replay, added)
    before = replay.rng.bit_generator.state, {name: values.copy() for name, values in replay.storage.items()}
    stretches = [tuple(int(x) for x in row) for row in replay.episodes()]
    held: dict[tuple[int, int], list[int]] = {}  # (environment, number of the episode) -> records, as `_flags` divides them
    for env in range(num_envs):
        for counter in range(max(0, added - length), added):
            held.setdefault((env, counter // (3 + env)), []).append(counter)
    assert stretches == [(env, records[0], records[-1] + 1) for (env, _), records in held.items()]
    assert replay.rng.bit_generator.state == before[0]
    for name, values in before[1].items():
        np.testing.assert_array_equal(replay.storage[name], values)


def test_records_of_one_environment():
    """Across the wrap: the same as among those of all environments."""
    replay = _replay()
    _fill(replay, 13)
    for env in range(2):
        own, every = replay.read(8, 12, env), replay.read(8, 12)
        np.testing.assert_array_equal(own["obs/counter"][:, 0], [8, 9, 10, 11])
        assert own.keys() == every.keys()
        for name, values in every.items():
            np.testing.assert_array_equal(own[name], values[env], name)
