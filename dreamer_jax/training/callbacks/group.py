"""The callbacks of one training: chosen from the configuration, called together, and kept from breaking it."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any

import numpy as np

from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import RAISED_OUTSIDE, CallbackError, DreamerError
from dreamer_jax.core.extensions import DOORS
from dreamer_jax.core.text import one_line
from dreamer_jax.play.policy import Policy
from dreamer_jax.training.callbacks.base import Callback, Report, Row, RunView

logger = logging.getLogger(__name__)
EVENTS = ("start", "step", "row", "progress", "checkpoint", "evaluation", "media", "end")


def chosen_callbacks(config: Config) -> list[Callback]:
    """The callbacks that a configuration asks for: the built-in ones first.

    Raises:
      ConfigError: a name that nothing has registered, or a callback that cannot be made, as where its package is missing.
    """
    train = config.train
    built_in = {"terminal": True, "tensorboard": train.tensorboard, "wandb": train.wandb, "dreams": config.eval.dreams}
    names = dict.fromkeys([*(name for name, wanted in built_in.items() if wanted), *train.callbacks])
    callbacks = []
    for name in names:
        found = DOORS["callback"].get(name)
        with _errors_named(name, "__init__"):
            callbacks.append(found(config.options_of(found)))
    return callbacks


class Callbacks:
    """Passes events to callbacks. What one of them raises is kept until `check`, so that no event ends a step halfway.

    A callback that has raised an error is called once more, at the end.

    Args:
      callbacks: called in this order; each only for the events whose methods it overrides.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._of = {
            event: [one for one in callbacks if getattr(type(one), event) is not getattr(Callback, event)] for event in EVENTS
        }
        self._runs: Sequence[RunView] = ()
        self._error: DreamerError | None = None

    def start(self, runs: Sequence[RunView]) -> None:
        """The runs are about to be trained.

        Raises:
          CallbackError, DreamerError: a callback cannot start; those that have started are ended.
        """
        self._runs = tuple(runs)
        self._call("start", self._runs)
        if self._error:
            self.end("failed")
            raise self._error

    def step(self) -> None:
        """A step of the loop is over."""
        if self._of["step"]:
            self._call("step", self._runs)

    def row(self, run: RunView, row: dict[str, Any]) -> None:
        """A row has been written."""
        shown: Row = MappingProxyType(row)
        self._call("row", run, shown)

    def progress(self, report: Report) -> None:
        """Rows of all seeds have been written."""
        self._call("progress", report)

    def checkpoint(self, run: RunView, frames: int) -> None:
        """A checkpoint has been written."""
        self._call("checkpoint", run, frames)

    def evaluation(self, run: RunView, policy: Policy, result: dict[str, Any]) -> None:
        """The deterministic policy has been evaluated."""
        self._call("evaluation", run, policy, MappingProxyType(deepcopy(result)))

    def media(self, run: RunView, name: str, frames: np.ndarray, fps: int) -> None:
        """A callback shows something.

        Raises:
          ValueError: frames that are not uint8[T, H, W, 3]; the error is that callback's.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
            raise ValueError(f"{name!r} is {frames.dtype}{list(frames.shape)}; uint8[T, H, W, 3] was expected")
        self._call("media", run, name, frames, fps)

    def end(self, status: str) -> None:
        """The training is over; errors of this event are logged, since everything has been saved."""
        kept = self._error
        for one in self._of["end"]:
            self._error = None
            self._call_one(one, "end", self._runs, status)
            if self._error:
                logger.warning("%s", self._error)
        self._error = kept

    @property
    def failed(self) -> bool:
        """Whether a callback has raised an error."""
        return self._error is not None

    def check(self) -> None:
        """Raises the first error of a callback's, if there was one."""
        if self._error:
            raise self._error

    def _call(self, event: str, *arguments: Any) -> None:
        for one in tuple(self._of[event]):
            self._call_one(one, event, *arguments)

    def _call_one(self, callback: Callback, event: str, *arguments: Any) -> None:
        try:
            with _errors_named(callback.name, event):
                getattr(callback, event)(*arguments)
        except DreamerError as error:
            self._error = self._error or error
            for name in EVENTS[:-1]:
                self._of[name] = [one for one in self._of[name] if one is not callback]


@contextlib.contextmanager
def _errors_named(name: str, event: str) -> Iterator[None]:
    """Makes a CallbackError of what is not one of this project's own errors."""
    try:
        yield
    except DreamerError:
        raise
    except RAISED_OUTSIDE as error:
        raise CallbackError(f"the callback {name!r} raised {one_line(error)} in {event}") from error
