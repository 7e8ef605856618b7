"""The command `dreamer_jax.cli.train`: `python scripts/train.py --help` lists every option."""

import sys

from dreamer_jax.cli.command import run_command, tune_malloc
from dreamer_jax.cli.train import main

if __name__ == "__main__":
    tune_malloc()
    run_command(main, sys.argv[1:])
