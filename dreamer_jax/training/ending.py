"""When a run is at its end."""

from collections.abc import Collection

from dreamer_jax.core.config import Config
from dreamer_jax.runs.counters import Counters
from dreamer_jax.runs.metrics import RETURN_WINDOW


def end_reason(config: Config, counters: Counters, recent: Collection[float]) -> str:
    """Why a run is at its end: "frames", "minutes" or "target_return"; empty where it is not.

    Args:
      counters: `wall_seconds` counts for "minutes", earlier parts of the run included.
      recent: returns of the last training episodes, at most RETURN_WINDOW; "target_return" waits until there are so many.
    """
    limits = config.train
    if counters.frames >= limits.frames:
        return "frames"
    if limits.minutes is not None and counters.wall_seconds >= 60 * limits.minutes:
        return "minutes"
    full = len(recent) == RETURN_WINDOW
    if limits.target_return is not None and full and sum(recent) >= limits.target_return * RETURN_WINDOW:
        return "target_return"
    return ""
