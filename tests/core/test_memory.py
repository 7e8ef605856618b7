"""What is known of memory, and what is said before a run that will not fit."""

import bisect
import platform
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
from counting import tiny_config

from dreamer_jax.core import memory
from dreamer_jax.core.memory import MIB, available_memory
from dreamer_jax.runs import budget
from dreamer_jax.training import start

FILL = """
import sys
from pathlib import Path
import numpy as np
from dreamer_jax.core.memory import MIB, resident_memory
from dreamer_jax.replay.buffer import Replay, predict_bytes
from dreamer_jax.core.spaces import ActionSpec, ObsSpec

what = {"image": ObsSpec("image", (64, 64, 3))}, ActionSpec(discrete=False, size=2), None
folder = Path(sys.argv[1]) if sys.argv[1:] else None
Replay(*what, 400, 2, 64, True, 0)  # loads what NumPy loads late
before = resident_memory()
replay = Replay(*what, 8000, 2, 64, True, 0, folder)
none, image = np.zeros(2, bool), np.ones((2, 64, 64, 3), np.uint8)
for _ in range(4000):
    replay.add({"image": image}, np.ones((2, 2)), np.ones(2), none, none, none)
print((resident_memory() - before) / predict_bytes(*what, 8000))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere mapped files count as held")
@pytest.mark.parametrize("on_disk", [False, True])
def test_records_on_disk_take_no_memory(tmp_path, on_disk):
    """94 MiB of images: in memory the process grows by them, on disk by less than a tenth."""
    arguments = [str(tmp_path)] if on_disk else []
    printed = subprocess.run([sys.executable, "-c", FILL, *arguments], capture_output=True, text=True, check=True).stdout
    assert float(printed) < 0.1 if on_disk else 0.9 < float(printed) < 1.1


GIVE_BACK = """
from dreamer_jax.core.memory import MIB, give_back_memory, resident_memory

# Pieces below the size from which on each would be a mapping of its own; the last stays, so that no end is free.
pieces = [b"x" * (100_000 + i) for i in range(1000)]
kept = pieces[-1]
del pieces
before = resident_memory()
give_back_memory()
print((before - resident_memory()) / MIB)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries give memory back themselves or not at all")
def test_freed_memory_goes_back_to_the_system():
    """95 MiB in the midst of the heap."""
    printed = subprocess.run([sys.executable, "-c", GIVE_BACK], capture_output=True, text=True, check=True).stdout
    assert 90 < float(printed) < 97


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/", {"memory.max": "1048576\n"}, [MIB]),
        ("0::/job/step", {"job/memory.max": "2097152\n", "job/step/memory.max": "max\n", "memory.max": "max"}, [2 * MIB]),
        ("4:cpu:/job\n3:memory:/job", {"memory/job/memory.limit_in_bytes": "3145728", "job/memory.max": "1"}, [3 * MIB]),
        ("0::/", {}, []),
    ],
)
def test_limits_of_control_groups(tmp_path, monkeypatch, groups, files, expected):
    """Version 2 at the root of a container, and in a job's folder; version 1; none."""
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(groups + "\n")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_ROOT", tmp_path / "groups")
    assert memory._group_limits() == expected
    if expected:
        assert available_memory() == expected[0]


# Records of `tiny_config`: two numbers, an action of 3, a reward and three flags = 8 + 12 + 4 + 3 bytes.
RECORD = 27


@pytest.mark.parametrize(("free", "warned"), [(2 * 1000 * RECORD, False), (2 * 1000 * RECORD - 1, True)])
def test_a_replay_that_will_not_fit_into_memory_is_warned_of(tmp_path, monkeypatch, free, warned):
    """Two seeds of 1,000 records each; a budget of 5,000 frames fills them."""
    monkeypatch.setattr(budget, "available_memory", lambda: free)
    text = start.describe(tiny_config(tmp_path, train__frames=5000), seeds=2)
    assert ("WARNING" in text) == warned
    assert ("MiB of memory, and 0 are available: set replay.storage to disk, or lower replay.capacity" in text) == warned
    assert "WARNING" not in start.describe(tiny_config(tmp_path, train__frames=5000, replay__storage="disk"), seeds=2)
    assert "WARNING" not in start.describe(tiny_config(tmp_path, train__frames=500), seeds=2)


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_a_run_that_will_not_fit_on_disk_is_warned_of(tmp_path, monkeypatch, storage):
    """Checkpoints hold each record once; with the replay on disk there is the ring beside them. The folder need not exist."""
    needed = RECORD * 500 + (RECORD * 1000 if storage == "disk" else 0)
    config = tiny_config(tmp_path / "new", train__frames=500, replay__storage=storage)
    assert least_space(monkeypatch, lambda: start.describe(config)) == needed


def test_space_for_two_moments_and_for_the_best_checkpoint(tmp_path, monkeypatch):
    """1,500 records of a ring of 1,000 when the best checkpoint is 500 records back; latents of 16 + 2 numbers of 4 bytes."""
    config = tiny_config(tmp_path, train__frames=1500, eval__every=100, replay__context=1, precision="float32")
    latent = 16 * 4 + 2
    needed = (RECORD + latent) * 1500 + 2 * latent * 1000
    assert least_space(monkeypatch, lambda: start.describe(config)) == needed


def test_what_a_run_has_written_already_needs_no_space(tmp_path, monkeypatch):
    run = tmp_path / "run"
    (run / "replay").mkdir(parents=True)
    (run / "replay" / "000000000000-000000000500.npz").write_bytes(bytes(4000))
    config = tiny_config(tmp_path, train__frames=500, replay__storage="disk")
    warned = partial(budget._warning, config, RECORD, 0, 1, [run])
    assert least_space(monkeypatch, lambda: str(warned())) == RECORD * 500 - 4000


def least_space(monkeypatch, describe) -> int:
    """The free space [bytes] from which on `describe` does not warn."""

    def warns(free: int) -> bool:
        monkeypatch.setattr(budget.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        text = describe()
        assert ("MiB on disk, and 0 are free in" in text) == ("WARNING" in text)
        return "WARNING" in text

    enough = next(2**i for i in range(40) if not warns(2**i))
    return bisect.bisect_left(range(enough), True, key=lambda free: not warns(free))
