"""Trains a suite of tasks over several seeds, one run after another; the same command goes on where it was stopped.

dreamer benchmark --suite dreamer6 --seeds 3 --preset dmc_proprio_cpu --output benchmarks/NAME [--FIELD VALUE ...]
"""

import sys
from collections.abc import Sequence

from dreamer_jax.benchmark.runner import run_benchmark
from dreamer_jax.benchmark.suites import OWNED, SUITES, listing, make_plan, overview, read_runs
from dreamer_jax.cli.parser import CommandParser, absolute_path, whole_number


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = CommandParser("benchmark", __doc__)
    parser.add_run_options(default=None, decided=OWNED)
    suite = f"{', '.join(SUITES)}, or a list such as dmc:walker_walk,gym:CartPole-v1"
    parser.add_argument("--suite", required=True, help=suite)
    parser.add_argument("--seeds", type=whole_number(1), default=1, help="runs of each task, from seed 0 on [count]")
    together = "train a task's seeds side by side in one process: for accelerators, where they take little longer than one"
    parser.add_argument("--together", action="store_true", help=together)
    parser.add_argument(
        "--output", type=absolute_path, required=True, help="the benchmark's folder; what is finished there is kept"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the runs, their state and the budget, and run nothing")
    options = parser.read(arguments)
    plan = make_plan(options.suite, options.seeds, options.preset, options.overrides, options.output, options.together)
    if options.dry_run:
        runs = read_runs(plan)
        print(listing(runs), overview(plan, runs), sep="\n")
    else:
        sys.exit(run_benchmark(plan))
