"""From run folders to tables: what each run reached, after how many steps, in what time. Imports no JAX."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.runs.folder import POLICIES, RESULTS, open_run, read_environment, read_evaluation
from dreamer_jax.runs.metrics import FILE_NAME, RETURN_WINDOW, read_metrics

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
        returns = [row["return"] for row in self.rows if row["kind"] == "episode"][-RETURN_WINDOW:]
        return float(np.mean(returns)) if returns else None


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders at and below `paths`, each once, sorted: those that hold a `config.yaml`.

    Raises:
      ConfigError: a path is no folder, or there is no run at or below it.
    """
    found: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder. Give the run folder that train.py printed, or one that holds runs")
        runs = {config.parent for config in path.rglob("config.yaml")}
        if not runs:
            raise ConfigError(f"{path} is not a run and holds none: there is no config.yaml in it or below it")
        found |= runs
    return sorted({run.resolve(): run for run in sorted(found)}.values())


def read_run(path: Path) -> Run:
    """Reads a run's folder, finished or not.

    Raises:
      ConfigError: not a run, or one of its files is damaged.
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
        except ConfigError as error:
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
    episodes = [row for row in metrics if row["kind"] == "episode"]
    returns = [row["return"] for row in episodes]
    for end in range(RETURN_WINDOW, len(returns) + 1):
        if np.mean(returns[end - RETURN_WINDOW : end]) >= threshold:
            return int(episodes[end - 1]["frames"])
    return None


def markdown_table(summaries: Sequence[dict[str, Any]]) -> str:
    """A table with one line a run; "solved at" is a column where the summaries have it."""
    columns = [name for name in COLUMNS if name != "solved at" or any("solved_at" in summary for summary in summaries)]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for summary in summaries:
        cells = {
            "task": summary["task"],
            "preset": summary["preset"],
            "seed": summary["seed"],
            "frames": f"{summary['frames']:,}",
            "updates": f"{summary['updates']:,}",
            "solved at": "never" if summary.get("solved_at") is None else f"{summary['solved_at']:,}",
            **{policy: _spread(summary[policy]) for policy in POLICIES},
            "minutes": f"{summary['wall_seconds'] / 60:.1f}",
            "device": device_name(summary),
        }
        lines.append("| " + " | ".join(str(cells[name]) for name in columns) + " |")
    return "\n".join(lines)


def device_name(environment: dict[str, Any]) -> str:
    """The device with its host's cores, as "cpu, 2 cores"; "unknown" where it was not written down."""
    if "device" not in environment:
        return "unknown"
    return f"{environment['device']}, {environment.get('cores', 'unknown')} cores"


def summary_names(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """A file name for each summary, without ending: task, preset and seed, and a number where another has the same."""
    names: list[str] = []
    for summary in summaries:
        name = file_name(f"{summary['task']}-{summary['preset']}-seed{summary['seed']}")
        names.append(unused(name, names))
    return names


def file_name(text: str) -> str:
    """`text` with everything but letters, digits, "-" and "_" made "_": no separators, no leading dot."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "_" for letter in text)[:150]


def unused(name: str, taken: Iterable[str]) -> str:
    """`name`, with -2, -3, ... behind it if it is taken."""
    taken, candidate, number = set(taken), name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def _spread(result: dict[str, Any] | None) -> str:
    return "unfinished" if result is None else f"{result['return_mean']:.1f} ± {result['return_std']:.1f}"
