"""Aggregate scores over tasks, with stratified bootstrap confidence intervals from rliable. Imports no JAX.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
"""

import importlib.util
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dreamer_jax.core.errors import ConfigError

RESAMPLES = 10_000
STATISTICS = ("IQM", "median", "mean")


class Estimate(NamedTuple):
    """A statistic with its 95% confidence interval; low and high are None where one seed gives none."""

    point: float
    low: float | None
    high: float | None


class Aggregate(NamedTuple):
    """Statistics over tasks.

    estimates: by name; empty where none can be computed. seeds: how many of each task count. notes: what was left out and why.
    """

    estimates: dict[str, Estimate]
    tasks: int
    seeds: int
    notes: tuple[str, ...]


def require_rliable() -> None:
    """Raises ConfigError, with the command that installs it, when rliable is missing."""
    if importlib.util.find_spec("rliable") is None:
        raise ConfigError('the report needs the rliable package: pip install "dreamer_jax[report]"')


def aggregate(scores: Mapping[str, Mapping[int, float]], resamples: int = RESAMPLES) -> Aggregate:
    """IQM, median and mean over tasks.

    rliable takes a matrix, so every task counts with the same number of seeds: as many as all have, the lowest first.

    Args:
      scores: normalised return by task and seed; a task without a seed is left out, and named.
      resamples: of the bootstrap over seeds within each task.
    """
    held = {task: seeds for task, seeds in scores.items() if seeds}
    notes = []
    if len(held) < len(scores):
        notes.append(f"Without a score, so left out: {', '.join(task for task in scores if task not in held)}.")
    if len(held) < 2:
        notes.append("Not computed: an aggregate over tasks needs at least two tasks with a score.")
        return Aggregate({}, len(held), 0, tuple(notes))
    count = min(len(seeds) for seeds in held.values())
    if any(len(seeds) > count for seeds in held.values()):
        more = ", ".join(f"{task} has {len(seeds)}" for task, seeds in held.items() if len(seeds) > count)
        notes.append(f"Seeds are unequal over tasks ({more}): {count} of each task, the lowest seed numbers, are used.")
    if count == 1:
        notes.append("No interval: the bootstrap resamples seeds, and one seed has no spread.")
    matrix = np.array([[seeds[seed] for seed in sorted(seeds)[:count]] for seeds in held.values()]).T  # [seeds, tasks]
    return Aggregate(estimate(matrix, resamples), len(held), count, tuple(notes))


def estimate(scores: np.ndarray, resamples: int = RESAMPLES) -> dict[str, Estimate]:
    """IQM over all runs, median and mean over tasks of the mean over seeds, with 95% percentile intervals.

    scores f64[seeds, tasks]. With one seed there are no intervals. The same scores always give the same intervals.
    """
    require_rliable()
    from rliable import library, metrics  # slow to load

    def statistics(x: np.ndarray) -> np.ndarray:
        return np.array([metrics.aggregate_iqm(x), metrics.aggregate_median(x), metrics.aggregate_mean(x)])

    if len(scores) == 1:
        return {name: Estimate(float(point), None, None) for name, point in zip(STATISTICS, statistics(scores))}
    # rliable 1.2 draws from NumPy's global generator, whatever random_state it is given.
    before = np.random.get_state()
    np.random.seed(0)
    try:
        points, intervals = library.get_interval_estimates({"ours": scores}, statistics, reps=resamples)
    finally:
        np.random.set_state(before)
    bounds = zip(points["ours"], *intervals["ours"])
    return {name: Estimate(*(float(value) for value in row)) for name, row in zip(STATISTICS, bounds)}
