"""Times the compiled step, its parts, acting, the replay and the whole loop of a preset on this machine.

`python scripts/bench_speed.py [--preset NAME] [--FIELD VALUE ...] [--calls N] [--output FILE.json]`
"""

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--calls", type=int, default=20, help="timed calls of each part, after a warm-up [count]")
    parser.add_argument("--updates", type=int, default=100, help="updates of the whole loop; 0 leaves it out [count]")
    parser.add_argument("--output", type=Path, help="file for the numbers as JSON")
    options, rest = parser.parse_known_args(arguments)

    from dreamer_jax.core.config import DEFAULT_PRESET
    from dreamer_jax.core.options import parse_arguments
    from dreamer_jax.core.presets import load_config

    overrides = parse_arguments(rest)
    config = load_config(overrides.pop("preset", DEFAULT_PRESET), overrides)

    from dreamer_jax.core.files import make_folder, write_json
    from dreamer_jax.profiling import parts, parts_report

    if options.output:
        make_folder(options.output.parent)  # before the measurements: a mistake here would lose them
    shown = 0
    for result in parts.report(config, options.calls, options.updates, ["scripts/bench_speed.py", *arguments]):
        lines = parts_report.table(result).splitlines()
        print("\n".join(lines[shown:]), flush=True)
        shown = len(lines)
        if options.output:
            write_json(options.output, result)
    if options.output:
        print(f"wrote {options.output}")
