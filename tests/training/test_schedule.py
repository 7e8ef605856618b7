"""What is due when."""

import pytest

from dreamer_jax.core.config import Config
from dreamer_jax.training import schedule
from dreamer_jax.training.schedule import Every, Schedule


def test_every_passes_multiples_once():
    every = Every(10, start=25)
    assert [count for count in (25, 29, 30, 31, 39, 52, 59, 60) if every(count)] == [30, 52, 60]
    assert not any(Every(0, start=0)(count) for count in range(100))


def test_checkpoints_follow_the_clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: now[0])
    config = Config.model_validate({"train": {"checkpoint_minutes": 2}})
    due = Schedule(config, frames=0)
    for seconds, expected in ((119, False), (120, True), (500, True)):
        now[0] = 1000.0 + seconds
        assert due.checkpoint_due is expected
    due.saved()
    assert not due.checkpoint_due
    now[0] += 120
    assert due.checkpoint_due


@pytest.mark.parametrize("distance", [0, 7])
def test_rows_and_evaluations_follow_the_frames(distance):
    config = Config.model_validate({"train": {"log_every": 5}, "eval": {"every": distance}})
    due = Schedule(config, frames=3)
    assert [frames for frames in range(3, 21) if due.row_due(frames)] == [5, 10, 15, 20]
    assert [frames for frames in range(3, 21) if due.evaluation_due(frames)] == ([7, 14] if distance else [])
