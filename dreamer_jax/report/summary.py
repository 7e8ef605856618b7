"""From run folders to tables: what each run reached, after how many steps, in what time. Imports no JAX."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError, RunError
from dreamer_jax.core.statistics import running_mean, spread
from dreamer_jax.core.text import markdown_table, safe_name
from dreamer_jax.runs.folder import POLICIES, RESULTS, open_run, over_episodes, read_environment, read_evaluation
from dreamer_jax.runs.metrics import FILE_NAME, RETURN_WINDOW, of_kind, read_metrics

COLUMNS = ("task", "preset", "seed", "frames", "updates", "solved at", *POLICIES, "minutes", "device")
ENVIRONMENT = ("versions", "device", "machine", "cores", "git_commit")


@dataclass(frozen=True)
class Run:
    """What a run's folder holds.

    rows: as `metrics.read_metrics` gives them. evaluation: `evaluation.json`, None for a run that is not finished.
    environment: `environment.json`, empty where there is none.
    """

    path: Path
    config: Config
    rows: Sequence[dict[str, Any]]
    evaluation: dict[str, Any] | None
    environment: dict[str, Any]

    @property
    def finished(self) -> bool:
        return self.evaluation is not None

    def counter(self, name: str) -> float:
        """The last value of "frames", "decisions", "updates" or "wall_seconds"; 0 before the first row."""
        last = max((row[name] for row in self.rows), default=0)
        return last if self.evaluation is None else self.evaluation[name]

    def recent_return(self) -> float | None:
        """Mean return of the last 10 training episodes, or of as many as there are; None before the first."""
        return spread([row["return"] for row in of_kind(self.rows, "episode")][-RETURN_WINDOW:]).mean


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders at and below `paths`, each once, sorted: those that hold a `config.yaml`.

    Raises:
      RunError: a path is no folder, or there is no run at or below it.
    """
    found: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise RunError(f"{path} is not a folder. Give the run folder that `dreamer train` printed, or one that holds runs")
        runs = {config.parent for config in path.rglob("config.yaml")}
        if not runs:
            raise RunError(f"{path} is not a run and holds none: there is no config.yaml in it or below it")
        found |= runs
    return sorted({run.resolve(): run for run in sorted(found)}.values())


def read_run(path: Path) -> Run:
    """Reads a run's folder, finished or not.

    Raises:
      RunError: not a run, or one of its files is damaged.
      ConfigError: its configuration cannot be read.
    """
    config = open_run(path)
    rows = read_metrics(path / FILE_NAME) if (path / FILE_NAME).is_file() else []
    return Run(path, config, rows, read_evaluation(path), read_environment(path))


def read_runs(paths: Iterable[Path]) -> tuple[list[Run], list[tuple[Path, str]]]:
    """Reads runs -> (those that can be read, sorted by task, preset and seed; the others with what is wrong)."""
    runs, damaged = [], []
    for path in paths:
        try:
            runs.append(read_run(path))
        except (ConfigError, RunError) as error:
            damaged.append((path, str(error)))
    return sorted(runs, key=lambda run: (run.config.env.task, run.config.preset, run.config.seed, str(run.path))), damaged


def summarise(run: Run, threshold: float | None = None) -> dict[str, Any]:
    """What a run reached, ready for JSON.

    `deterministic` and `sampled` are the evaluation at the end, None for a run that is not finished. With a `threshold`
    there is `solved_at`, the first frame at which the mean return of the last 10 training episodes was that high, or None.
    """
    config, evaluation = run.config, run.evaluation
    solved = {} if threshold is None else {"threshold": threshold, "solved_at": solved_at(run.rows, threshold)}
    return {
        "task": config.env.task,
        "obs": config.env.obs if config.env.task.startswith("dmc:") else None,  # an option of dm_control alone
        "preset": config.preset,
        "seed": config.seed,
        "finished": run.finished,
        "frames": int(run.counter("frames")),
        "decisions": int(run.counter("decisions")),
        "updates": int(run.counter("updates")),
        "action_repeat": config.env.action_repeat,
        "train_ratio": config.replay.train_ratio,
        "wall_seconds": run.counter("wall_seconds"),
        **solved,
        **{policy: {name: evaluation[policy][name] for name in RESULTS} if evaluation else None for policy in POLICIES},
        **{name: value for name, value in run.environment.items() if name in ENVIRONMENT},
    }


def solved_at(metrics: Sequence[dict[str, Any]], threshold: float) -> int | None:
    """First frame at which the mean return of the last 10 training episodes is at least `threshold`."""
    episodes = of_kind(metrics, "episode")
    means = running_mean(np.array([row["return"] for row in episodes], float), RETURN_WINDOW)
    solved = np.flatnonzero(means[RETURN_WINDOW - 1 :] >= threshold)
    return int(episodes[solved[0] + RETURN_WINDOW - 1]["frames"]) if solved.size else None


def runs_table(summaries: Sequence[dict[str, Any]]) -> str:
    """A Markdown table with one line a run; "solved at" is a column where the summaries have it."""
    columns = [name for name in COLUMNS if name != "solved at" or any("solved_at" in summary for summary in summaries)]
    rows = []
    for summary in summaries:
        cells = {
            "task": summary["task"],
            "preset": summary["preset"],
            "seed": summary["seed"],
            "frames": f"{summary['frames']:,}",
            "updates": f"{summary['updates']:,}",
            "solved at": "never" if summary.get("solved_at") is None else f"{summary['solved_at']:,}",
            **{policy: over_episodes(summary[policy]) if summary[policy] else "unfinished" for policy in POLICIES},
            "minutes": f"{summary['wall_seconds'] / 60:.1f}",
            "device": device_name(summary),
        }
        rows.append([cells[name] for name in columns])
    return markdown_table(columns, rows)


def device_name(environment: dict[str, Any]) -> str:
    """The device with its host's cores, as "cpu, 2 cores"; "unknown" where it was not written down."""
    if "device" not in environment:
        return "unknown"
    return f"{environment['device']}, {environment.get('cores', 'unknown')} cores"


def summary_names(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """A file name for each summary, without ending: task, preset and seed, and a number where another has the same."""
    names: list[str] = []
    for summary in summaries:
        name = safe_name(f"{summary['task']}-{summary['preset']}-seed{summary['seed']}")
        names.append(unused(name, names))
    return names


def unused(name: str, taken: Iterable[str]) -> str:
    """`name`, with -2, -3, ... behind it if it is taken."""
    taken, candidate, number = set(taken), name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate
