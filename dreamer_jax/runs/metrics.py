"""A run's numbers: `metrics.jsonl`, TensorBoard, Weights & Biases and the progress in the terminal.

A row is a flat mapping. Every row has `kind` ("train", "episode" or "eval"), `frames` [simulator steps], `decisions`
[actions], `updates` [gradient steps] and `wall_seconds` [s, evaluations on the way included]. The other names are up to the
kind.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from scipy.special import stdtrit
from tqdm import tqdm

from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.text import shown

KINDS = ("train", "episode", "eval")
COUNTERS = ("frames", "decisions", "updates", "wall_seconds")
FILE_NAME = "metrics.jsonl"
MEASURED = ("wall_seconds", "updates_per_second", "checkpoint_seconds", "resident_mib")  # differ between runs of one seed
MOST = 10**11  # simulator steps, decisions, updates or seconds of a run
NEEDED = {"train": (), "episode": ("return",), "eval": ("return_mean", "return_std")}  # numbers of a row, beside counters
RETURN_WINDOW = 10  # episodes in the running mean of the return, here and in the plots
LINE_WIDTH = 140  # longest progress line [characters]
RATE_WINDOW = 20  # progress reports that the ETA looks back over


class MetricsLog:
    """Writes a run's rows to every sink that its configuration asks for.

    `metrics.jsonl` is always written and is the truth: a row is flushed when `write` returns, and numbers that JSON lacks
    (NaN, infinity) become null. TensorBoard and W&B get the same numbers as "<kind>/<name>" over frames.

    Args:
      folder: the run's folder; created if missing.
      config: `train.tensorboard` and `train.wandb` choose the sinks.
      resume: append to the rows that are there. Call `truncate` first, so that rows after the checkpoint are not doubled.

    Raises:
      ConfigError: the folder already holds rows and `resume` is False, or wandb is asked for and not installed.

    Attributes:
      rows: how many rows `metrics.jsonl` holds.
    """

    def __init__(self, folder: Path, config: Config, resume: bool = False) -> None:
        path = folder / FILE_NAME
        if path.exists() and not resume:
            raise ConfigError(f"{path} already holds a run; go on from it with --resume {folder}, or choose another folder")
        wandb = _import_wandb() if config.train.wandb else None
        folder.mkdir(parents=True, exist_ok=True)
        last_frames, self.rows = -1, 0
        if resume and path.exists():
            truncate(folder)  # a torn last line would otherwise swallow the next row
            rows = read_metrics(path)
            last_frames, self.rows = max((row["frames"] for row in rows), default=-1), len(rows)
        self._file = path.open("a", encoding="utf-8")
        self._tensorboard: Any = None
        if config.train.tensorboard:
            from tensorboardX import SummaryWriter

            # purge_step hides what an interrupted run wrote beyond the rows that are kept
            # A queue without end: its writer ends where a disk is full, and nobody would take anything out of a short one.
            purge = last_frames + 1 if resume else None
            self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=purge, max_queue=0)
        self._wandb: Any = _start_wandb(wandb, folder, config) if wandb else None

    def write(self, row: Mapping[str, float | int | str]) -> None:
        """Appends one row; NumPy and JAX scalars are welcome."""
        missing = [name for name in ("kind", *COUNTERS) if name not in row]
        assert not missing, f"metrics row lacks {missing}"
        assert row["kind"] in KINDS, f"metrics row of kind {row['kind']!r}; known: {KINDS}"
        plain = {name: _plain(value) for name, value in row.items()}
        self._file.write(json.dumps({name: _finite_or_none(value) for name, value in plain.items()}, allow_nan=False) + "\n")
        self._file.flush()
        self.rows += 1
        if self._tensorboard is None and self._wandb is None:
            return
        scalars = {
            f"{plain['kind']}/{name}": value
            for name, value in plain.items()
            if name not in COUNTERS and isinstance(value, int | float)
        }
        if self._tensorboard is not None:
            for tag, value in scalars.items():
                self._tensorboard.add_scalar(tag, value, global_step=plain["frames"])
        if self._wandb is not None:
            self._wandb.log(scalars | {name: plain[name] for name in COUNTERS})

    def close(self) -> None:
        """Closes every sink. Rows were flushed when they were written; whoever could not was told then."""
        with contextlib.suppress(OSError):
            self._file.close()
        if self._tensorboard is not None:
            with contextlib.suppress(OSError):
                self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a `metrics.jsonl`; null reads back as NaN. A torn last line (a killed run) is left out.

    Raises:
      ConfigError: the file cannot be read, a line before the last is not JSON, or one is no row: of an unknown kind, with a
        counter that is no count, or without a number that its kind has.
    """
    return [row for _, row in _read_lines(path)]


def truncate(folder: Path, frames: float = math.inf, count: int | None = None) -> None:
    """Drops the rows of `metrics.jsonl` beyond `frames` [simulator steps], those after the first `count`, and a torn last line.

    Rows at `frames` stay: how many of them came before a checkpoint at that frame, only `count` can tell.

    The file is replaced in one step: a crash leaves the old rows or the new ones. Without a file there is nothing to do.

    Raises:
      ConfigError: as `read_metrics`.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return
    temporary = path.with_suffix(".jsonl.tmp")
    with temporary.open("wb") as file:
        file.writelines(line + b"\n" for line, row in _read_lines(path)[:count] if row["frames"] <= frames)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class Progress:
    """How far a run is: a bar in a terminal, one plain line per report elsewhere.

    Args:
      total_frames: length of the run [simulator steps].
      initial: frames that a resumed run starts from [simulator steps].
      stream: where to write; standard output if None.
    """

    def __init__(self, total_frames: int, initial: int = 0, stream: TextIO | None = None) -> None:
        self._total = total_frames
        self._stream = sys.stdout if stream is None else stream
        # The recent rate, not the mean: collecting before the first update is far faster than training after it.
        self._history = deque([(time.monotonic(), initial)], maxlen=RATE_WINDOW)
        self._bar: tqdm | None = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total_frames,
                initial=min(initial, total_frames),
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{percentage:5.1f}%|{bar:16}| {desc}",
            )

    def update(
        self,
        frames: int,
        updates: int,
        updates_per_second: float,
        returns: Sequence[Sequence[float]],
        losses: Mapping[str, float],
    ) -> None:
        """Reports where the run is.

        Args:
          frames: simulator steps so far.
          updates: gradient steps so far.
          updates_per_second: recent speed [1/s].
          returns: returns of the finished episodes, oldest first; the mean of the last ten is shown.
          losses: losses to show, most important first; those that do not fit on the line are left out.
        """
        self._history.append((time.monotonic(), frames))
        parts = [
            f"frames {frames:,}/{self._total:,}",
            f"ETA {self._eta(frames)}",
            f"return {_mean_return(returns)}",
            f"updates {updates:,} ({updates_per_second:.3g}/s)",
        ]
        text = " | ".join(parts)
        separator = " | loss "
        percent = f"{min(100.0, 100 * frames / self._total):5.1f}% "
        for name, value in losses.items():
            item = f"{separator}{name.removeprefix('loss/')} {value:.3g}"
            if len(percent + text + item) > LINE_WIDTH:
                break
            text += item
            separator = ", "
        if self._bar is None:
            self.print(percent + text)
        else:
            self._bar.n = min(frames, self._total)
            self._bar.set_description_str(text)  # draws the bar

    def print(self, line: str) -> None:
        """Writes a line of its own, above the bar where there is one."""
        if self._bar is None:
            print(line, file=self._stream, flush=True)
        else:
            self._bar.write(line, file=self._stream)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _eta(self, frames: int) -> str:
        """Time to the end at the recent rate, as h:mm:ss."""
        (start, first), (now, _) = self._history[0], self._history[-1]
        remaining = max(0, self._total - frames)
        if frames <= first and remaining:
            return "-"
        seconds = round((now - start) / (frames - first) * remaining) if remaining else 0
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _mean_return(returns: Sequence[Sequence[float]]) -> str:
    """ "123.4", or "123.4 ± 5.6 (3 seeds)"; "-" until every seed has finished an episode."""
    if not all(len(of_seed) for of_seed in returns):
        return "-"
    means = [np.mean(of_seed[-RETURN_WINDOW:]) for of_seed in returns]
    count = len(means)
    if count == 1:
        return f"{means[0]:.4g}"
    half = stdtrit(count - 1, 0.975) * np.std(means, ddof=1) / math.sqrt(count)
    return f"{np.mean(means):.4g} ± {half:.3g} ({count} seeds)"


def _plain(value: Any) -> Any:
    """The Python value of a NumPy or JAX scalar."""
    return value.item() if hasattr(value, "item") else value


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The rows as (the line's bytes, the row), without a torn last line."""
    try:
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
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
            raise ConfigError(f"{path}, line {number} is damaged: {problem}: {line[:60]!r}; remove that line") from None
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


def _import_wandb() -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            "train.wandb=true needs the wandb package: pip install wandb (or leave it out with --train.wandb false)"
        ) from None
    return wandb


def _start_wandb(wandb: Any, folder: Path, config: Config) -> Any:
    """Starts or continues the W&B run of this folder; its x axis is frames, so a resumed run may step back."""
    name = f"{folder.resolve().parent.name}-{folder.resolve().name}"
    run = wandb.init(
        project="dreamer_jax", id=name, name=name, dir=str(folder), resume="allow", config=config.model_dump(by_alias=True)
    )
    run.define_metric("*", step_metric="frames")
    return run
