"""Records of a replay on disk: written ahead of a checkpoint, in the background, and read back."""

import threading

import numpy as np
import pytest

from dreamer_jax.core.spaces import ActionSpec, ObsSpec
from dreamer_jax.replay import store
from dreamer_jax.replay.buffer import Replay
from dreamer_jax.replay.store import ReplayStore

RECORDS = 3  # in a segment


def replay(length: int) -> Replay:
    """Of two environments."""
    return Replay({"x": ObsSpec("vector", (1,))}, ActionSpec(False, 1), None, 2 * length, 2, 2, False, seed=0)


def add(memory: Replay, number: int) -> None:
    """A record that shows its number, and 100 more in the second environment."""
    x, flag = np.array([[number], [100 + number]], np.float32), np.zeros(2, bool)
    memory.add({"x": x}, np.zeros((2, 1), np.float32), np.zeros(2, np.float32), flag, flag, flag)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    memory = replay(10)
    step_bytes = sum(values.nbytes for values in memory.storage.values()) // 10
    monkeypatch.setattr(store, "SEGMENT_BYTES", RECORDS * step_bytes)


@pytest.fixture
def saving(tmp_path):
    saving = ReplayStore(tmp_path)
    yield saving
    saving.close()


def names(run) -> list[str]:
    return sorted(path.name for path in (run / "replay").glob("*"))


def test_whole_segments_are_written_before_anyone_saves(tmp_path, saving):
    """Of eight records six are there; saving adds the last two, and the whole is read back."""
    memory = replay(10)
    for number in range(8):
        add(memory, number)
        saving.save_ahead(memory)
    saving.wait()
    assert names(tmp_path) == ["000000000000-000000000003.npz", "000000000003-000000000006.npz"]
    saving.save(memory, [8])
    assert names(tmp_path)[2:] == ["000000000006-000000000008.npz"]
    other = replay(10)
    ReplayStore(tmp_path).restore(other, 8)
    np.testing.assert_array_equal(other.read(0, 8)["obs/x"][..., 0], [np.arange(8.0), 100 + np.arange(8.0)])


def test_what_is_written_is_what_was_recorded(tmp_path, saving, monkeypatch):
    """The thread comes to it when the ring of four has gone round."""
    later, write = threading.Event(), store.write_arrays
    monkeypatch.setattr(store, "write_arrays", lambda *arguments: later.wait() and write(*arguments))
    memory = replay(4)
    for number in range(RECORDS):
        add(memory, number)
    saving.save_ahead(memory)
    for number in range(RECORDS, 8):
        add(memory, number)
    later.set()
    saving.wait()
    with np.load(tmp_path / "replay" / "000000000000-000000000003.npz") as file:
        np.testing.assert_array_equal(file["obs/x"][..., 0], [[0, 1, 2], [100, 101, 102]])


def test_a_replay_smaller_than_a_segment_waits_for_the_checkpoint(tmp_path, saving):
    memory = replay(RECORDS - 1)
    for number in range(8):
        add(memory, number)
        saving.save_ahead(memory)
    assert not (tmp_path / "replay").exists()


@pytest.mark.parametrize("then", ["save", "save_ahead"])
def test_what_could_not_be_written_is_an_error(saving, monkeypatch, then):
    """It is heard of with the next segment or checkpoint."""

    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(store, "write_arrays", full)
    memory = replay(10)
    for number in range(RECORDS):
        add(memory, number)
    saving.save_ahead(memory)
    for number in range(RECORDS, 2 * RECORDS):
        add(memory, number)
    with pytest.raises(OSError, match="No space left"):
        saving.save(memory, [6]) if then == "save" else saving.save_ahead(memory)
