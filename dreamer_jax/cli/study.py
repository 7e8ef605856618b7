"""Studies over several runs, with a figure and a table each."""

import sys
from collections.abc import Sequence

from dreamer_jax.cli.parser import CommandParser, absolute_path, choose, whole_number

STUDIES = {
    "horizon": "agents that imagine 15 and 50 steps: their returns, and the error of their critics",
    "ppo": 'PPO (pip install "dreamer_jax[ppo]") on the task of finished runs: returns over environment steps',
}
DECIDED = ("seed", "runs", "behavior.imagination_horizon")  # by --seeds, --output and --horizons


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    study, rest = choose("dreamer study", __doc__ or "", STUDIES, arguments)
    {"horizon": _horizon, "ppo": _ppo}[study](rest)


def _horizon(arguments: Sequence[str]) -> None:
    parser = CommandParser("study horizon", "Trains agents that imagine different numbers of steps, and compares them.")
    parser.add_run_options(decided=DECIDED)
    horizons = "imagined steps H of each group [decisions]"
    parser.add_argument("--horizons", type=whole_number(1), nargs="+", default=[15, 50], metavar="H", help=horizons)
    parser.add_argument("--seeds", type=whole_number(1), default=3, help="runs of each group, from seed 0 on [count]")
    _add_common(parser)
    options = parser.read(arguments)

    from dreamer_jax.agent.compiled import keep_compiled_programs
    from dreamer_jax.analysis.studies import study_horizon

    keep_compiled_programs()  # its runs are diagnosed here
    sys.exit(
        study_horizon(options.preset, options.horizons, options.seeds, options.threshold, options.overrides, options.output)
    )


def _ppo(arguments: Sequence[str]) -> None:
    parser = CommandParser("study ppo", "Trains PPO of Stable-Baselines3 on the task of finished runs, and compares both.")
    runs = "run folders that `dreamer train` wrote, or folders of runs"
    parser.add_argument("runs", type=absolute_path, nargs="+", metavar="RUN", help=runs)
    parser.add_argument("--seeds", type=whole_number(1), default=5, help="runs of PPO, from seed 0 on [count]")
    parser.add_argument("--steps", type=whole_number(1), default=200_000, help="length of a run of PPO [environment steps]")
    _add_common(parser)
    options = parser.read(arguments)

    from dreamer_jax.analysis.studies import study_ppo

    study_ppo(options.runs, options.seeds, options.steps, options.threshold, options.output)


def _add_common(parser: CommandParser) -> None:
    parser.add_argument("--threshold", type=float, default=475.0, help="return that counts as solved [return]")
    parser.add_argument("--output", type=absolute_path, required=True, help="folder for runs, figure and table")
