"""`dreamer costs` without its console command: `python scripts/cost_curves.py --help` says what it does."""

import sys

from dreamer_jax.cli.main import main

if __name__ == "__main__":
    main(["costs", *sys.argv[1:]])
