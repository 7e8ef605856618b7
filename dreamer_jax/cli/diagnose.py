"""Compares a run's imagination with its environment, and asks "what if".

From held-out states the same actions are taken in the model and in the environment: errors of reward and of the episode's end
for each step, drift of the latent, error of the critic. From one state other actions are tried in both.
"""

from collections.abc import Sequence

from dreamer_jax.cli.parser import CommandParser, absolute_path, whole_number


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = CommandParser("diagnose", __doc__)
    parser.add_argument("run", type=absolute_path, metavar="RUN", help="run folder that `dreamer train` wrote")
    checkpoint = "last, best (by evaluation) or the frames of one that was kept"
    parser.add_argument("--checkpoint", default="last", help=checkpoint)
    episodes = "episodes with the agent's actions, and as many with random ones [count]"
    parser.add_argument("--episodes", type=whole_number(1), default=20, help=episodes)
    parser.add_argument("--starts", type=whole_number(1), default=200, help="states to imagine from [count]")
    parser.add_argument("--horizon", type=whole_number(1), default=50, help="steps to imagine [decisions]")
    parser.add_argument("--seed", type=whole_number(), default=0, help="seed of environments and sampling")
    parser.add_argument("--output", type=absolute_path, help="folder for numbers and figures; by default RUN/diagnosis")
    options = parser.read(arguments)

    from dreamer_jax.agent.compiled import keep_compiled_programs
    from dreamer_jax.analysis import imagination

    keep_compiled_programs()
    output = options.output or options.run / "diagnosis"
    imagination.diagnose(
        options.run, options.checkpoint, options.episodes, options.starts, options.horizon, options.seed, output
    )
