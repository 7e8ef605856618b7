"""Plays episodes with a trained agent, and writes JSON and a video into the run's folder."""

import argparse
from collections.abc import Sequence

from dreamer_jax.cli.parser import CommandParser, absolute_path, whole_number


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = CommandParser("evaluate", __doc__)
    parser.add_argument("run", type=absolute_path, metavar="RUN", help="run folder that `dreamer train` wrote")
    checkpoint = "last, best (by evaluation) or the frames of one that was kept"
    parser.add_argument("--checkpoint", default="last", help=checkpoint)
    parser.add_argument("--episodes", type=whole_number(1), default=100, help="fresh episodes to play [count]")
    parser.add_argument("--deterministic", action="store_true", help="most likely action instead of a sampled one")
    parser.add_argument("--planner", action="store_true", help="plan in the world model (CEM) instead of asking the actor")
    parser.add_argument("--seed", type=whole_number(), default=0, help="seed of environments and sampling")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu", "tpu"), help="where the policy runs; by default as the run")
    parser.add_argument("--video", action=argparse.BooleanOptionalAction, default=True, help="write a video of one episode")
    options = parser.read(arguments)

    from dreamer_jax.agent.compiled import keep_compiled_programs
    from dreamer_jax.play.evaluate import evaluate_run

    keep_compiled_programs()
    evaluate_run(
        options.run,
        checkpoint=options.checkpoint,
        episodes=options.episodes,
        deterministic=options.deterministic,
        seed=options.seed,
        device=options.device,
        video=options.video,
        planner=options.planner,
    )
