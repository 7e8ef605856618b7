"""What a training says while it goes on: rows of metrics, the line of progress, and updates that were refused."""

import time

import numpy as np

from dreamer_jax.core.memory import MIB, resident_memory
from dreamer_jax.training.collector import Collector
from dreamer_jax.training.learner import Learner
from dreamer_jax.training.progress import Progress

SHOWN_LOSSES = ("loss/reward", "loss/continue", "loss/dyn", "loss/policy", "loss/value")


class Reporter:
    """Writes the rows of all seeds and moves the progress bar.

    Attributes:
      progress: the terminal; `progress.print` writes a line of its own.
      checkpoint_seconds: for which training has waited for checkpoints since the last row [s].
    """

    def __init__(self, collector: Collector, learner: Learner, progress: Progress) -> None:
        self.progress, self.checkpoint_seconds = progress, 0.0
        self._collector, self._learner = collector, learner
        counters = collector.counters
        self._reported = (counters.policy_steps, counters.updates, time.monotonic())

    def row(self) -> None:
        """Writes a row for each active seed that was updated, and reports progress; once for a step."""
        collector, counters, now = self._collector, self._collector.counters, time.monotonic()
        steps, updates, then = self._reported
        if counters.policy_steps == steps:
            return
        speed = (counters.updates - updates) / (now - then)
        self._reported = (counters.policy_steps, counters.updates, now)
        rows = self._learner.fetch_metrics()
        process = {
            "updates_per_second": speed,
            "checkpoint_seconds": self.checkpoint_seconds,
            "resident_mib": resident_memory() / MIB,
        }
        if any(rows):
            self.checkpoint_seconds = 0.0
        for i in collector.active:
            if rows[i]:
                run = collector.runs[i]
                run.write("train", {**rows[i], **process, "replay_records": len(run.replay)})
        losses = {
            name.removeprefix("loss/"): float(np.mean([rows[i][name] for i in collector.active]))
            for name in SHOWN_LOSSES
            if name in rows[collector.active[0]]
        }
        returns = [tuple(run.episodes.recent) for run in collector.runs]
        self.progress.update(collector.frames, counters.updates, speed, returns, losses)

    def keep_refused(self) -> None:
        """Stores the batches of updates that were left out, and says so."""
        while self._learner.refused:
            update = self._learner.refused.pop(0)
            if update.index in self._collector.active:
                self.progress.print(self._collector.runs[update.index].keep_refused(update))
