"""From run folders to tables: what each run reached, after how many steps, in what time. Imports no JAX."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.config import ConfigError
from dreamer_jax.metrics import FILE_NAME, RETURN_WINDOW, read_metrics
from dreamer_jax.runs import open_run

COLUMNS = ("task", "preset", "seed", "frames", "updates", "solved at", "deterministic", "sampled", "minutes", "device")


def summarise(run: Path, threshold: float) -> dict[str, Any]:
    """What a finished run reached.

    `solved_at` is the first frame at which the mean return of the last 10 training episodes passed `threshold`, or None.

    Raises:
      ConfigError: not a run, or one that has not been evaluated.
    """
    config = open_run(run)
    if not (run / "evaluation.json").is_file():
        raise ConfigError(f"{run} has no evaluation.json: it is not finished. Go on with train.py --resume {run}")
    evaluation = json.loads((run / "evaluation.json").read_text())
    environment = json.loads((run / "environment.json").read_text())
    policies = {
        policy: {key: evaluation[policy][key] for key in ("return_mean", "return_std", "return_min", "return_max", "episodes")}
        for policy in ("deterministic", "sampled")
    }
    return {
        "task": config.env.task,
        "preset": config.preset,
        "seed": config.seed,
        "frames": evaluation["frames"],
        "updates": evaluation["updates"],
        "wall_seconds": evaluation["wall_seconds"],
        "threshold": threshold,
        "solved_at": solved_at(read_metrics(run / FILE_NAME), threshold),
        **policies,
        **environment,
    }


def solved_at(metrics: Sequence[dict[str, Any]], threshold: float) -> int | None:
    """First frame at which the mean return of the last 10 training episodes is at least `threshold`."""
    episodes = [row for row in metrics if row["kind"] == "episode"]
    returns = [row["return"] for row in episodes]
    for end in range(RETURN_WINDOW, len(returns) + 1):
        if np.mean(returns[end - RETURN_WINDOW : end]) >= threshold:
            return int(episodes[end - 1]["frames"])
    return None


def markdown_table(summaries: Sequence[dict[str, Any]]) -> str:
    """A table with one line a run."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for summary in summaries:
        cells = (
            summary["task"],
            summary["preset"],
            summary["seed"],
            f"{summary['frames']:,}",
            f"{summary['updates']:,}",
            "never" if summary["solved_at"] is None else f"{summary['solved_at']:,}",
            *(
                f"{summary[name]['return_mean']:.1f} ± {summary[name]['return_std']:.1f}"
                for name in ("deterministic", "sampled")
            ),
            f"{summary['wall_seconds'] / 60:.1f}",
            f"{summary['device']}, {summary['cores']} cores",
        )
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _spread(result: dict[str, Any]) -> str:
    return f"{result['return_mean']:.1f} ± {result['return_std']:.1f}"
