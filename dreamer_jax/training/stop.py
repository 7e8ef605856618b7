"""Ending a run in good order when a signal asks for it."""

import signal
from collections.abc import Callable
from typing import Any


class Stop:
    """Within it Ctrl-C and SIGTERM ask the loop to finish its step; a second Ctrl-C interrupts at once.

    Args:
      say: takes a line for the terminal.

    Attributes:
      requested: whether a signal has come.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.requested = False
        self._say = say
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        try:
            self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: signals belong to the caller
            self._previous = {}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: Any) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._say("stopping: finishing this step and saving a checkpoint (Ctrl-C again to give up on that)")
