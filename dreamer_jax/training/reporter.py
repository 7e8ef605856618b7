"""What a training says while it goes on: rows of metrics, how far it is, and updates that were refused."""

import logging
import time

import numpy as np

from dreamer_jax.core.memory import MIB, resident_memory
from dreamer_jax.training.callbacks.base import Report
from dreamer_jax.training.callbacks.group import Callbacks
from dreamer_jax.training.collector import Collector
from dreamer_jax.training.learner import Learner

logger = logging.getLogger(__name__)
SHOWN_LOSSES = ("loss/reward", "loss/continue", "loss/dyn", "loss/policy", "loss/value")


class Reporter:
    """Writes the rows of all seeds and reports progress to the callbacks.

    Attributes:
      checkpoint_seconds: for which training has waited for checkpoints since the last row [s].
    """

    def __init__(self, collector: Collector, learner: Learner, callbacks: Callbacks) -> None:
        self.checkpoint_seconds = 0.0
        self._callbacks = callbacks
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
        total, done = collector.lead.config.train.frames, not any(run.active for run in collector.runs)
        self._callbacks.progress(Report(collector.frames, total, counters.updates, speed, returns, losses, done))

    def keep_refused(self) -> None:
        """Stores the batches of updates that were left out, and says so."""
        while self._learner.refused:
            update = self._learner.refused.pop(0)
            if update.index in self._collector.active:
                logger.warning("%s", self._collector.runs[update.index].keep_refused(update))
