"""Studies over several runs, each with a figure and a table: how long to imagine, and PPO on the same task."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dreamer_jax.analysis import imagination
from dreamer_jax.analysis.ppo import train_ppo
from dreamer_jax.benchmark.runner import run_benchmark
from dreamer_jax.benchmark.suites import Plan, make_plan, read_runs
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError, RunError
from dreamer_jax.core.figures import COLORS, plain_axes, save_figure
from dreamer_jax.core.files import make_folder, read_json, write_json, write_text
from dreamer_jax.core.presets import load_config
from dreamer_jax.core.statistics import interval, running_mean, spread
from dreamer_jax.core.text import markdown_table, plus_minus
from dreamer_jax.report.summary import find_runs, read_run, solved_at
from dreamer_jax.runs.metrics import FILE_NAME, RETURN_WINDOW, of_kind, read_metrics

logger = logging.getLogger(__name__)
GRID = 200  # points of a curve


@dataclass(frozen=True)
class Curve:
    """Training episodes of one run: rows as `metrics.read_metrics` gives them, those of kind "episode"."""

    label: str
    seed: int
    rows: Sequence[dict[str, Any]]


def recent_return(rows: Sequence[dict[str, Any]], frames: np.ndarray) -> np.ndarray:
    """Mean return of the last 10 training episodes that ended by each of `frames`; NaN before the first, fewer at first."""
    means = running_mean(np.array([row["return"] for row in rows], float), RETURN_WINDOW)
    ended = np.searchsorted([row["frames"] for row in rows], frames, side="right")
    return np.concatenate([[np.nan], means])[ended]


def draw(curves: Sequence[Curve], threshold: float, title: str, path: Path) -> None:
    """Recent return over environment steps (logarithmic), mean and 95% interval over the seeds of each label, to a PNG.

    A single seed has no interval.
    """
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    labels = list(dict.fromkeys(curve.label for curve in curves))
    for label, color in zip(labels, COLORS * len(labels), strict=False):
        of_label = [curve for curve in curves if curve.label == label]
        first = max(curve.rows[0]["frames"] for curve in of_label)
        last = min(curve.rows[-1]["frames"] for curve in of_label)
        frames = np.geomspace(first, last, GRID)
        values = np.stack([recent_return(curve.rows, frames) for curve in of_label])
        mean, half = values.mean(0), interval(values)
        axes.plot(frames, mean, color=color, label=f"{label} ({len(of_label)} seeds)")
        if len(values) > 1:
            axes.fill_between(frames, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
    axes.axhline(threshold, color="0.6", linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("environment steps")
    axes.set_ylabel(f"mean return of the last {RETURN_WINDOW} training episodes")
    axes.set_title(title)
    plain_axes(axes)
    axes.legend(frameon=False)
    save_figure(figure, path)


def summary_table(curves: Sequence[Curve], threshold: float, extra: Mapping[str, Mapping[str, str]]) -> str:
    """A line for each label as Markdown: seeds, steps to the threshold, steps of the run, and columns of `extra`[label]."""
    names = list(dict.fromkeys(name for columns in extra.values() for name in columns))
    rows = []
    for label in dict.fromkeys(curve.label for curve in curves):
        of_label = [curve for curve in curves if curve.label == label]
        solved = [solved_at(curve.rows, threshold) for curve in of_label]
        reached = [value for value in solved if value is not None]
        text = f"{_spread(reached, ',.0f')} ({len(reached)} of {len(solved)} seeds)" if reached else "never"
        steps = f"{np.mean([curve.rows[-1]['frames'] for curve in of_label]):,.0f}"
        own = [extra.get(label, {}).get(name, "-") for name in names]
        rows.append([label, len(of_label), text, steps, *own])
    return markdown_table(["", "seeds", f"steps to a mean of {threshold:g}", "steps of a run", *names], rows)


def study_horizon(
    preset: str, horizons: Sequence[int], seeds: int, threshold: float, overrides: Mapping[str, str], output: Path
) -> int:
    """Trains `seeds` agents for each horizon of imagination, and compares their returns and what their critics are worth.

    What is finished in `output` stays; the same call goes on where it was stopped.

    Returns:
      exit status of the first benchmark that did not finish, or 0.

    Raises:
      ConfigError, EnvError, RunError, StorageError: one line for the user.
    """
    base = load_config(preset, overrides)
    if not base.model.actor_critic:
        raise ConfigError(f"preset {preset} has no actor and critic, which learn from imagination; choose another")
    _check_seeds(seeds)
    task = base.env.task
    changes = {name: value for name, value in overrides.items() if name != "env.task"}
    plans = {  # all of them before the first run: a mistake in the last would come after hours
        horizon: make_plan(
            task, seeds, preset, {**changes, "behavior.imagination_horizon": str(horizon)}, output / f"horizon-{horizon}"
        )
        for horizon in horizons
    }
    curves: list[Curve] = []
    columns: dict[str, dict[str, str]] = {}
    results: dict[str, Any] = {}
    for horizon, plan in plans.items():
        label = f"{horizon} steps"
        if status := run_benchmark(plan):
            return status
        own, numbers = _read_finished(plan, label, horizons)
        curves += own
        columns[label] = {
            "return of the last agent": _spread(numbers["returns"], ".1f"),
            "value error / return": _spread(numbers["value_errors"], ".3f"),
            f"drift after {min(horizons)}": _spread(numbers["drifts"], ".2f"),
            "minutes": _spread(numbers["minutes"], ".1f"),
        }
        results[label] = numbers
    _write(curves, threshold, columns, results, f"{task}, {preset}: imagined steps", output / "horizon")
    return 0


def _read_finished(plan: Plan, label: str, horizons: Sequence[int]) -> tuple[list[Curve], dict[str, list[float]]]:
    """The curves of a finished benchmark, and by name a number of each of its runs, for which the runs are diagnosed."""
    curves: list[Curve] = []
    numbers: dict[str, list[float]] = {"returns": [], "value_errors": [], "drifts": [], "minutes": []}
    for run in read_runs(plan)[: len(plan.configs)]:  # behind them are other seeds that the folder holds
        assert run.folder is not None  # the benchmark is finished
        assert run.evaluation is not None
        rows = read_metrics(run.folder / FILE_NAME)
        curves.append(Curve(label, run.config.seed, of_kind(rows, "episode")))
        compared = imagination.diagnose(run.folder, "last", 10, 200, max(horizons), 0, run.folder / "diagnosis")["agent"]
        numbers["returns"].append(run.evaluation["deterministic"]["return_mean"])
        numbers["value_errors"].append(compared["value_error"] / max(abs(compared["return_mean"]), 1e-8))
        numbers["drifts"].append(compared["drift"][min(horizons) - 1])
        numbers["minutes"].append(run.evaluation["wall_seconds"] / 60)
    return curves, numbers


def study_ppo(paths: Sequence[Path], seeds: int, steps: int, threshold: float, output: Path) -> None:
    """Trains PPO on the task of finished runs, and compares returns over environment steps; needs "dreamer_jax[ppo]".

    Args:
      paths: run folders or folders of them, grouped by preset.
      seeds: runs of PPO, seeds 0, 1, ...; those in `output` are not trained again.
      steps: environment steps of each.

    Raises:
      ConfigError: runs of several tasks, a task that PPO does not fit, or Stable-Baselines3 is not installed.
      RunError: no runs, runs that are damaged or without an episode, or files of another PPO in `output`.
      StorageError: `output` cannot be written.
    """
    _check_seeds(seeds)
    runs = [read_run(path) for path in find_runs(paths)]
    tasks = sorted({run.config.env.task for run in runs})
    if len(tasks) != 1:
        raise ConfigError(f"runs of one task are needed; {', '.join(map(str, paths))} have {', '.join(tasks) or 'none'}")
    make_folder(output)
    curves = [Curve(run.config.preset, run.config.seed, of_kind(run.rows, "episode")) for run in runs]
    for curve, run in zip(curves, runs, strict=True):
        if not curve.rows:
            raise RunError(f"{run.path} has no finished episode yet; leave it out")
    curves += [_ppo_curve(output / f"ppo-{seed}.json", runs[0].config, seed, steps) for seed in range(seeds)]
    _write(curves, threshold, {}, {}, f"{tasks[0]}: return over environment steps", output / "ppo")


def _ppo_curve(path: Path, config: Config, seed: int, steps: int) -> Curve:
    """PPO's training episodes from the file `path`, which is made where it is missing."""
    trained = read_json(path)
    if trained is None:
        logger.info("PPO, seed %d: %s steps ...", seed, f"{steps:,}")
        trained = train_ppo(config, seed, steps)
        write_json(path, trained)
    found, wanted = (trained.get("task"), trained.get("steps")), (config.env.task, steps)
    if found != wanted:
        task, length = found
        raise RunError(f"{path} is of {task} and {length} steps, not of {wanted[0]} and {steps} steps; take another --output")
    return Curve("PPO", seed, [{"kind": "episode", "frames": end, "return": value} for end, value in trained["episodes"]])


def _check_seeds(seeds: int) -> None:
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: at least 1 is needed")


def _write(
    curves: Sequence[Curve],
    threshold: float,
    columns: Mapping[str, Mapping[str, str]],
    results: Mapping[str, Any],
    title: str,
    path: Path,
) -> None:
    """Figure, table and numbers at `path` with .png, .md and .json."""
    draw(curves, threshold, title, path.with_suffix(".png"))
    table = summary_table(curves, threshold, columns)
    write_text(path.with_suffix(".md"), table + "\n")
    solved = {f"{curve.label}, seed {curve.seed}": solved_at(curve.rows, threshold) for curve in curves}
    write_json(path.with_suffix(".json"), {"threshold": threshold, "solved_at": solved, **results})
    logger.info("%s", table)
    logger.info("wrote %s, .md and .json", path.with_suffix(".png"))


def _spread(values: Sequence[float], form: str) -> str:
    """The mean over seeds ± half of its 95% interval, in the format code `form`."""
    mean, _, half, _ = spread(values)
    return plus_minus(mean, half, form)
