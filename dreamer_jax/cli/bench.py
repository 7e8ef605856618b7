"""Times the compiled step, its parts, acting, the replay and the whole loop of a preset on this machine."""

from collections.abc import Sequence

from dreamer_jax.cli.parser import CommandParser, absolute_path, whole_number
from dreamer_jax.core.presets import load_config


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = CommandParser("bench", __doc__)
    parser.add_run_options()
    parser.add_argument("--calls", type=whole_number(1), default=20, help="timed calls of each part, after a warm-up [count]")
    parser.add_argument(
        "--updates", type=whole_number(), default=100, help="updates of the whole loop; 0: leave it out [count]"
    )
    parser.add_argument("--output", type=absolute_path, help="file for the numbers as JSON")
    options = parser.read(arguments)
    config = load_config(options.preset, options.overrides)

    from dreamer_jax.core.files import make_folder, write_json
    from dreamer_jax.profiling import parts, parts_report

    if options.output:
        make_folder(options.output.parent)  # before the measurements: a mistake here would lose them
    shown = 0
    for result in parts.report(config, options.calls, options.updates, ["dreamer", "bench", *arguments]):
        lines = parts_report.table(result).splitlines()
        print("\n".join(lines[shown:]), flush=True)
        shown = len(lines)
        if options.output:
            write_json(options.output, result)
    if options.output:
        print(f"wrote {options.output}")
