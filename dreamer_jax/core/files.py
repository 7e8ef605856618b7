"""Files that are whole or not there, and the lock of a folder. Imports no JAX."""

import contextlib
import errno
import json
import logging
import os
import platform
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from dreamer_jax.core.errors import RunError, StorageError
from dreamer_jax.core.text import brief, shown

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)
# What the system says of a disk that is full, failing, gone or read-only. Its other errors are not the disk's.
UNWRITABLE = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EIO", "ENOENT", "ESTALE")}
HALF = ".tmp"  # how the name of a file ends that is not written whole


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file that takes the place of `path` when the block ends without an error, and is removed otherwise.

    It is written beside its place under a name of its own, and its bytes and its name are on the disk before this returns: a
    reader, a crash and a second writer see the old file or the new one.

    Raises:
      OSError: it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{HALF}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "nt":
        return  # there a folder cannot be opened
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8, as `atomic_write`."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, as `atomic_write`."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file; None if there is no file.

    Raises:
      RunError: it cannot be read, or holds something else.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read as JSON: {brief(error)}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} holds {type(content).__name__}; a mapping was expected")
    return content


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an `.npz`, as `atomic_write`; bfloat16, which NumPy does not know, as its bits."""
    plain: dict[str, Any] = {
        name: values.view(np.uint16) if values.dtype.kind == "V" else values for name, values in arrays.items()
    }
    with atomic_write(path) as file:
        np.savez(file, **plain)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads what `write_arrays` wrote. Pickled objects are not loaded: that would run code of theirs.

    Raises:
      ValueError: the file cannot be read; one line says why.
    """
    try:
        # Opened here, because NumPy leaves a damaged archive open.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return as_arrays(file, file.files)
    except Exception as error:  # zipfile, zlib, struct and NumPy have their own ways to fail on damaged bytes
        raise ValueError(brief(error)) from None


def as_arrays(file: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Some of an archive's arrays; ValueError for what is none."""
    arrays = {name: file[name] for name in names}
    for name, values in arrays.items():
        if not isinstance(values, np.ndarray):
            raise ValueError(f"{shown(name)} is no array")
    return arrays


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Holds the lock of the file `path` for this process, however it ends -> its descriptor, which a child may inherit.

    The lock belongs to the open file, not to its being there; it says who has it. Where a file system, or the system itself,
    has no such locks, none is held, which is logged.

    Raises:
      RunError: another process has it; the message says which.
      StorageError: the file cannot be written.
    """
    try:
        file = path.open("a+")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; check its permissions") from None
    with file:
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise RunError(f"{path.parent} is in use by {holder}; wait until it ends, or stop it") from None
        except OSError as error:
            logger.warning(
                "%s cannot be locked (%s): see to it that one process alone works there", path.parent, error.strerror
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield file.fileno()


def make_folder(folder: Path) -> None:
    """Makes a folder, which may exist.

    Raises:
      StorageError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be made: {error.strerror}; choose another folder") from None
    check_writable(folder)


def check_writable(folder: Path) -> None:
    """Raises StorageError when nothing can be written into `folder`."""
    probe = folder / f".write_test{HALF}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}; check its permissions") from None


@contextlib.contextmanager
def disk_errors_named(place: Path, advice: str) -> Iterator[None]:
    """Turns an OSError of the disk into a StorageError with the file, the reason and what to do.

    Args:
      place: stands for the file where the error does not name one.
      advice: ends the message.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise StorageError(f"{error.filename or place} cannot be written: {error.strerror or error}; {advice}") from error
