"""A run whose newest checkpoint is damaged or that has none yet, and two processes on one run."""

import contextlib
import errno
import io
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from counting import tiny_config
from stopping import assert_same, last, rows, stop_next_run

from dreamer_jax.core.errors import ReplayError, RunError, StorageError
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.folder import create_run
from dreamer_jax.runs.metrics import read_metrics
from dreamer_jax.training import start
from dreamer_jax.training.seed_run import SeedRun

CHANGES = {"function": "seeded_length", "train__frames": 60, "eval__every": 20, "replay__context": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run in one go."""
    return start.train(tiny_config(tmp_path_factory.mktemp("whole"), **CHANGES))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """The run stopped at frame 51, with checkpoints there, at 40, and perhaps a better one at 20."""
    with pytest.MonkeyPatch.context() as patch:
        stop_next_run(patch, 51)
        return start.train(tiny_config(tmp_path_factory.mktemp("stopped"), **CHANGES))


@pytest.fixture
def run(stopped, tmp_path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(stopped, tmp_path / stopped.name))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage(run: Path, what: str) -> None:
    """Does to the newest checkpoint, or to what it needs, what a full or failing disk does."""
    newest = run / "checkpoints" / "51"
    if what == "no segment":
        max((run / "replay").glob("0*.npz")).unlink()
    elif what == "torn segment":
        cut(max((run / "replay").glob("0*.npz")))
    else:
        for path in [path for path in (newest / what).rglob("*") if path.is_file()]:
            cut(path)


@pytest.mark.parametrize("what", ["agent", "host", "no segment", "torn segment"])
def test_the_checkpoint_before_a_damaged_one_is_taken(run, whole, what, said):
    """And from there the run is the same to the bit; the damaged one is not thrown away."""
    damage(run, what)
    start.resume(run)
    output = said()
    assert "Looking for an older checkpoint" in output
    assert str(run / "replay" if "segment" in what else run / "checkpoints" / "51") in output
    assert [path.name for path in (run / "set_aside").iterdir()] == ["51"]
    assert rows(run) == rows(whole)
    assert_same(last(run), last(whole))


def test_halves_of_files_are_recognised(run, whole):
    """What a kill leaves that came in the midst of a checkpoint."""
    half = run / "checkpoints" / "53.orbax-checkpoint-tmp-7"
    shutil.copytree(run / "checkpoints" / "51", half)
    cut(next(path for path in half.rglob("*") if path.is_file()))
    for path in (run / "replay" / "000000000060-000000000065.npz.1f.tmp", run / "replay" / "latents-53.npz.2e.tmp"):
        path.write_bytes(b"PK")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "fra')
    start.resume(run)
    assert rows(run) == rows(whole)
    assert_same(last(run), last(whole))
    assert not [path for path in run.rglob("*") if "tmp" in path.name]
    assert not (run / "set_aside").exists()


def test_halves_are_gone_when_a_run_has_been_opened(run):
    """A resumed run is opened twice, and nothing may still be removing them when it is opened again or saves."""
    half = run / "checkpoints" / "53.orbax-checkpoint-tmp"
    half.mkdir()
    for i in range(2_000):
        (half / str(i)).touch()
    with contextlib.closing(Checkpoints(run, keep=2)):
        assert not half.exists()


def test_rows_at_the_frame_of_a_checkpoint_come_once(run, whole):
    """While every environment is being reset, rows are written and no frame passes; the checkpoint came before."""
    path = run / "metrics.jsonl"
    row = path.read_bytes().splitlines(keepends=True)[-1]
    assert read_metrics(path)[-1]["frames"] <= 51
    path.write_bytes(path.read_bytes() + row)
    start.resume(run)
    assert rows(run) == rows(whole)


def test_records_between_the_best_checkpoint_and_the_newest_are_not_kept(tmp_path, monkeypatch):
    """A ring of 30 records, and an agent that gets worse: the newest two checkpoints and the first, with what they ask for."""
    monkeypatch.setattr(SeedRun, "evaluate", lambda self, policy: (-self.counters.frames, "worse"))
    run = start.train(tiny_config(tmp_path, **{**CHANGES, "train__frames": 200, "replay__capacity": 30}))
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        ends = [checkpoints.restore_host(frames).replay_end for frames in checkpoints.steps()]
    assert len(ends) == 3
    assert ends[1] - ends[0] > 120
    spans = [tuple(map(int, path.stem.split("-"))) for path in (run / "replay").glob("0*.npz")]
    # What the checkpoint before these asked for went or goes with the next one.
    assert not [span for span in spans if span[0] >= ends[0] and span[1] <= ends[1] - 60]
    shutil.rmtree(run / "checkpoints" / str(max(int(path.name) for path in (run / "checkpoints").iterdir())))
    start.resume(run)  # the one before has its records


def test_a_run_without_a_checkpoint_begins_again(tmp_path, whole, said):
    """It was ended after its first rows and records; nothing of them comes twice."""
    config = tiny_config(tmp_path, **CHANGES)
    run = create_run(config)
    shutil.copytree(whole / "replay", run / "replay")
    shutil.copy(whole / "metrics.jsonl", run)
    (run / "checkpoints" / "20.orbax-checkpoint-tmp-1").mkdir(parents=True)
    start.resume(run)
    assert f"{run} has no checkpoint yet: it begins again" in said()
    assert (run / "set_aside" / "0" / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert rows(run) == rows(whole)
    assert_same(last(run), last(whole))


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def resources(*arguments, **options):
    raise ValueError("RESOURCE_EXHAUSTED: Failed to write 30467 bytes: No space left on device")


@pytest.mark.parametrize(
    ("place", "failure", "message"),
    [
        ("dreamer_jax.replay.store.write_arrays", full, "No space left on device"),
        ("dreamer_jax.replay.store.ReplayStore.save_latents", full, "No space left on device"),
        ("orbax.checkpoint.CheckpointManager.save", full, "No space left on device"),
        ("orbax.checkpoint.CheckpointManager.wait_until_finished", resources, "RESOURCE_EXHAUSTED: Failed to write"),
        ("dreamer_jax.runs.metrics.MetricsLog.write", full, "No space left on device"),
    ],
)
def test_a_full_disk_ends_the_run_in_one_line(tmp_path, whole, stop_after, place, failure, message):
    """After the checkpoint at 20 it is full; with room again the run goes on from there and is the same."""
    stop_after(20, place, failure)
    with pytest.raises(StorageError) as refused:
        start.train(tiny_config(tmp_path, **CHANGES))
    [run] = (tmp_path / "import_counting_seeded_length").iterdir()
    text = str(refused.value)
    assert message in text
    assert f"and what was saved before is whole. Make room, then: dreamer train --resume {run}" in text
    assert "\n" not in text
    stop_after(None)
    start.resume(run)
    assert rows(run) == rows(whole)
    assert_same(last(run), last(whole))


@pytest.fixture
def stop_after():
    """stop_after(frames, place, failure): what stands at `place` fails from then on; frames None: nothing does."""
    patches = pytest.MonkeyPatch()

    def set_up(frames, place="", failure=None):
        patches.undo()
        if frames is None:
            return
        save = Checkpoints.save

        def saving(self, at, *rest):
            save(self, at, *rest)
            if at >= frames:
                self.wait()
                patches.setattr(place, failure)

        patches.setattr(Checkpoints, "save", saving)

    yield set_up
    patches.undo()


HOLD = """
import sys, time
from pathlib import Path
from dreamer_jax.core.files import locked
with locked(Path(sys.argv[1]) / "lock"):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_disk_that_is_full_when_a_run_goes_on_is_told_in_one_line(run, whole, monkeypatch):
    monkeypatch.setattr("dreamer_jax.training.seed_run.write_json", full)
    with pytest.raises(StorageError, match="No space left on device; the run has ended, and what was saved before is whole"):
        start.resume(run)
    monkeypatch.undo()
    start.resume(run)
    assert rows(run) == rows(whole)


def test_another_error_of_the_system_is_not_the_folders(tmp_path, monkeypatch):
    def failing(*arguments):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("dreamer_jax.runs.metrics.MetricsLog.write", failing)
    with pytest.raises(OSError, match="Too many open files"):
        start.train(tiny_config(tmp_path, **CHANGES))


@pytest.mark.parametrize(
    ("place", "failure", "error", "message"),
    [
        (
            "dreamer_jax.training.seed_run.write_json",
            full,
            StorageError,
            "No space left on device; make room, or choose another folder",
        ),
        ("dreamer_jax.runs.metrics.MetricsLog.__init__", full, StorageError, "No space left on device; make room, or choose"),
        ("dreamer_jax.replay.buffer.np.empty", full, ReplayError, "too much in memory"),
    ],
)
def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path, monkeypatch, place, failure, error, message):
    monkeypatch.setattr(place, failure)
    with pytest.raises(error, match=message):
        start.train(tiny_config(tmp_path, **CHANGES))
    monkeypatch.undo()
    assert not list((tmp_path / "import_counting_seeded_length").iterdir())


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    """The second is told which the first is. When that is killed, its lock goes, though the file stays."""
    run = create_run(tiny_config(tmp_path, train__frames=20))
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    assert isinstance(first.stdout, io.TextIOBase)
    assert first.stdout.readline() == "locked\n"
    with pytest.raises(RunError, match=rf"{run} is in use by process {first.pid} on .+; wait until it ends, or stop it"):
        start.resume(run)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert str(first.pid) in (run / "lock").read_text()
    start.resume(run)
    assert (run / "evaluation.json").exists()
