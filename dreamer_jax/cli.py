"""The command line of the scripts: options into a configuration, errors into one line."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import tyro

from dreamer_jax.core.config import DEFAULT_PRESET, Config
from dreamer_jax.core.errors import CheckpointError, ConfigError, EnvError, ReplayError
from dreamer_jax.core.options import parse_arguments
from dreamer_jax.core.presets import load_config, preset_names
from dreamer_jax.runs.folder import UNUSABLE_CHECKPOINT

USAGE = """Trains a Dreamer agent.

  train.py [--preset NAME] [--FIELD VALUE ...]   a new run
  train.py ... --seeds N                         N independent agents at once: seeds SEED to SEED + N - 1, a run folder each
  train.py ... --dry-run                         prints sizes, budget and memory of such a run, and trains nothing
  train.py --resume RUN [RUN ...]                goes on with a run, or with runs of --seeds, from the last checkpoint

The values below are those of the chosen preset. Presets: {presets}"""


class Request(NamedTuple):
    """What train.py is asked for: new runs of `seeds` seeds, a dry run of them, or the resumption of `runs`."""

    config: Config
    seeds: int = 1
    runs: tuple[Path, ...] = ()
    dry: bool = False


def training_request(arguments: Sequence[str]) -> Request:
    """Reads the command line of train.py. `--help` prints and exits."""
    # "--resume=RUN" and "--resume RUN" are the same, as for every other option.
    own = ("--resume=", "--seeds=")
    arguments = [part for word in arguments for part in (word.split("=", 1) if word.startswith(own) else (word,))]
    if "--resume" in arguments:
        _, *runs = arguments
        if arguments[0] != "--resume" or not runs or any(run.startswith("--") for run in runs):
            raise ConfigError("--resume RUN [RUN ...] takes no other option: a resumed run keeps its own configuration")
        return Request(Config(), runs=tuple(map(Path, runs)))
    seeds, arguments = _take_seeds(arguments)
    wants_help = [word for word in arguments if word in ("-h", "--help")]
    dry = "--dry-run" in arguments
    overrides = parse_arguments([word for word in arguments if word not in (*wants_help, "--dry-run")])
    config = load_config(overrides.pop("preset", DEFAULT_PRESET), overrides)
    if wants_help:
        # tyro renders the help; the values were already checked above, with one-line errors.
        description = USAGE.format(presets=", ".join(preset_names()))
        spelled_as_read = {"use_underscores": True, "config": (tyro.conf.FlagConversionOff,)}
        tyro.cli(Config, default=config, args=["--help"], prog="train.py", description=description, **spelled_as_read)
    return Request(config, seeds=seeds, dry=dry)


def _take_seeds(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Takes "--seeds N" out of a command line -> N (1 if it is not there), the rest."""
    if "--seeds" not in arguments:
        return 1, list(arguments)
    at = arguments.index("--seeds")
    value = arguments[at + 1] if at + 1 < len(arguments) else "nothing"
    if not value.isdecimal() or len(value) > 9 or int(value) < 1:
        raise ConfigError(f"--seeds {value}: a number of agents was expected, at least 1")
    return int(value), [*arguments[:at], *arguments[at + 2 :]]


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
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def run_command(main: Callable[[list[str]], None], arguments: Sequence[str]) -> None:
    """Runs a script's main; what the user did wrong becomes one line on stderr and exit status 2, 3 for a checkpoint."""
    try:
        main(list(arguments))
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(UNUSABLE_CHECKPOINT)
    except (ConfigError, EnvError, ReplayError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
