"""A replay on disk. Imports no JAX.

replay/<begin>-<end>.npz        segments: records begin..end of every environment, written once, shared by all checkpoints
replay/latents-<frames>.npz     latents of all records at the newest checkpoints: training rewrites them
"""

import contextlib
import re
import zipfile
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dreamer_jax.core.files import HALF, read_arrays, write_arrays
from dreamer_jax.core.text import brief, shown
from dreamer_jax.replay.buffer import Replay

_NAME = re.compile(r"(\d+)-(\d+)\.npz")
PIECE = 4096  # records whose latents are read at once
SEGMENT_BYTES = 2**28  # the most in a segment: it is in memory a second time while it is written


class ReplayStore:
    """The replay's files in a run's folder. Records are counted in each environment, from the beginning of the run."""

    def __init__(self, run: Path) -> None:
        self._folder = run / "replay"
        self._saved = 0  # records that need no more writing
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def save_ahead(self, replay: Replay) -> None:
        """Writes records in the background once there are enough for a whole segment: what `save` need not write.

        Raises:
          OSError: the segment before could not be written.
        """
        count = _records(replay)
        if count <= min(replay.added - self._saved, replay.length):
            self.wait()
            self._folder.mkdir(exist_ok=True)
            self._writing = self._thread.submit(self._write, self._saved, replay.read(self._saved, self._saved + count))
            self._saved += count

    def wait(self) -> None:
        """Waits for what is being written in the background. Raises OSError if that cannot be."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def close(self) -> None:
        """Ends the background thread; whoever wants to know whether all was written calls `wait` before."""
        self._thread.shutdown()

    def save(self, replay: Replay, ends: Sequence[int]) -> None:
        """Writes the records that no segment holds yet, and drops segments of which nobody needs a record.

        Args:
          ends: where the records end that each checkpoint needs. It needs as many before as the replay holds.

        Raises:
          OSError: they cannot be written, or those in the background.
        """
        self.wait()
        self._folder.mkdir(exist_ok=True)
        self._saved = max(self._saved, replay.added - replay.length)
        while self._saved < replay.added:
            end = min(replay.added, self._saved + _records(replay))
            self._write(self._saved, replay.read(self._saved, end))
            self._saved = end
        for begin, end, path in self._found():
            if not any(begin < needed and end > needed - replay.length for needed in ends):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()

    def restore(self, replay: Replay, end: int) -> None:
        """Fills `replay` with the records up to `end`.

        Raises:
          ValueError: one that should be there is missing or damaged; one line says which.
        """
        begin = max(0, end - replay.length)
        position = begin
        for first, last, path in self._found():
            if first >= end or last <= begin:
                continue
            if first > position:
                break
            try:
                segment = read_arrays(path)
                if short := [name for name, values in segment.items() if values.ndim < 2 or values.shape[1] != last - first]:
                    raise ValueError(f"{shown(short[0])} does not hold the {last - first} records of the file's name")
                cut = slice(max(first, begin) - first, min(last, end) - first)
                replay.write(max(first, begin), {name: values[:, cut] for name, values in segment.items()})
            except ValueError as error:
                raise ValueError(f"replay segment {path} cannot be read: {error}") from None
            position = last
        if position < end:
            raise ValueError(f"{self._folder} lacks records {position} to {end}")
        self._saved = end

    def save_latents(self, replay: Replay, frames: int, keep: Collection[int]) -> None:
        """Writes the latents of all records, where the replay has some, and drops those of other checkpoints.

        Args:
          frames: of the checkpoint that they belong to.
          keep: frames of other checkpoints whose latents stay.

        Raises:
          OSError: they cannot be written.
        """
        for path in self._folder.glob("latents-*"):
            if path not in {self._latents(kept) for kept in keep}:
                path.unlink()
        if latents := replay.latents():
            write_arrays(self._latents(frames), latents)

    def restore_latents(self, replay: Replay, frames: int) -> None:
        """Puts the latents of a checkpoint into a replay that holds its records.

        They are read in pieces: they may take more memory than there is.

        Raises:
          ValueError: they are missing, damaged or of other shapes; nothing has been changed then.
        """
        if not (latents := replay.latents()):
            return
        try:
            with self._latents(frames).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                _read_into(latents, file.zip)
        except Exception as error:  # as in `read_arrays`
            raise ValueError(f"{self._latents(frames)} cannot be read: {brief(error)}") from None

    def drop_from(self, end: int) -> None:
        """Removes segments that begin at `end` or later, and what was not written whole."""
        for path in [*self._folder.glob(f"*{HALF}"), *(path for first, _, path in self._found() if first >= end)]:
            path.unlink()

    def drop_latents(self, frames: int) -> None:
        """Removes the latents of a checkpoint that is not used any more."""
        self._latents(frames).unlink(missing_ok=True)

    def _latents(self, frames: int) -> Path:
        return self._folder / f"latents-{frames}.npz"

    def _write(self, begin: int, records: dict[str, np.ndarray]) -> None:
        end = begin + len(records["reward"][0])
        write_arrays(self._folder / f"{begin:012d}-{end:012d}.npz", records)

    def _found(self) -> list[tuple[int, int, Path]]:
        """(begin, end, path) in order."""
        matches = [(_NAME.fullmatch(path.name), path) for path in self._folder.glob("*.npz")]
        return sorted((int(match[1]), int(match[2]), path) for match, path in matches if match)


def _records(replay: Replay) -> int:
    """How many records of each environment go into a whole segment."""
    step_bytes = sum(values.nbytes for values in replay.storage.values()) // replay.length
    return max(1, SEGMENT_BYTES // step_bytes)


def _read_into(latents: dict[str, np.ndarray], archive: zipfile.ZipFile) -> None:
    """Reads arrays of these names from an archive, in pieces.

    Raises:
      ValueError: they are damaged or of other shapes; nothing has been changed then.
    """
    if damaged := archive.testzip():
        raise ValueError(f"{damaged} is damaged")
    with contextlib.ExitStack() as stack:
        streams = {name: stack.enter_context(archive.open(f"{name}.npy")) for name in latents}
        for name, values in latents.items():
            np.lib.format.read_magic(streams[name])
            shape, _, dtype = np.lib.format.read_array_header_1_0(streams[name])
            if (shape, dtype) != (values.shape, values.dtype):
                raise ValueError(f"{name} is {dtype}{list(shape)}; {values.dtype}{list(values.shape)} was expected")
        for name, values in latents.items():
            for of_env in values:
                for begin in range(0, len(of_env), PIECE):
                    piece = of_env[begin : begin + PIECE]
                    piece[:] = np.frombuffer(streams[name].read(piece.nbytes), values.dtype).reshape(piece.shape)
