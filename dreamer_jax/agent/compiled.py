"""Where compiled programs are kept, so that the next start on such a machine need not compile them again."""

import contextlib
import hashlib
import logging
import os
import platform
import zlib
from pathlib import Path

import jax

from dreamer_jax.core.errors import DreamerError
from dreamer_jax.core.files import make_folder
from dreamer_jax.core.paths import absolute

logger = logging.getLogger(__name__)
MOST_BYTES = 2 * 2**30  # of all kept programs together
_ZSTD = b"\x28\xb5\x2f\xfd"  # how what JAX compresses with zstd begins


def keep_compiled_programs() -> None:
    """Keeps what takes seconds to compile in `~/.cache/dreamer_jax` (or $XDG_CACHE_HOME), for the next start on such a machine.

    A folder for each kind of processor: code for one may not run on another that shares the home folder. Of more than
    `MOST_BYTES` those that were used longest ago are deleted, and so is what a killed process left half-written. Where nothing
    can be kept a warning says so. A JAX_COMPILATION_CACHE_DIR of the user's own is left alone. Deleting the folder costs one
    compilation.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        home = absolute(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "dreamer_jax"
        folder = home / _kind_of_processor()
        make_folder(folder)
    except DreamerError as error:
        logger.warning("compiled programs are not kept (%s); JAX_COMPILATION_CACHE_DIR=FOLDER keeps them elsewhere", error)
        return
    with contextlib.suppress(OSError):  # another process may do the same
        remove_torn(folder)
        remove_oldest(home, MOST_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _kind_of_processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        processor = ""
    return hashlib.sha256(f"{platform.machine()} {platform.processor()} {processor}".encode()).hexdigest()[:12]


def remove_torn(folder: Path) -> None:
    """Deletes programs that were not written to their end: JAX would warn of one at every start, and never replace it.

    Each program is looked at once; the time of the file `.checked` tells which are newer. One that another process is writing
    at this moment may be deleted as well, and is compiled again some day.
    """
    checked, now = folder / ".checked", folder / ".checking"
    since = checked.stat().st_mtime_ns if checked.exists() else 0
    now.unlink(missing_ok=True)
    now.touch()  # before anything is read; its time is the file system's, as those of the programs are
    for path in folder.glob("*-cache"):
        if path.stat().st_mtime_ns >= since and not _whole(path.read_bytes()):
            path.unlink(missing_ok=True)
    now.replace(checked)


def remove_oldest(home: Path, most: int) -> None:
    """Deletes the programs below `home` that were used longest ago, until `most` bytes are left."""
    stats = [(path.stat(), path) for path in home.glob("*/*-cache")]
    found = [(max(stat.st_atime, stat.st_mtime), stat.st_size, path) for stat, path in stats]
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        path.unlink(missing_ok=True)
        total -= size


def _whole(program: bytes) -> bool:
    """Whether a program is whole; JAX compresses with zstd where Python has it, otherwise with zlib."""
    try:
        if program.startswith(_ZSTD):
            try:
                from compression import zstd  # pyright: ignore[reportMissingImports]  # of Python 3.14
            except ImportError:
                import zstandard as zstd  # pyright: ignore[reportMissingImports]

            zstd.decompress(program)
        else:
            zlib.decompress(program)
    except Exception:  # each of them has errors of its own; what cannot be read here, JAX cannot read either
        return False
    return True
