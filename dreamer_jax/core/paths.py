"""Paths that the user types, as absolute ones: an environment or an import may change the current folder.

Imports no JAX.
"""

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from dreamer_jax.core.errors import ConfigError

_START: ContextVar[Path | None] = ContextVar("start", default=None)  # of the command that is running


def start_folder() -> Path:
    """The folder that relative paths start from: the one in which a command was started, elsewhere the current one.

    Raises:
      ConfigError: the current folder has been removed.
    """
    try:
        return _START.get() or Path.cwd()
    except FileNotFoundError:
        raise ConfigError("the current folder does not exist any more; change to one that does: cd ~") from None


@contextlib.contextmanager
def paths_from(folder: Path) -> Iterator[None]:
    """Within it relative paths start from `folder`, also after something has changed the current folder."""
    token = _START.set(folder)
    try:
        yield
    finally:
        _START.reset(token)


def absolute(path: str | Path, within: Path | None = None) -> Path:
    """The path with a leading "~" expanded, from `within` or else `start_folder` on where it is relative.

    Links stay as they are, and "$" means nothing.

    Raises:
      ConfigError: there is no home folder that "~" could mean.
    """
    expanded = os.path.expanduser(path)  # unlike pathlib's it leaves "./~" alone, which is how to write a folder of that name
    if expanded.startswith("~"):
        raise ConfigError(f"{path}: there is no home folder that ~ could mean; write the whole path, or ./{path}")
    return (within or start_folder()) / expanded
