"""The command `dreamer_jax.cli.benchmark`: `python scripts/benchmark.py --help` says what it does."""

import sys

from dreamer_jax.cli.benchmark import main
from dreamer_jax.cli.command import run_command

if __name__ == "__main__":
    run_command(main, sys.argv[1:])
