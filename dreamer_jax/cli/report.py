"""Compares runs with each other and with published results; without --output it only prints a table."""

import sys
from collections.abc import Sequence

from dreamer_jax.cli.parser import CommandParser, absolute_path
from dreamer_jax.report.aggregates import require_rliable
from dreamer_jax.report.summary import find_runs, read_runs, runs_table, summarise


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = CommandParser("report", __doc__)
    runs = "run folders that `dreamer train` wrote, or folders of runs"
    parser.add_argument("runs", type=absolute_path, nargs="+", metavar="RUN", help=runs)
    parser.add_argument("--output", type=absolute_path, help="folder for report.html, its figures and one JSON summary a run")
    parser.add_argument("--threshold", type=float, help="return that counts as solved; adds the column 'solved at' [return]")
    options = parser.read(arguments)
    if options.output:
        require_rliable()
    runs, damaged = read_runs(find_runs(options.runs))
    print(runs_table([summarise(run, options.threshold) for run in runs]))
    for path, problem in damaged:
        print(f"left out: {path}: {problem}", file=sys.stderr)
    if options.output:
        from dreamer_jax.report.page import write_report

        print(f"wrote {write_report(runs, damaged, options.output, options.threshold)}")
