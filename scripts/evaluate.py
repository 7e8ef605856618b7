"""`dreamer evaluate` without its console command: `python scripts/evaluate.py --help` says what it does."""

import sys

from dreamer_jax.cli.main import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
