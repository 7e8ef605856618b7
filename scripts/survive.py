"""Kills a small run again and again, and checks that it ends as if nothing had happened: `python scripts/survive.py`.

A table of what it found is in `docs/reliability.md`.
"""

import argparse
import sys
from pathlib import Path

from dreamer_jax.cli import run_command


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="SIGKILLs; SIGTERM, SIGINT and a full disk come with each ten")
    parser.add_argument("--frames", type=int, default=20_000, help="length of the run [simulator steps]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--output", type=Path, default=Path("survival"), help="new folder for the runs and what they print")
    options = parser.parse_args(arguments)

    from dreamer_jax import survival
    from dreamer_jax.core.errors import ConfigError

    if options.output.exists():
        raise ConfigError(f"--output {options.output} exists; give a folder that does not")
    planned = survival.ends(options.kills, options.seed)
    lives, problems = survival.survive(options.output, planned, options.frames, lambda line: print(line, flush=True))
    print(f"{len(lives)} lives; {'; '.join(problems) or 'rows, agent and evaluation are those of the run in one go'}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
