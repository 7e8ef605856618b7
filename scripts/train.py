"""Trains an agent. `python scripts/train.py --help` lists every option."""

import sys

from dreamer_jax.cli import run_command, tune_malloc


def main(arguments: list[str]) -> None:
    from dreamer_jax.cli import training_request

    request = training_request(arguments)
    from dreamer_jax.agent.devices import keep_compiled_programs
    from dreamer_jax.training.loop import start

    keep_compiled_programs()
    if request.runs:
        start.resume_seeds(request.runs)
    elif request.dry:
        print(start.describe(request.config, request.seeds))
    else:
        start.train_seeds(request.config, request.seeds)


if __name__ == "__main__":
    tune_malloc()
    run_command(main, sys.argv[1:])
