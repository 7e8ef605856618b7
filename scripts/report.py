"""The command `dreamer_jax.cli.report`: `python scripts/report.py --help` says what it does."""

import sys

from dreamer_jax.cli.command import run_command
from dreamer_jax.cli.report import main

if __name__ == "__main__":
    run_command(main, sys.argv[1:])
