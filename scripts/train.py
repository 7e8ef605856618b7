"""`dreamer train` without its console command: `python scripts/train.py --help` says what it does."""

import sys

from dreamer_jax.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
