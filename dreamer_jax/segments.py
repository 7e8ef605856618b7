"""The records of a replay on disk: `replay/<begin>-<end>.npz`, each written once, shared by all checkpoints. Imports no JAX."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from dreamer_jax.config import shown
from dreamer_jax.replay import Replay
from dreamer_jax.runs import read_arrays, write_arrays

_NAME = re.compile(r"(\d+)-(\d+)\.npz")
SEGMENT_BYTES = 2**28  # a longer stretch of records is written in several segments: it is in memory a second time for that


class Segments:
    """The segments in a run's folder. Records are counted in each environment, from the beginning of the run."""

    def __init__(self, run: Path) -> None:
        self._folder = run / "replay"
        self._saved = 0  # records that need no more writing

    def save(self, replay: Replay, ends: Sequence[int]) -> None:
        """Writes the records that no segment holds yet, and drops segments of which nobody needs a record.

        Args:
          ends: where the records end that each checkpoint needs. It needs as many before as the replay holds.
        """
        self._folder.mkdir(exist_ok=True)
        self._saved = max(self._saved, replay.added - replay.length)
        step_bytes = sum(values.nbytes for values in replay.storage.values()) // replay.length
        while self._saved < replay.added:
            begin = self._saved
            end = min(replay.added, begin + max(1, SEGMENT_BYTES // step_bytes))
            write_arrays(self._folder / f"{begin:012d}-{end:012d}.npz", replay.read(begin, end))
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

    def _found(self) -> list[tuple[int, int, Path]]:
        """(begin, end, path) in order."""
        matches = [(_NAME.fullmatch(path.name), path) for path in self._folder.glob("*.npz")]
        return sorted((int(match[1]), int(match[2]), path) for match, path in matches if match)
