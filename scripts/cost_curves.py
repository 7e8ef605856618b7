"""The command `dreamer_jax.cli.costs`: `python scripts/cost_curves.py --help` says what it does."""

import sys

from dreamer_jax.cli.command import run_command, tune_malloc
from dreamer_jax.cli.costs import main

if __name__ == "__main__":
    tune_malloc()
    run_command(main, sys.argv[1:])
