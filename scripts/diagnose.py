"""`dreamer diagnose` without its console command: `python scripts/diagnose.py --help` says what it does."""

import sys

from dreamer_jax.cli.main import main

if __name__ == "__main__":
    main(["diagnose", *sys.argv[1:]])
