"""How much memory there is, and how much this process holds. Imports no JAX."""

import contextlib
import ctypes
import sys
from pathlib import Path

import psutil

MIB = 2**20
_GROUPS = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Memory that this process may still take [bytes]: what is free, or the limit of its control group if that is less."""
    return min([psutil.virtual_memory().available, *_group_limits()])


def resident_memory() -> int:
    """Memory that this process holds [bytes], without files that are mapped, which the system takes back when it needs room."""
    info = psutil.Process().memory_info()
    return info.rss - getattr(info, "shared", 0)  # only Linux tells them apart


def peak_memory() -> int:
    """The most memory that this process has held so far [bytes]."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def give_back_memory() -> None:
    """Has glibc return to the system what this process has freed; elsewhere nothing.

    It keeps most of that for each thread apart, and threads that compile, read and save come to hold more and more.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library, or none that can be opened so
        ctypes.CDLL(None).malloc_trim(0)


def _group_limits() -> list[int]:
    """The limits [bytes] that containers and schedulers set on Linux, in version 2 or 1 of control groups."""
    limits = []
    for line in _GROUPS.read_text().splitlines() if _GROUPS.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root, name = (_ROOT / "memory", "memory.limit_in_bytes") if controllers else (_ROOT, "memory.max")
        folder = root / path.lstrip("/")
        for place in (folder, *(parent for parent in folder.parents if parent.is_relative_to(root))):
            text = (place / name).read_text().strip() if (place / name).is_file() else ""
            limits += [int(text)] if text.isdigit() else []  # "max" is none
    return limits
