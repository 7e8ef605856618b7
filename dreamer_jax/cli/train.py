"""Trains an agent, or goes on with one. `--help` lists every option."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tyro

from dreamer_jax.core.config import DEFAULT_PRESET, Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.options import parse_arguments
from dreamer_jax.core.presets import load_config, preset_names

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


def main(arguments: Sequence[str]) -> None:
    """Trains what a command line asks for."""
    request = training_request(arguments)
    from dreamer_jax.agent.devices import keep_compiled_programs
    from dreamer_jax.training import start

    keep_compiled_programs()
    if request.runs:
        start.resume_seeds(request.runs)
    elif request.dry:
        print(start.describe(request.config, request.seeds))
    else:
        start.train_seeds(request.config, request.seeds)
