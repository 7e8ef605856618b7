"""Plays episodes with a trained agent and writes JSON and video: `python scripts/evaluate.py RUN --episodes 100`."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder that train.py wrote")
    parser.add_argument("--checkpoint", default="last", help="last, best (by evaluation) or the frames of one that was kept")
    parser.add_argument("--episodes", type=int, default=100, help="fresh episodes to play [count]")
    parser.add_argument("--deterministic", action="store_true", help="most likely action instead of a sampled one")
    parser.add_argument("--planner", action="store_true", help="plan in the world model (CEM) instead of asking the actor")
    parser.add_argument("--seed", type=int, default=0, help="seed of environments and sampling")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu", "tpu"), help="where the policy runs; default: as the run")
    parser.add_argument("--video", action=argparse.BooleanOptionalAction, default=True, help="write a video of one episode")
    options = parser.parse_args(arguments)

    from dreamer_jax.play.evaluate import evaluate_run

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
