"""Trains a Dreamer agent, or goes on with one.

dreamer train [--preset NAME] [--FIELD VALUE ...]             a new run
dreamer train ... --seeds N                                   N independent agents at once, a run folder each
dreamer train ... --dry-run                                   prints what such a run needs, and trains nothing
dreamer train --resume RUN [RUN ...] [--FIELD VALUE ...]      goes on with a run, or with runs of --seeds
"""

import argparse
import sys
from collections.abc import Sequence

from dreamer_jax.cli.parser import CommandParser, absolute_path, whole_number
from dreamer_jax.core.errors import STOPPED, ConfigError
from dreamer_jax.core.presets import load_config
from dreamer_jax.runs.status import read_status

MOST_SEEDS = 1024  # each has a run folder, environments and a replay


def training_request(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line of `dreamer train`. `--help` prints and exits.

    Returns:
      resume: folders of runs to go on with under `overrides`, {dotted name: text}; None for new runs.
      config, seeds, dry_run: the configuration and the number of new runs, and whether they are only described. `config` is
        None with `resume`.

    Raises:
      ConfigError: an option that cannot be used, or that does not go with `--resume`.
    """
    parser = CommandParser("train", __doc__)
    parser.add_run_options()
    seeds = "independent agents, with the seeds SEED, SEED + 1, ..., trained together in one compiled step [count]"
    parser.add_argument("--seeds", type=whole_number(1, MOST_SEEDS), default=1, metavar="N", help=seeds)
    parser.add_argument("--dry-run", action="store_true", help="print sizes, budget and memory, and train nothing")
    resume = "go on from the last checkpoint of a run, or of several that were started together; other options change it"
    parser.add_argument("--resume", type=absolute_path, nargs="+", metavar="RUN", help=resume)
    options = parser.read(arguments)
    if options.resume is None:
        options.config = load_config(options.preset, options.overrides)
        return options
    for name in ("preset", "seeds", "dry_run"):
        if name in options.given:
            fixed = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{fixed} does not go with --resume RUN [RUN ...], whose runs have their configuration; leave it out"
            )
    options.config = None
    return options


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    request = training_request(arguments)
    from dreamer_jax.agent.compiled import keep_compiled_programs
    from dreamer_jax.training import start

    keep_compiled_programs()
    if request.dry_run:
        print(start.describe(request.config, request.seeds))
        return
    if request.resume:
        folders = start.resume_seeds(request.resume, request.overrides)
    else:
        folders = start.train_seeds(request.config, request.seeds)
    if read_status(folders[0])["reason"] in ("SIGTERM", "SIGUSR1"):
        sys.exit(STOPPED)
