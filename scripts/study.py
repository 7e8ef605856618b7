"""`dreamer study` without its console command: `python scripts/study.py --help` says what it does."""

import sys

from dreamer_jax.cli.main import main

if __name__ == "__main__":
    main(["study", *sys.argv[1:]])
