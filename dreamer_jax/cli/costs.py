"""Measures what an update costs against batch size, sequence length, horizon, model size and number of seeds.

`python scripts/cost_curves.py --preset NAME [--FIELD VALUE ...] [--calls N] --output FOLDER` writes numbers, table and figure.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--preset", required=True, help="settings of the point that lies on every axis")
    parser.add_argument("--calls", type=int, default=5, help="timed calls of each point, after a warm-up [count]")
    parser.add_argument("--output", type=Path, required=True, help="folder for numbers, table and figure")
    options, rest = parser.parse_known_args(arguments)

    from dreamer_jax.core.files import make_folder, write_json, write_text
    from dreamer_jax.core.options import parse_arguments
    from dreamer_jax.profiling import costs

    command = ["scripts/cost_curves.py", *arguments]
    make_folder(options.output)  # before the measurements: a mistake here would lose them
    curves, rows = costs.measure_curves(options.preset, parse_arguments(rest), options.calls, command), []
    about = next(curves)
    for row in curves:
        rows.append(row)
        print(costs.table([row]).splitlines()[-1], flush=True)
    write_json(options.output / "cost_curves.json", {**about, "rows": rows})
    write_text(options.output / "cost_curves.md", costs.table(rows) + "\n")
    costs.draw(rows, options.output / "cost_curves.png", f"{options.preset} on {about['device']}")
    print(f"wrote {options.output / 'cost_curves.json'}, .md and .png")
