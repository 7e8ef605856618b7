"""The results of a benchmark: one document of every run and of the means over seeds. Imports no JAX."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dreamer_jax.benchmark.suites import Plan, Run, budget, settings
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.statistics import binned_returns
from dreamer_jax.runs.folder import POLICIES, read_environment
from dreamer_jax.runs.metrics import COUNTERS, FILE_NAME, read_metrics

BIN_WIDTHS = (25_000, 10_000, 5_000, 2_500, 1_000, 500, 250, 100, 50, 25, 10, 5, 1)
SCORES = {
    "curve": "mean return of the training episodes that end in each bin; bins without one are interpolated",
    "last_bin": "mean return of the training episodes that end in the last bin; null without one",
    "deterministic": "return of the last agent's most likely actions over fresh episodes",
    "sampled": "return of the last agent's sampled actions over fresh episodes",
    "std": "population standard deviation: over episodes in a run, over seeds in a task",
}


def bin_width(frames: int) -> int:
    """Width of the bins of a curve over `frames`: at least ten of them, and at most the 25,000 of published DMC curves."""
    return next((width for width in BIN_WIDTHS if 10 * width <= frames), 1)


def results(plan: Plan, runs: Sequence[Run], errors: Mapping[str, str]) -> dict[str, Any]:
    """The content of `results.json`.

    Args:
      plan: what the benchmark consists of.
      runs: from `read_runs`, other tasks and seeds of the same folder included.
      errors: what failed in this session, by the run's name.

    Returns:
      protocol: settings, budget of a run, width and right ends of the curve's bins [frames], and what each score is;
      environments: versions, device, machine, cores and commit, each different set with the runs that had it;
      runs: every run with status "finished", "failed", "to resume" or "to start", its counters and scores;
      tasks: mean and standard deviation over the finished seeds.
    """
    config = plan.configs[0]
    frames, decisions, updates = budget(config)
    width = bin_width(frames)
    records = [_record(plan, run, width, errors.get(run.name)) for run in runs]
    protocol = {
        "suite": plan.suite,
        "tasks": list(dict.fromkeys(record["task"] for record in records)),
        "seeds": sorted({record["seed"] for record in records}),
        "preset": config.preset,
        "overrides": dict(plan.overrides),
        "config": settings(config),
        "frames": frames,
        "decisions": decisions,
        "predicted_updates": updates,
        "action_repeat": config.env.action_repeat,
        "train_ratio": config.replay.train_ratio,
        "agent": "last",
        "evaluation_episodes": config.eval.final_episodes,
        "bin_width": width,
        "bin_ends": [(i + 1) * width for i in range(frames // width)],
        "scores": SCORES,
        "command": plan.command(),
    }
    tasks = [_task(task, [record for record in records if record["task"] == task]) for task in protocol["tasks"]]
    return {"protocol": protocol, "environments": _environments(runs), "runs": records, "tasks": tasks}


def markdown_table(content: Mapping[str, Any]) -> str:
    """Tasks and scores as mean ± standard deviation over finished seeds."""
    width = content["protocol"]["bin_width"]
    columns = ("task", "finished seeds", f"last {width:,} frames of training", *(f"{name}, last agent" for name in POLICIES))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for task in content["tasks"]:
        scores = (task[name] for name in ("last_bin", *POLICIES))
        cells = ["-" if score["mean"] is None else f"{score['mean']:.1f} ± {score['std']:.1f}" for score in scores]
        lines.append("| " + " | ".join([task["task"], f"{task['finished']} of {task['runs']}", *cells]) + " |")
    return "\n".join(lines)


def _rows(run: Run) -> tuple[list[dict[str, Any]], str | None]:
    """A run's metrics rows, and why they cannot be read."""
    if run.folder is None or not (run.folder / FILE_NAME).exists():
        return [], None
    try:
        return read_metrics(run.folder / FILE_NAME), None
    except ConfigError as error:
        return [], str(error)


def _record(plan: Plan, run: Run, width: int, error: str | None) -> dict[str, Any]:
    rows, unreadable = _rows(run)
    frames = run.config.train.frames
    finished = run.evaluation is not None
    counters = run.evaluation or (rows[-1] if rows else dict.fromkeys(COUNTERS, 0))
    curve = binned_returns(rows, width, min(frames, counters["frames"]))
    last = [row["return"] for row in rows if row["kind"] == "episode" and -(-row["frames"] // width) == frames // width]
    return {
        "task": run.config.env.task,
        "seed": run.config.seed,
        "status": "failed" if error and not finished else run.state,
        "folder": str(run.folder.relative_to(plan.output)) if run.folder else None,
        **{name: counters[name] for name in COUNTERS},
        "curve": [value if math.isfinite(value) else None for value in curve.tolist()],
        "last_bin": float(np.mean(last)) if last and finished else None,
        **{name: _policy(run.evaluation[name]) if run.evaluation else None for name in POLICIES},
        "error": error or unreadable,
    }


def _policy(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    return {name: evaluation[name] for name in ("return_mean", "return_std", "episodes")}


def _task(task: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    finished = [record for record in records if record["status"] == "finished"]
    means = {name: [record[name]["return_mean"] for record in finished] for name in POLICIES}
    last_bins = [record["last_bin"] for record in finished if record["last_bin"] is not None]
    return {
        "task": task,
        "runs": len(records),
        "finished": len(finished),
        "last_bin": _over_seeds(last_bins),
        **{name: _over_seeds(values) for name, values in means.items()},
    }


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    return {
        "mean": float(np.mean(values)) if values else None,
        "std": float(np.std(values)) if values else None,
        "seeds": len(values),
    }


def _environments(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every different `environment.json`, with the runs that it belongs to."""
    found: list[dict[str, Any]] = []
    for run in runs:
        try:
            environment = read_environment(run.folder) if run.folder else {}
        except ConfigError:
            continue
        if not environment:
            continue
        same = next((known for known in found if {**known, "runs": None} == {**environment, "runs": None}), None)
        if same is None:
            found.append(same := {**environment, "runs": []})
        same["runs"].append(run.name)
    return found
