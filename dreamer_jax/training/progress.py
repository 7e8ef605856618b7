"""How far a run is, for whoever looks at the terminal."""

import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TextIO

import numpy as np
from tqdm import tqdm

from dreamer_jax.core.statistics import spread
from dreamer_jax.core.text import clock, plus_minus
from dreamer_jax.runs.metrics import RETURN_WINDOW

LINE_WIDTH = 140  # longest progress line [characters]
RATE_WINDOW = 20  # progress reports that the ETA looks back over


class Progress:
    """How far a run is: a bar in a terminal, one plain line per report elsewhere.

    Args:
      total_frames: length of the run [simulator steps].
      initial: frames that a resumed run starts from [simulator steps].
      stream: where to write; standard output if None.
    """

    def __init__(self, total_frames: int, initial: int = 0, stream: TextIO | None = None) -> None:
        self._total = total_frames
        self._stream = sys.stdout if stream is None else stream
        # The recent rate, not the mean: collecting before the first update is far faster than training after it.
        self._history = deque([(time.monotonic(), initial)], maxlen=RATE_WINDOW)
        self._bar: tqdm | None = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total_frames,
                initial=min(initial, total_frames),
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{percentage:5.1f}%|{bar:16}| {desc}",
            )

    def update(
        self,
        frames: int,
        updates: int,
        updates_per_second: float,
        returns: Sequence[Sequence[float]],
        losses: Mapping[str, float],
    ) -> None:
        """Reports where the run is.

        Args:
          frames: simulator steps so far.
          updates: gradient steps so far.
          updates_per_second: recent speed [1/s].
          returns: returns of the finished episodes, oldest first; the mean of the last ten is shown.
          losses: losses to show, most important first; those that do not fit on the line are left out.
        """
        self._history.append((time.monotonic(), frames))
        parts = [
            f"frames {frames:,}/{self._total:,}",
            f"ETA {self._eta(frames)}",
            f"return {_mean_return(returns)}",
            f"updates {updates:,} ({updates_per_second:.3g}/s)",
        ]
        text = " | ".join(parts)
        separator = " | loss "
        percent = f"{min(100.0, 100 * frames / self._total):5.1f}% "
        for name, value in losses.items():
            item = f"{separator}{name.removeprefix('loss/')} {value:.3g}"
            if len(percent + text + item) > LINE_WIDTH:
                break
            text += item
            separator = ", "
        if self._bar is None:
            self.print(percent + text)
        else:
            self._bar.n = min(frames, self._total)
            self._bar.set_description_str(text)  # draws the bar

    def print(self, line: str) -> None:
        """Writes a line of its own, above the bar where there is one."""
        if self._bar is None:
            print(line, file=self._stream, flush=True)
        else:
            self._bar.write(line, file=self._stream)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _eta(self, frames: int) -> str:
        """Time to the end at the recent rate, as h:mm:ss."""
        (start, first), (now, _) = self._history[0], self._history[-1]
        remaining = max(0, self._total - frames)
        if frames <= first and remaining:
            return "-"
        return clock((now - start) / (frames - first) * remaining if remaining else 0)


def _mean_return(returns: Sequence[Sequence[float]]) -> str:
    """ "123.4", or "123.4 ± 5.6 (3 seeds)" with the mean's 95% interval; "-" until every seed has finished an episode."""
    if not all(len(of_seed) for of_seed in returns):
        return "-"
    mean, _, half, count = spread([np.mean(of_seed[-RETURN_WINDOW:]) for of_seed in returns])
    return plus_minus(mean, half, ".4g", ".3g") + (f" ({count} seeds)" if count > 1 else "")
