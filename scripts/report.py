"""`dreamer report` without its console command: `python scripts/report.py --help` says what it does."""

import sys

from dreamer_jax.cli.main import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
