"""Trains a suite of tasks over several seeds, one run after another; the same command goes on where it was stopped.

`python scripts/benchmark.py --suite dreamer6 --seeds 3 --preset dmc_proprio_cpu --output benchmarks/NAME`. All other options
are changes of the preset, as `train.py --help` lists them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    suite = "dmc_proprio, dmc_vision, dreamer6, or a list such as dmc:walker_walk,gym:CartPole-v1"
    parser.add_argument("--suite", required=True, help=suite)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each task, from seed 0 on [count]")
    together = "train a task's seeds side by side in one process: for accelerators, where they take little longer than one"
    parser.add_argument("--together", action="store_true", help=together)
    parser.add_argument("--preset", required=True, help="settings of all runs")
    parser.add_argument("--output", type=Path, required=True, help="the benchmark's folder; what is finished there is kept")
    parser.add_argument("--dry-run", action="store_true", help="list the runs, their state and the budget, and run nothing")
    options, overrides = parser.parse_known_args(arguments)

    from dreamer_jax.benchmark.runner import run_benchmark
    from dreamer_jax.benchmark.suites import listing, make_plan, overview, read_runs
    from dreamer_jax.core.options import parse_arguments

    changes = parse_arguments(overrides)
    plan = make_plan(options.suite, options.seeds, options.preset, changes, options.output, options.together)
    if options.dry_run:
        runs = read_runs(plan)
        print(listing(runs), overview(plan, runs), sep="\n")
    else:
        sys.exit(run_benchmark(plan))
