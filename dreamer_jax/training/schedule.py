"""What is due after a step of the loop: a row of metrics, an evaluation, a checkpoint."""

import time

from dreamer_jax.core.config import Config


class Every:
    """True each time a counter passes another multiple of `distance`; never for distance 0."""

    def __init__(self, distance: int, start: int) -> None:
        self._distance = distance
        self._passed = start // distance if distance else 0

    def __call__(self, count: int) -> bool:
        if not self._distance or count // self._distance == self._passed:
            return False
        self._passed = count // self._distance
        return True


class Schedule:
    """Rows and evaluations follow the frames, so that they are the same in every run of a seed; checkpoints follow the clock.

    Args:
      frames: at which the runs start or go on [simulator steps].

    Attributes:
      row_due, evaluation_due: called with the frames after each step, once; True when another is due.
    """

    def __init__(self, config: Config, frames: int) -> None:
        self.row_due = Every(config.train.log_every, frames)
        self.evaluation_due = Every(config.eval.every, frames)
        self._distance = 60 * config.train.checkpoint_minutes
        self.saved()

    @property
    def checkpoint_due(self) -> bool:
        """Whether the last checkpoint is too old. When it is written makes no difference to anything else."""
        return time.monotonic() >= self._checkpoint_at

    def saved(self) -> None:
        """Starts the time to the next checkpoint anew."""
        self._checkpoint_at = time.monotonic() + self._distance
