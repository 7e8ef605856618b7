"""Stands in for `dreamer train`: the same command line and run folders, and every number known beforehand.

STUB in the environment is JSON {"<task> <seed>": what to do}: "crash", "refuse", "kill", "cut off" (a checkpoint at half of
the run, then the end) or "wait" (until a signal comes, then as "cut off"). Without a word a run goes to its end. Each call adds
a line "<task> <seed> [<seed> ...] new|resume" to the file that CALLS names. Of several seeds each does what it is told.

A run of seed s has an episode every 10 frames that returns its end frame + s; its evaluation returns 100 + s and 50 + s.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from dreamer_jax.cli.command import run_command
from dreamer_jax.cli.train import training_request
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import CheckpointError
from dreamer_jax.core.files import write_json
from dreamer_jax.runs.folder import create_run, describe_environment, open_run
from dreamer_jax.runs.metrics import MetricsLog, truncate

stopped = []


def main(arguments: list[str]) -> None:
    request = training_request(arguments)
    runs = request.resume or []
    configs = [open_run(run) for run in runs]
    configs = configs or [request.config.model_copy(update={"seed": request.config.seed + i}) for i in range(request.seeds)]
    seeds = " ".join(str(config.seed) for config in configs)
    with Path(os.environ["CALLS"]).open("a") as calls:
        calls.write(f"{configs[0].env.task} {seeds} {'resume' if runs else 'new'}\n")
    for i, config in enumerate(configs):
        train(config, runs[i] if runs else None)


def train(config: Config, folder: Path | None) -> None:
    """What becomes of one run; `folder` is None for a new one."""
    key = f"{config.env.task} {config.seed}"
    order = json.loads(os.environ.get("STUB", "{}")).get(key)
    if order == "refuse":
        raise CheckpointError("checkpoint 60 is damaged") if folder else ValueError("refused")
    print(f"training {key}")
    if order == "wait":
        signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
        signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    run = folder or create_run(config)
    if order == "crash":
        print("a warning", file=sys.stderr)
        raise RuntimeError("out of luck")
    if order == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    begin = max((int(path.name) for path in (run / "checkpoints").glob("*")), default=0)
    end = config.train.frames // 2 if order in ("cut off", "wait") else config.train.frames
    write_json(run / "environment.json", describe_environment("stub"))
    truncate(run, begin)
    log = MetricsLog(run, resume=folder is not None)
    for frames in range(begin + 10, end + 1, 10):
        counters = {"frames": frames, "decisions": frames // 2, "updates": frames // 4, "wall_seconds": float(frames)}
        log.write({"kind": "episode", **counters, "return": float(frames + config.seed)})
    (run / "checkpoints" / str(end)).mkdir(parents=True, exist_ok=True)
    if order == "wait":
        os.kill(os.getppid(), getattr(signal, os.environ["SIGNAL"]))
        while not stopped:
            time.sleep(0.01)
    if end == config.train.frames:
        scores = {"return_std": 2.0, "return_min": 0.0, "return_max": 200.0, "episodes": 3}
        evaluation = {
            name: {"return_mean": mean + config.seed, **scores} for name, mean in (("deterministic", 100.0), ("sampled", 50.0))
        }
        write_json(run / "evaluation.json", {**counters, **evaluation})


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
