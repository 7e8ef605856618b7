"""What all commands share: errors of the user in one line, and a process tuned for a long run."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from tqdm import tqdm

from dreamer_jax.core.errors import UNUSABLE_CHECKPOINT, CheckpointError, DreamerError


def tune_malloc() -> None:
    """Starts this process again, once, with glibc's malloc as a long run on a CPU wants it (Linux; elsewhere nothing).

    Pages of 2 MiB from the system: an update takes and returns large temporaries, and with pages of 4 KiB a quarter of its time
    on a CPU goes into mapping them. Four arenas, where by default there may be eight for each core: threads that come and go,
    as those of a checkpoint, leave pieces in more and more of them. glibc reads both when a process starts, so they cannot be
    set later. A GLIBC_TUNABLES of the user's own is kept.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ or not sys.executable:
        return
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=4"
    if sys.stdout is not None:
        sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def prepare_streams() -> None:
    """Lets everything be printed: what a terminal's encoding lacks as an escape, and nothing where a stream is closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever has started this process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # for as long as the process lasts
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class _Terminal(logging.Handler):
    """Writes bare messages to stdout, above a progress bar that is there."""

    def emit(self, record: logging.LogRecord) -> None:
        # Closed, a pipe that nobody reads any more, or replaced by something simpler: not worth a training.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()  # a pipe would keep them back


@contextlib.contextmanager
def messages_on_stdout() -> Iterator[None]:
    """While a command runs, what the package logs for its user is printed: the level INFO and above, each message once."""
    logger, handler = logging.getLogger("dreamer_jax"), _Terminal()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # libraries install handlers of their own at the root
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def run_command(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> None:
    """Runs a command; what the user did wrong becomes one line on stderr.

    Exit status: 2 for an error of the user's or the disk's, 3 for an unusable checkpoint, 130 after Ctrl-C, and 75 for a
    training that SIGTERM or SIGUSR1 has stopped.
    """
    prepare_streams()
    try:
        with messages_on_stdout():
            main(arguments)
    except DreamerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(UNUSABLE_CHECKPOINT if isinstance(error, CheckpointError) else 2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
