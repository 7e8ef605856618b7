"""The command `dreamer_jax.cli.bench`: `python scripts/bench_speed.py --help` says what it does."""

import sys

from dreamer_jax.cli.bench import main
from dreamer_jax.cli.command import run_command, tune_malloc

if __name__ == "__main__":
    tune_malloc()
    run_command(main, sys.argv[1:])
