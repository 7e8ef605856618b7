"""TensorBoard and Weights & Biases get the numbers of `metrics.jsonl`."""

import sys
import types

import numpy as np
import pytest
from metrics_rows import make_row, write_rows

from dreamer_jax.core.config import Config, TrainConfig
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.runs.metrics import MetricsLog, truncate


def read_events(folder):
    """(step, {tag: value}, is a session start) of every TensorBoard event, in the order written."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):  # u64 length, u32 checksum, the event, u32 checksum
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16
            values = {value.tag: value.simple_value for value in event.summary.value}
            yield event.step, values, event.session_log.status == SessionLog.START


def test_tensorboard_holds_the_scalars_over_frames(tmp_path):
    config = Config()
    write_rows(tmp_path, [make_row(40, note="text", **{"loss/total": np.float32(1.5)})], config)
    scalars = [(step, values) for step, values, _ in read_events(tmp_path / "tensorboard") if values]
    assert scalars == [(40, {"train/loss/total": 1.5})]


def test_tensorboard_forgets_what_is_written_again(tmp_path):
    config = Config()
    write_rows(tmp_path, [make_row(frames, x=1.0) for frames in (10, 20, 30)], config)
    truncate(tmp_path, frames=20)
    MetricsLog(tmp_path, config, resume=True).close()
    assert [step for step, _, start in read_events(tmp_path / "tensorboard") if start] == [21]


def test_missing_wandb_is_explained_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        MetricsLog(tmp_path / "run", Config(train=TrainConfig(wandb=True)))
    assert not (tmp_path / "run").exists()


def test_wandb_gets_the_same_numbers(tmp_path, monkeypatch):
    logged, started = [], {}
    run = types.SimpleNamespace(define_metric=lambda *_, **__: None, log=logged.append, finish=lambda: logged.append("end"))
    fake = types.SimpleNamespace(init=lambda **options: started.update(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = Config(train=TrainConfig(tensorboard=False, wandb=True))
    write_rows(tmp_path / "task" / "preset-0", [make_row(8, "eval", return_mean=2.0)], config)
    counters = {"frames": 8, "decisions": 8, "updates": 4, "wall_seconds": 1.0}
    assert logged == [{"eval/return_mean": 2.0, **counters}, "end"]
    assert (started["id"], started["resume"]) == ("task-preset-0", "allow")
