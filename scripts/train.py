"""Trains an agent. `python scripts/train.py --help` lists every option."""

import sys

from dreamer_jax.cli import run_command, tune_malloc


def main(arguments: list[str]) -> None:
    from dreamer_jax.cli import training_request

    request = training_request(arguments)
    from dreamer_jax import loop
    from dreamer_jax.agent.devices import keep_compiled_programs

    keep_compiled_programs()
    if request.runs:
        loop.resume_seeds(request.runs)
    elif request.dry:
        print(loop.describe(request.config, request.seeds))
    else:
        loop.train_seeds(request.config, request.seeds)


if __name__ == "__main__":
    tune_malloc()
    run_command(main, sys.argv[1:])
