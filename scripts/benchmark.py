"""`dreamer benchmark` without its console command: `python scripts/benchmark.py --help` says what it does."""

import sys

from dreamer_jax.cli.main import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])
