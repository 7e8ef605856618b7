"""`dreamer bench` without its console command: `python scripts/bench_speed.py --help` says what it does."""

import sys

from dreamer_jax.cli.main import main

if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
