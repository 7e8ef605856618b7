"""Trains an agent. `python scripts/train.py --help` lists every option."""

import sys

from dreamer_jax.cli import run_command, use_huge_pages


def main(arguments: list[str]) -> None:
    from dreamer_jax.cli import training_request

    request = training_request(arguments)
    from dreamer_jax import loop

    if request.run is not None:
        loop.resume(request.run)
    elif request.dry:
        print(loop.describe(request.config))
    else:
        loop.train(request.config)


if __name__ == "__main__":
    use_huge_pages()
    run_command(main, sys.argv[1:])
