"""Returns of a run over its environment steps, in the bins in which curves are published. Imports no JAX."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def binned_returns(rows: Sequence[dict[str, Any]], width: int, frames: int) -> np.ndarray:
    """Mean return of the training episodes that end in each bin of environment steps.

    A bin holds the episodes that end after its first frame and not after its last: width < end <= 2 * width for the second.
    A bin without an episode takes the line between its neighbours, or the nearest value at either end, as published curves do.

    Args:
      rows: metrics rows as `metrics.read_metrics` gives them; those of kind "episode" count.
      width: length of a bin [frames].
      frames: length of the curve [frames]; a last bin that is not whole is left out.

    Returns:
      f64[frames // width]; the value at index i belongs to (i + 1) * width frames. All NaN without an episode.
    """
    bins = np.array([-(-row["frames"] // width) - 1 for row in rows if row["kind"] == "episode"], int)
    returns = np.array([row["return"] for row in rows if row["kind"] == "episode"], float)
    count = frames // width
    means = np.array([returns[bins == i].mean() if (bins == i).any() else np.nan for i in range(count)])
    held = np.flatnonzero(np.isfinite(means))
    return np.interp(np.arange(count), held, means[held]) if held.size else means
