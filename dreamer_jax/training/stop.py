"""Ending a run in good order when a signal asks for it."""

import contextlib
import logging
import signal
from collections.abc import Iterator
from typing import Any

# Windows lacks the last.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
logger = logging.getLogger(__name__)


class StoppedError(KeyboardInterrupt):
    """A signal has ended what may be ended at any moment."""


class Stop:
    """Within it Ctrl-C, SIGTERM and SIGUSR1 ask the loop to finish its step; a second Ctrl-C interrupts at once.

    Attributes:
      requested: whether a signal has come.
      signal: its name; empty until then.
    """

    def __init__(self) -> None:
        self.requested, self.signal = False, ""
        self._previous: dict[int, Any] = {}
        self._at_once = False

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it a signal raises StoppedError: there is nothing to save any more."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def __enter__(self) -> "Stop":
        try:
            self._previous = {number: signal.signal(number, self._request) for number in SIGNALS}
        except ValueError:  # not the main thread: signals belong to the caller
            self._previous = {}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: Any) -> None:
        self.requested, self.signal = True, signal.Signals(number).name
        if self._at_once:
            raise StoppedError(self.signal)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        logger.info("stopping: finishing this step and saving a checkpoint (Ctrl-C again to give up on that)")
