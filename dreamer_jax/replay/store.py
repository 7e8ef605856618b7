"""The records of a replay on disk: `replay/<begin>-<end>.npz`, each written once, shared by all checkpoints. Imports no JAX."""

import contextlib
import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dreamer_jax.core.files import read_arrays, write_arrays
from dreamer_jax.core.text import shown
from dreamer_jax.replay.buffer import Replay

_NAME = re.compile(r"(\d+)-(\d+)\.npz")
SEGMENT_BYTES = 2**28  # the most in a segment: it is in memory a second time while it is written


class Segments:
    """The segments in a run's folder. Records are counted in each environment, from the beginning of the run."""

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

    def drop_from(self, end: int) -> None:
        """Removes what begins at `end` or later, and what was not written whole."""
        for path in [*self._folder.glob("*.tmp"), *(path for first, _, path in self._found() if first >= end)]:
            path.unlink()

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
