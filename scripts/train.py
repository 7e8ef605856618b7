"""Trains an agent. `python scripts/train.py --help` lists every option."""

import sys

from dreamer_jax.cli import run_command


def main(arguments: list[str]) -> None:
    from dreamer_jax.cli import training_request

    config, run = training_request(arguments)
    from dreamer_jax import loop

    if run is None:
        loop.train(config)
    else:
        loop.resume(run)


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
