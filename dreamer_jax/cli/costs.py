"""Measures what an update costs against batch size, sequence length, horizon, model size and number of seeds.

dreamer costs --preset NAME [--FIELD VALUE ...] --output FOLDER     writes numbers, table and figure
"""

from collections.abc import Sequence

from dreamer_jax.cli.parser import CommandParser, absolute_path, whole_number


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = CommandParser("costs", __doc__)
    parser.add_run_options(default=None)
    parser.add_argument("--calls", type=whole_number(1), default=5, help="timed calls of each point, after a warm-up [count]")
    parser.add_argument("--output", type=absolute_path, required=True, help="folder for numbers, table and figure")
    options = parser.read(arguments)

    from dreamer_jax.core.files import make_folder, write_json, write_text
    from dreamer_jax.profiling import costs

    command = ["dreamer", "costs", *arguments]
    make_folder(options.output)  # before the measurements: a mistake here would lose them
    curves, rows = costs.measure_curves(options.preset, options.overrides, options.calls, command), []
    about = next(curves)
    for row in curves:
        rows.append(row)
        print(costs.table([row]).splitlines()[-1], flush=True)
    write_json(options.output / "cost_curves.json", {**about, "rows": rows})
    write_text(options.output / "cost_curves.md", costs.table(rows) + "\n")
    costs.draw(rows, options.output / "cost_curves.png", f"{options.preset} on {about['device']}")
    print(f"wrote {options.output / 'cost_curves.json'}, .md and .png")
