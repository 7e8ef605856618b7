"""The results of a benchmark: one document of every run and of the means over seeds. Imports no JAX."""

from collections.abc import Mapping, Sequence
from typing import Any

from dreamer_jax.benchmark.suites import Plan, Run, budget, settings
from dreamer_jax.core.errors import RunError
from dreamer_jax.core.statistics import bin_index, binned_returns, finite_or_none, spread
from dreamer_jax.core.text import markdown_table, plus_minus
from dreamer_jax.runs.folder import POLICIES, read_environment
from dreamer_jax.runs.metrics import COUNTERS, FILE_NAME, of_kind, read_metrics

BIN_WIDTHS = (25_000, 10_000, 5_000, 2_500, 1_000, 500, 250, 100, 50, 25, 10, 5, 1)
SCORES = {
    "curve": "mean return of the training episodes that end in each bin; bins without one are interpolated",
    "last_bin": "mean return of the training episodes that end in the last bin; null without one",
    "deterministic": "return of the last agent's most likely actions over fresh episodes",
    "sampled": "return of the last agent's sampled actions over fresh episodes",
    "return_std": "standard deviation over the episodes of the evaluation, of this population (n)",
    "std": "standard deviation over the finished seeds of a task, of this sample (n - 1); null for one seed",
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


def scores_table(content: Mapping[str, Any]) -> str:
    """Tasks and scores as mean ± standard deviation (n - 1) over finished seeds, as a Markdown table."""
    width = content["protocol"]["bin_width"]
    columns = ("task", "finished seeds", f"last {width:,} frames of training", *(f"{name}, last agent" for name in POLICIES))
    rows = []
    for task in content["tasks"]:
        scores = (plus_minus(task[name]["mean"], task[name]["std"]) for name in ("last_bin", *POLICIES))
        rows.append([task["task"], f"{task['finished']} of {task['runs']}", *scores])
    return markdown_table(columns, rows)


def _rows(run: Run) -> tuple[list[dict[str, Any]], str | None]:
    """A run's metrics rows, and why they cannot be read."""
    if run.folder is None or not (run.folder / FILE_NAME).exists():
        return [], None
    try:
        return read_metrics(run.folder / FILE_NAME), None
    except RunError as error:
        return [], str(error)


def _record(plan: Plan, run: Run, width: int, error: str | None) -> dict[str, Any]:
    rows, unreadable = _rows(run)
    frames = run.config.train.frames
    finished = run.evaluation is not None
    counters = run.evaluation or (rows[-1] if rows else dict.fromkeys(COUNTERS, 0))
    curve = binned_returns(rows, width, min(frames, counters["frames"]))
    last_bin = frames // width - 1
    last = [row["return"] for row in of_kind(rows, "episode") if bin_index(row["frames"], width) == last_bin]
    return {
        "task": run.config.env.task,
        "seed": run.config.seed,
        "status": "failed" if error and not finished else run.state,
        "folder": str(run.folder.relative_to(plan.output)) if run.folder else None,
        **{name: counters[name] for name in COUNTERS},
        "curve": [finite_or_none(value) for value in curve.tolist()],
        "last_bin": spread(last).mean if finished else None,
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
    found = spread(values)
    return {"mean": found.mean, "std": found.std, "seeds": found.count}


def _environments(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every different `environment.json`, with the runs that it belongs to."""
    found: list[dict[str, Any]] = []
    for run in runs:
        try:
            environment = read_environment(run.folder) if run.folder else {}
        except RunError:
            continue
        if not environment:
            continue
        same = next((known for known in found if {**known, "runs": None} == {**environment, "runs": None}), None)
        if same is None:
            found.append(same := {**environment, "runs": []})
        same["runs"].append(run.name)
    return found
