"""Studies with a figure and a table each: `python scripts/study.py horizon --output FOLDER`, or `ppo RUN [RUN ...]`.

horizon  trains agents that imagine 15 and 50 steps, and compares returns and the error of their critics
ppo      trains PPO (pip install -e ".[ppo]") on the task of finished runs, and compares returns over environment steps
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    kinds = parser.add_subparsers(dest="study", required=True)
    horizon = kinds.add_parser("horizon", help="imagined steps; other options change the preset", allow_abbrev=False)
    horizon.add_argument("--preset", default="cartpole", help="settings of all runs")
    horizon.add_argument("--horizons", type=int, nargs="+", default=[15, 50], help="imagined steps H of each group [decisions]")
    horizon.add_argument("--seeds", type=int, default=3, help="runs of each group, from seed 0 on [count]")
    ppo = kinds.add_parser("ppo", help="PPO of Stable-Baselines3 beside finished runs", allow_abbrev=False)
    ppo.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders that train.py wrote, or folders of runs")
    ppo.add_argument("--seeds", type=int, default=5, help="runs of PPO, from seed 0 on [count]")
    ppo.add_argument("--steps", type=int, default=200_000, help="length of a run of PPO [environment steps]")
    for kind in (horizon, ppo):
        kind.add_argument("--threshold", type=float, default=475.0, help="return that counts as solved [return]")
        kind.add_argument("--output", type=Path, required=True, help="folder for runs, figure and table")
    options, rest = parser.parse_known_args(arguments)

    from dreamer_jax.analysis import studies
    from dreamer_jax.core.options import parse_arguments

    overrides = parse_arguments(rest)
    if options.study == "horizon":
        sys.exit(
            studies.study_horizon(options.preset, options.horizons, options.seeds, options.threshold, overrides, options.output)
        )
    if rest:
        parser.error(f"unknown options {' '.join(rest)}")
    studies.study_ppo(options.runs, options.seeds, options.steps, options.threshold, options.output)
