"""Compares a run's imagination with its environment, and asks "what if": `python scripts/diagnose.py RUN`.

From held-out states the same actions are taken in the model and in the environment: errors of reward and of the episode's end
for each step, drift of the latent, error of the critic. From one state other actions are tried in both.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder that train.py wrote")
    parser.add_argument("--checkpoint", default="last", help="last, best (by evaluation) or the frames of one that was kept")
    parser.add_argument(
        "--episodes", type=int, default=20, help="episodes with the agent's actions, and as many with random ones"
    )
    parser.add_argument("--starts", type=int, default=200, help="states to imagine from [count]")
    parser.add_argument("--horizon", type=int, default=50, help="steps to imagine [decisions]")
    parser.add_argument("--seed", type=int, default=0, help="seed of environments and sampling")
    parser.add_argument("--output", type=Path, help="folder for numbers and figures; default: RUN/diagnosis")
    options = parser.parse_args(arguments)

    from dreamer_jax.analysis import imagination

    output = options.output or options.run / "diagnosis"
    imagination.diagnose(
        options.run, options.checkpoint, options.episodes, options.starts, options.horizon, options.seed, output
    )
