"""A run's numbers: the rows of `metrics.jsonl`, written, checked and read. Imports no JAX.

A row is a flat mapping. Every row has `kind` ("train", "episode" or "eval"), `frames` [simulator steps], `decisions`
[actions], `updates` [gradient steps] and `wall_seconds` [s, evaluations on the way included]. The other names are up to the
kind.
"""

import contextlib
import json
import math
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from dreamer_jax.core.errors import ConfigError, RunError
from dreamer_jax.core.files import atomic_write
from dreamer_jax.core.paths import absolute
from dreamer_jax.core.statistics import finite_or_none
from dreamer_jax.core.text import shown

KINDS = ("train", "episode", "eval")
COUNTERS = ("frames", "decisions", "updates", "wall_seconds")
FILE_NAME = "metrics.jsonl"
MEASURED = ("wall_seconds", "updates_per_second", "checkpoint_seconds", "resident_mib")  # differ between runs of one seed
MOST = 10**11  # simulator steps, decisions, updates or seconds of a run
NEEDED = {"train": (), "episode": ("return",), "eval": ("return_mean", "return_std")}  # numbers of a row, beside counters
ROWS_SHOWN = 50  # in a notebook
RETURN_WINDOW = 10  # episodes in the running mean of the return, in the terminal, in plots and in reports


class MetricsLog:
    """Writes a run's rows to `metrics.jsonl`: a row is flushed when `write` returns.

    Numbers that JSON lacks (NaN, infinity) become null.

    Args:
      folder: the run's folder; created if missing.
      resume: append to the rows that are there. Call `truncate` first, so that rows after the checkpoint are not doubled.

    Raises:
      RunError: the folder already holds rows and `resume` is False, or its rows are damaged.

    Attributes:
      rows: how many rows `metrics.jsonl` holds.
      last_frames: frames of the last of them when the log was opened [simulator steps]; -1 without one, None for a new run.
    """

    def __init__(self, folder: Path, resume: bool = False) -> None:
        path = folder / FILE_NAME
        if path.exists() and not resume:
            raise RunError(f"{path} already holds a run; go on from it with --resume {folder}, or choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        self.rows = 0
        self.last_frames: int | None = -1 if resume else None
        if resume and path.exists():
            truncate(folder)  # a torn last line would otherwise swallow the next row
            rows = read_metrics(path)
            self.last_frames, self.rows = max((row["frames"] for row in rows), default=-1), len(rows)
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, float | int | str]) -> dict[str, Any]:
        """Appends one row, where NumPy and JAX scalars are welcome -> the row in plain Python values."""
        missing = [name for name in ("kind", *COUNTERS) if name not in row]
        assert not missing, f"metrics row lacks {missing}"
        assert row["kind"] in KINDS, f"metrics row of kind {row['kind']!r}; known: {KINDS}"
        plain = {name: _plain(value) for name, value in row.items()}
        self._file.write(json.dumps({name: finite_or_none(value) for name, value in plain.items()}, allow_nan=False) + "\n")
        self._file.flush()
        self.rows += 1
        return plain

    def close(self) -> None:
        """Closes the file. Rows were flushed when they were written; whoever could not was told then."""
        with contextlib.suppress(OSError):
            self._file.close()


class Rows(list[dict[str, Any]]):
    """Rows of a run: a list of mappings, which a notebook shows as a table."""

    @property
    def columns(self) -> list[str]:
        """The names of all values, in the order in which they come up."""
        return list(dict.fromkeys(name for row in self for name in row))

    def to_pandas(self) -> Any:
        """The rows as a pandas DataFrame; NaN where a row lacks a value.

        Raises:
          ConfigError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ConfigError("to_pandas needs the pandas package: pip install pandas") from None
        return pandas.DataFrame(list(self))

    def _repr_html_(self) -> str:
        """What a notebook shows: the first rows."""
        names, shown_rows = self.columns, self[:ROWS_SHOWN]
        cells = [[_cell(row.get(name, "")) for name in names] for row in shown_rows]
        lines = [f"<tr><td>{'</td><td>'.join(line)}</td></tr>" for line in cells]
        head = f"<tr><th>{'</th><th>'.join(map(_cell, names))}</th></tr>"
        more = f"<p>{len(shown_rows)} of {len(self)} rows</p>"
        return f"<table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>{more}"


def _cell(value: Any) -> str:
    """A value in a cell of an HTML table."""
    return escape(f"{value:.6g}" if isinstance(value, float) else str(value))


def read_metrics(run: str | Path) -> Rows:
    """Reads the rows of a run; null reads back as NaN. A torn last line (a killed run) is left out.

        dreamer_jax.read_metrics("runs/gym_CartPole-v1/cartpole-0-20250101T120000")

    Args:
      run: the run's folder, or its `metrics.jsonl`.

    Raises:
      RunError: the file cannot be read, a line before the last is not JSON, or one is no row: of an unknown kind, with a
        counter that is no count, or without a number that its kind has.
    """
    path = absolute(run)
    return Rows(row for _, row in _read_lines(path / FILE_NAME if path.is_dir() else path))


def of_kind(rows: Iterable[dict[str, Any]], kind: str) -> Rows:
    """The rows of one kind, in their order."""
    return Rows(row for row in rows if row["kind"] == kind)


def truncate(folder: Path, frames: float = math.inf, count: int | None = None) -> None:
    """Drops the rows of `metrics.jsonl` beyond `frames` [simulator steps], those after the first `count`, and a torn last line.

    Rows at `frames` stay: how many of them came before a checkpoint at that frame, only `count` can tell.

    The file is replaced in one step: a crash leaves the old rows or the new ones. Without a file there is nothing to do.

    Raises:
      RunError: as `read_metrics`.
    """
    path = folder / FILE_NAME
    if path.exists():
        kept = [line for line, row in _read_lines(path)[:count] if row["frames"] <= frames]
        with atomic_write(path) as file:
            file.writelines(line + b"\n" for line in kept)


def _plain(value: Any) -> Any:
    """The Python value of a NumPy or JAX scalar."""
    return value.item() if hasattr(value, "item") else value


def _read_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The rows as (the line's bytes, the row), without a torn last line."""
    try:
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            problem = "it is not JSON"
        else:
            problem = _problem(row)
        if problem:
            raise RunError(f"{path}, line {number} is damaged: {problem}: {line[:60]!r}; remove that line") from None
        rows.append((line, {name: math.nan if value is None else value for name, value in row.items()}))
    return rows


def _problem(row: Any) -> str | None:
    """Why something is no metrics row; None where it is one."""
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str) or row["kind"] not in KINDS:
        return f"it is no row of a kind in {KINDS}"
    for name in COUNTERS:
        if name not in row:
            return f"it lacks {name!r}"
        if not is_counter(name, row[name]):
            return f"{name} is {shown(row[name])}: negative, not finite, not whole or beyond {MOST:.0e}"
    for name in NEEDED[row["kind"]]:
        if name not in row:
            return f"it lacks a number, {name!r}"
    for name, value in row.items():
        words = isinstance(value, str) and name not in NEEDED[row["kind"]] and not name.startswith("loss/")
        if value is not None and not words and not is_number(value):
            return f"{shown(name)} is {shown(value)}; a number was expected"
        if name == "return_std" and isinstance(value, int | float) and value < 0:
            return f"return_std is {shown(value)}; a deviation is not negative"
    return None


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a number that a run can have: what it logs comes from float32, below 4e38, and sums."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e50


def is_counter(name: str, value: Any) -> bool:
    """Whether a value read from JSON can be the counter `name` of a run: from 0 to `MOST`, and whole but for the time."""
    return is_number(value) and 0 <= value <= MOST and (isinstance(value, int) or name == "wall_seconds")
