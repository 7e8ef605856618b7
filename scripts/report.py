"""Prints a table of finished runs: `python scripts/report.py RUN [RUN ...] --threshold 475`."""

import argparse
import sys
from pathlib import Path

from dreamer_jax.cli import run_command


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders that train.py wrote")
    parser.add_argument("--threshold", type=float, required=True, help="return that counts as solved [return]")
    parser.add_argument("--output", type=Path, help="folder for one JSON summary a run")
    options = parser.parse_args(arguments)

    from dreamer_jax.report import markdown_table, summarise
    from dreamer_jax.runs import write_json

    summaries = sorted((summarise(run, options.threshold) for run in options.runs), key=lambda row: (row["task"], row["seed"]))
    print(markdown_table(summaries))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        for summary in summaries:
            write_json(options.output / f"seed{summary['seed']}.json", summary)


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
