"""What a callback is, what it is told, and what it sees of a run. Imports no JAX.

    import dreamer_jax

    @dreamer_jax.register("best_return")
    class BestReturn(dreamer_jax.Callback):
        def row(self, run, row):
            if row["kind"] == "episode":
                ...

`--import my_module --train.callbacks best_return` chooses it.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dreamer_jax.core.config import Config
from dreamer_jax.core.extensions import Extension
from dreamer_jax.replay.buffer import Replay
from dreamer_jax.runs.counters import Counters
from dreamer_jax.runs.metrics import COUNTERS

if TYPE_CHECKING:
    from dreamer_jax.play.policy import Policy

Row = Mapping[str, Any]
"""A row of `metrics.jsonl` with plain Python values; NaN and infinity as they are."""


@dataclass(frozen=True)
class Report:
    """How far a training is.

    Attributes:
      frames: simulator steps of the seed that has the fewest.
      total_frames: length of the run [simulator steps].
      updates: gradient steps so far.
      updates_per_second: recent speed [1/s].
      returns: for each seed the returns of its last few finished episodes, oldest first.
      losses: means since the last report by name, most important first; empty before the first update.
      done: whether training is over, so that this is the last report.
    """

    frames: int
    total_frames: int
    updates: int
    updates_per_second: float
    returns: Sequence[Sequence[float]]
    losses: Mapping[str, float]
    done: bool = False


class RunView:
    """A seed's run as callbacks see it: copies and what cannot be written. Nothing that is done with them changes the run.

    Attributes:
      config: the run's configuration.
      folder: the run's folder.
      last_frames: frames of the last row that a resumed run has kept [simulator steps]; None for a new run.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        counters: Counters,
        recent: deque[float],
        replay: Replay,
        show: Callable[["RunView", str, np.ndarray, int], None],
    ) -> None:
        self.config, self.folder = config, folder
        self.last_frames: int | None = None
        self._counters, self._recent, self._replay, self._show = counters, recent, replay, show

    @property
    def counters(self) -> Counters:
        """What the run has counted so far: frames, decisions, records, updates."""
        return replace(self._counters)

    @property
    def recent_returns(self) -> tuple[float, ...]:
        """Returns of the last few training episodes, oldest first."""
        return tuple(self._recent)

    @property
    def replay(self) -> Replay:
        """The replay to read and to sample from: its arrays cannot be written, and it draws from a generator of its own."""
        view = copy(self._replay)
        view.rng, view.queue = deepcopy(view.rng), view.queue.copy()
        view.storage = {name: values.view() for name, values in view.storage.items()}
        for values in view.storage.values():
            values.flags.writeable = False
        return view

    def show(self, name: str, frames: np.ndarray, fps: int = 1) -> None:
        """Passes a picture or a video to all callbacks, as `Callback.media`."""
        self._show(self, name, frames, fps)


class Callback(Extension):
    """Watches a training; every method does nothing until it is overridden. There is one object for all seeds of a training.

    A callback cannot change what a run computes: it gets copies. An error that one of its methods raises ends the run after the
    current step, with a checkpoint.
    """

    door: ClassVar[str] = "callback"

    def start(self, runs: Sequence[RunView]) -> None:
        """The runs, one for each seed, are about to be trained; resumed ones stand where they were stopped."""

    def step(self, runs: Sequence[RunView]) -> None:
        """One decision has been taken in every environment, and the updates that were due are dispatched.

        It is called thousands of times a second in fast environments, and training waits for it.
        """

    def row(self, run: RunView, row: Row) -> None:
        """A row has been written to `metrics.jsonl`: `row["kind"]` is "train", "episode" or "eval"."""

    def progress(self, report: Report) -> None:
        """How far all seeds together are; with each "train" row, and at the end of the training."""

    def checkpoint(self, run: RunView, frames: int) -> None:
        """A checkpoint at `frames` [simulator steps] has been handed to the writer, which works in the background."""

    def evaluation(self, run: RunView, policy: "Policy", result: Mapping[str, Any]) -> None:
        """The deterministic policy has been evaluated, on the way or at the end; `result` is what `play.evaluate` returns."""

    def media(self, run: RunView, name: str, frames: np.ndarray, fps: int) -> None:
        """Somebody shows a video uint8[T, H, W, 3] at `fps` frames per second; of length T = 1 it is a picture."""

    def end(self, runs: Sequence[RunView], status: str) -> None:
        """The training is over: "finished", "stopped" by a signal or "failed". Errors of this event are only logged."""


def scalars(row: Row) -> dict[str, float]:
    """The numbers of a row as "<kind>/<name>", without the counters."""
    numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name not in COUNTERS}
    return {f"{row['kind']}/{name}": value for name, value in numbers.items()}
