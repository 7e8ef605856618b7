"""How far a run is, for whoever looks at the terminal."""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dreamer_jax.core.extensions import register
from dreamer_jax.core.statistics import spread
from dreamer_jax.core.text import clock, plus_minus
from dreamer_jax.runs.metrics import RETURN_WINDOW
from dreamer_jax.training.callbacks.base import Callback, Report, RunView

LINE_WIDTH = 140  # longest progress line [characters]
RATE_WINDOW = 20  # progress reports that the ETA looks back over


@register("terminal")
class Terminal(Callback):
    """A bar in a terminal or a notebook, one plain line per report elsewhere; on standard output."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._bar: tqdm | None = None

    def start(self, runs: Sequence[RunView]) -> None:
        """Shows the bar where there is one."""
        total, frames = runs[0].config.train.frames, min(run.counters.frames for run in runs)
        # The recent rate, not the mean: collecting before the first update is far faster than training after it.
        self._history = deque([(time.monotonic(), frames)], maxlen=RATE_WINDOW)
        notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
        if notebook or (hasattr(sys.stdout, "isatty") and sys.stdout.isatty()):
            self._bar = tqdm(
                total=total,
                initial=min(frames, total),
                file=sys.stdout,
                dynamic_ncols=True,
                bar_format=f"{{percentage:5.1f}}%|{{bar{'' if notebook else ':16'}}}| {{desc}}",
            )

    def progress(self, report: Report) -> None:
        """Moves the bar, or prints a line. Losses that do not fit on the line are left out."""
        frames, total = report.frames, report.total_frames
        self._history.append((time.monotonic(), frames))
        parts = [
            f"frames {frames:,}/{total:,}",
            f"ETA {self._eta(frames, total)}",
            f"return {_mean_return(report.returns)}",
            f"updates {report.updates:,} ({report.updates_per_second:.3g}/s)",
        ]
        text = " | ".join(parts)
        separator = " | loss "
        percent = f"{min(100.0, 100 * frames / total):5.1f}% "
        for name, value in report.losses.items():
            item = f"{separator}{name.removeprefix('loss/')} {value:.3g}"
            if len(percent + text + item) > LINE_WIDTH:
                break
            text += item
            separator = ", "
        if self._bar is None:
            with contextlib.suppress(ValueError, AttributeError):  # closed; replaced by something that cannot flush
                print(percent + text, flush=True)
            return
        self._bar.n = min(frames, total)
        self._bar.set_description_str(text)  # draws the bar
        if report.done:
            self._bar.close()

    def end(self, runs: Sequence[RunView], status: str) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _eta(self, frames: int, total: int) -> str:
        """Time to the end at the recent rate, as h:mm:ss."""
        (start, first), (now, _) = self._history[0], self._history[-1]
        remaining = max(0, total - frames)
        if frames <= first and remaining:
            return "-"
        return clock((now - start) / (frames - first) * remaining if remaining else 0)


def _mean_return(returns: Sequence[Sequence[float]]) -> str:
    """ "123.4", or "123.4 ± 5.6 (3 seeds)" with the mean's 95% interval; "-" until every seed has finished an episode."""
    if not all(len(of_seed) for of_seed in returns):
        return "-"
    mean, _, half, count = spread([np.mean(of_seed[-RETURN_WINDOW:]) for of_seed in returns])
    return plus_minus(mean, half, ".4g", ".3g") + (f" ({count} seeds)" if count > 1 else "")
