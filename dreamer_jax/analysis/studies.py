"""Studies over several runs, each with a figure and a table: how long to imagine, and PPO on the same task."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from dreamer_jax.analysis import imagination
from dreamer_jax.analysis.ppo import train_ppo
from dreamer_jax.benchmark.runner import run_benchmark
from dreamer_jax.benchmark.suites import make_plan, read_runs
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.files import make_folder, write_json
from dreamer_jax.core.presets import load_config
from dreamer_jax.report.summary import find_runs, read_run, solved_at
from dreamer_jax.runs.metrics import FILE_NAME, RETURN_WINDOW, read_metrics

COLORS = ("#2166ac", "#c0392b", "#1b7837", "#7b3294", "#b8860b", "#555555")
GRID = 200  # points of a curve


@dataclass(frozen=True)
class Curve:
    """Training episodes of one run: rows as `metrics.read_metrics` gives them, those of kind "episode"."""

    label: str
    seed: int
    rows: Sequence[dict[str, Any]]


def recent_return(rows: Sequence[dict[str, Any]], frames: np.ndarray) -> np.ndarray:
    """Mean return of the last 10 training episodes that ended by each of `frames`; NaN before the first, fewer at first."""
    ends = np.array([row["frames"] for row in rows])
    returns = np.array([row["return"] for row in rows], float)
    counts = np.searchsorted(ends, frames, side="right")
    return np.array([returns[max(0, n - RETURN_WINDOW) : n].mean() if n else np.nan for n in counts])


def interval(values: np.ndarray) -> np.ndarray:
    """Half of the 95% interval of the mean over seeds [S, ...] by Student's t; zero for one seed."""
    if len(values) < 2:
        return np.zeros(values.shape[1:])
    return stats.t.ppf(0.975, len(values) - 1) * np.std(values, axis=0, ddof=1) / np.sqrt(len(values))


def draw(curves: Sequence[Curve], threshold: float, title: str, path: Path) -> None:
    """Recent return over environment steps (logarithmic), mean and 95% interval over the seeds of each label, to a PNG."""
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
        axes.fill_between(frames, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
    axes.axhline(threshold, color="0.6", linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("environment steps")
    axes.set_ylabel(f"mean return of the last {RETURN_WINDOW} training episodes")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def summary_table(curves: Sequence[Curve], threshold: float, extra: Mapping[str, Mapping[str, str]]) -> str:
    """A line for each label as Markdown: seeds, steps to the threshold, steps of the run, and columns of `extra`[label]."""
    names = list(dict.fromkeys(name for columns in extra.values() for name in columns))
    header = ["", "seeds", f"steps to a mean of {threshold:g}", "steps of a run", *names]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for label in dict.fromkeys(curve.label for curve in curves):
        of_label = [curve for curve in curves if curve.label == label]
        solved = [solved_at(curve.rows, threshold) for curve in of_label]
        reached = [value for value in solved if value is not None]
        text = "never"
        if reached:
            half = f" ± {interval(np.array(reached)):,.0f}" if len(reached) > 1 else ""
            text = f"{np.mean(reached):,.0f}{half} ({len(reached)} of {len(solved)} seeds)"
        steps = f"{np.mean([curve.rows[-1]['frames'] for curve in of_label]):,.0f}"
        own = [extra.get(label, {}).get(name, "-") for name in names]
        lines.append(f"| {' | '.join([label, str(len(of_label)), text, steps, *own])} |")
    return "\n".join(lines)


def study_horizon(
    preset: str, horizons: Sequence[int], seeds: int, threshold: float, overrides: Mapping[str, str], output: Path
) -> int:
    """Trains `seeds` agents for each horizon of imagination, and compares their returns and what their critics are worth.

    What is finished in `output` stays; the same call goes on where it was stopped.

    Returns:
      exit status of the first benchmark that did not finish, or 0.

    Raises:
      ConfigError, EnvError: one line for the user.
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
        finals, errors, drifts, lengths = [], [], [], []
        for run in read_runs(plan)[: len(plan.configs)]:  # behind them are other seeds that the folder holds
            assert run.folder is not None  # the benchmark is finished
            assert run.evaluation is not None
            rows = read_metrics(run.folder / FILE_NAME)
            curves.append(Curve(label, run.config.seed, [row for row in rows if row["kind"] == "episode"]))
            finals.append(run.evaluation["deterministic"]["return_mean"])
            compared = imagination.diagnose(run.folder, "last", 10, 200, max(horizons), 0, run.folder / "diagnosis")["agent"]
            errors.append(compared["value_error"] / max(abs(compared["return_mean"]), 1e-8))
            drifts.append(compared["drift"][min(horizons) - 1])
            lengths.append(run.evaluation["wall_seconds"] / 60)
        columns[label] = {
            "return of the last agent": _spread(finals, "{:.1f}"),
            "value error / return": _spread(errors, "{:.3f}"),
            f"drift after {min(horizons)}": _spread(drifts, "{:.2f}"),
            "minutes": _spread(lengths, "{:.1f}"),
        }
        results[label] = {"returns": finals, "value_errors": errors, "drifts": drifts, "minutes": lengths}
    _write(curves, threshold, columns, results, f"{task}, {preset}: imagined steps", output / "horizon")
    return 0


def study_ppo(paths: Sequence[Path], seeds: int, steps: int, threshold: float, output: Path) -> None:
    """Trains PPO on the task of finished runs, and compares returns over environment steps; needs `pip install -e ".[ppo]"`.

    Args:
      paths: run folders or folders of them, grouped by preset.
      seeds: runs of PPO, seeds 0, 1, ...; those in `output` are not trained again.
      steps: environment steps of each.

    Raises:
      ConfigError: no runs, runs without an episode or of several tasks, a task that PPO does not fit, files of another PPO in
        `output`, or Stable-Baselines3 is not installed.
    """
    _check_seeds(seeds)
    runs = [read_run(path) for path in find_runs(paths)]
    tasks = sorted({run.config.env.task for run in runs})
    if len(tasks) != 1:
        raise ConfigError(f"runs of one task are needed; {', '.join(map(str, paths))} have {', '.join(tasks) or 'none'}")
    make_folder(output)
    curves = [Curve(run.config.preset, run.config.seed, [row for row in run.rows if row["kind"] == "episode"]) for run in runs]
    for curve, run in zip(curves, runs, strict=True):
        if not curve.rows:
            raise ConfigError(f"{run.path} has no finished episode yet; leave it out")
    for seed in range(seeds):
        path = output / f"ppo-{seed}.json"
        if not path.exists():
            print(f"PPO, seed {seed}: {steps:,} steps ...", flush=True)
            write_json(path, train_ppo(runs[0].config, seed, steps))
        trained = json.loads(path.read_text())
        if (trained["task"], trained["steps"]) != (tasks[0], steps):
            found = f"{trained['task']} and {trained['steps']:,} steps"
            raise ConfigError(f"{path} is of {found}, not of {tasks[0]} and {steps:,} steps; take another --output")
        rows = [{"kind": "episode", "frames": end, "return": value} for end, value in trained["episodes"]]
        curves.append(Curve("PPO", seed, rows))
    _write(curves, threshold, {}, {}, f"{tasks[0]}: return over environment steps", output / "ppo")


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
    path.with_suffix(".md").write_text(table + "\n")
    solved = {f"{curve.label}, seed {curve.seed}": solved_at(curve.rows, threshold) for curve in curves}
    write_json(path.with_suffix(".json"), {"threshold": threshold, "solved_at": solved, **results})
    print(table)
    print(f"wrote {path.with_suffix('.png')}, .md and .json")


def _spread(values: Sequence[float], form: str) -> str:
    half = f" ± {form.format(float(interval(np.array(values))))}" if len(values) > 1 else ""
    return form.format(float(np.mean(values))) + half
