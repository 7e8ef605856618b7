"""Means, deviations and intervals, and returns over environment steps. NumPy and SciPy; imports no JAX.

Seeds are a sample of all the seeds that could have been run. A standard deviation over seeds is therefore the sample's, with
n - 1 in the denominator. `play.evaluate` writes the population's, with n, over the episodes of one evaluation: it describes
those episodes, and published results are given in this way.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

CONFIDENCE = 0.95  # of the intervals
LEAST_STD = 1e-6  # below it, a quantity counts as constant and is correlated with nothing


class Spread(NamedTuple):
    """The mean of a sample, and how far the values lie apart.

    mean: None without a value. std: sample standard deviation (n - 1). half: half of the mean's 95% confidence interval. Both
    are None for fewer than two values. count: number of values. A number that is not finite is None too: JSON has no NaN.
    """

    mean: float | None
    std: float | None
    half: float | None
    count: int


def spread(values: ArrayLike) -> Spread:
    """Mean, sample standard deviation and 95% interval of the values [N] of a sample."""
    values = np.asarray(values, float)
    mean = float(values.mean()) if values.size else math.nan
    found = (mean, float(sample_std(values)), float(interval(values)))
    return Spread(*map(finite_or_none, found), count=values.size)


def sample_std(values: np.ndarray) -> np.ndarray:
    """Standard deviation [...] over the first axis of a sample [N, ...], with n - 1; NaN for fewer than two values."""
    return np.std(values, axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)


def interval(values: np.ndarray) -> np.ndarray:
    """Half of the 95% confidence interval [...] of the mean over the first axis of a sample [N, ...].

    By Student's t with n - 1 degrees of freedom; NaN for fewer than two values.
    """
    count = len(values)
    if count < 2:
        return sample_std(values)
    return stdtrit(count - 1, (1 + CONFIDENCE) / 2) * sample_std(values) / math.sqrt(count)


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson's correlation of two quantities [N]; None for fewer than three pairs, or where one of the two does not vary."""
    if len(a) < 3 or np.std(a) < LEAST_STD or np.std(b) < LEAST_STD:
        return None
    return finite_or_none(float(np.corrcoef(a, b)[0, 1]))


def finite_or_none(value: Any) -> Any:
    """None in the place of NaN and infinity, which JSON lacks; any other value as it is."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of each of the values [N] and up to window - 1 before it, those that are not finite left out; NaN without any."""
    means = np.full(len(values), np.nan)
    for i in range(len(values)):
        recent = values[max(0, i + 1 - window) : i + 1]
        recent = recent[np.isfinite(recent)]
        if recent.size:
            means[i] = recent.mean()
    return means


def bin_index(frames: int, width: int) -> int:
    """The bin in which an episode counts that ends at `frames`: 0 for the frames 1 to `width`, 1 for the next, ..."""
    return -(-frames // width) - 1


def binned_returns(rows: Sequence[dict[str, Any]], width: int, frames: int) -> np.ndarray:
    """Mean return of the training episodes that end in each bin of environment steps, as curves are published.

    A bin holds the episodes that end after its first frame and not after its last: width < end <= 2 * width for the second.
    A bin without an episode takes the line between its neighbours, or the nearest value at either end, as published curves do.

    Args:
      rows: metrics rows as `metrics.read_metrics` gives them; those of kind "episode" count.
      width: length of a bin [frames].
      frames: length of the curve [frames]; a last bin that is not whole is left out.

    Returns:
      f64[frames // width]; the value at index i belongs to (i + 1) * width frames. All NaN without an episode.
    """
    episodes = [row for row in rows if row["kind"] == "episode"]
    bins = np.array([bin_index(row["frames"], width) for row in episodes], int)
    returns = np.array([row["return"] for row in episodes], float)
    count = frames // width
    means = np.array([returns[bins == i].mean() if (bins == i).any() else np.nan for i in range(count)])
    held = np.flatnonzero(np.isfinite(means))
    return np.interp(np.arange(count), held, means[held]) if held.size else means
