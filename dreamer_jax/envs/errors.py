"""The errors of this package, and how foreign errors become one line."""

import traceback
from pathlib import Path


class EnvError(ValueError):
    """An environment that cannot be used. The message is one line for the user."""


class ActionError(EnvError):
    """An action that no environment can take: the agent is at fault."""


def locate(error: EnvError, index: int, count: int) -> EnvError:
    """The error with the environment that it comes from, where there are several."""
    if count > 1:
        error.args = (f"environment {index}: {error}",)
    return error


def one_line(error: BaseException) -> str:
    """ "KeyError: 'pole' (my_env.py:42)": what was raised and where, for an error in somebody else's code.

    The place matters: the trace itself is lost when the error comes out of another process.
    """
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is the caller's own
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"
