"""TensorBoard and Weights & Biases get the numbers of `metrics.jsonl`, pictures and videos."""

import io
import sys
import types
from collections import deque
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from counting import tiny_config
from metrics_rows import make_row, write_rows

from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.section import Section
from dreamer_jax.runs.counters import Counters
from dreamer_jax.runs.metrics import MetricsLog, truncate
from dreamer_jax.training import start
from dreamer_jax.training.callbacks.base import RunView
from dreamer_jax.training.callbacks.tensorboard import TensorBoard

FADING = np.repeat(np.uint8([0, 120, 240]), 6 * 8 * 3).reshape(3, 6, 8, 3)  # a video of three frames


def view(folder: Path, frames: int = 0) -> RunView:
    return RunView(Config(), folder, Counters(frames=frames), deque(), None, lambda *_: None)


def read_events(folder):
    """(step, values by tag, is a session start) of every TensorBoard event, in the order written."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):  # u64 length, u32 checksum, the event, u32 checksum
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16
            values = {value.tag: value for value in event.summary.value}
            yield event.step, values, event.session_log.status == SessionLog.START


def written(run: RunView, *calls) -> None:
    """Passes events to a TensorBoard callback from its start to its end: (method, arguments after the run)."""
    callback = TensorBoard(Section())
    callback.start([run])
    for name, *arguments in calls:
        getattr(callback, name)(run, *arguments)
    callback.end([run], "finished")


def test_tensorboard_holds_the_scalars_over_frames(tmp_path):
    written(view(tmp_path), ("row", make_row(40, note="text", **{"loss/total": 1.5})))
    scalars = [
        (step, {tag: value.simple_value for tag, value in values.items()})
        for step, values, _ in read_events(tmp_path / "tensorboard")
        if values
    ]
    assert scalars == [(40, {"train/loss/total": 1.5})]


def test_tensorboard_forgets_what_is_written_again(tmp_path):
    write_rows(tmp_path, [make_row(frames) for frames in (10, 20, 30)])
    truncate(tmp_path, frames=20)
    log = MetricsLog(tmp_path, resume=True)
    log.close()
    run = view(tmp_path)
    run.last_frames = log.last_frames
    written(run)
    assert [step for step, _, start in read_events(tmp_path / "tensorboard") if start] == [21]


def test_tensorboard_shows_a_video_and_a_picture(tmp_path):
    written(view(tmp_path, frames=7), ("media", "video", FADING, 20), ("media", "picture", FADING[1:2], 1))
    events = read_events(tmp_path / "tensorboard")
    images = {tag: (step, value.image) for step, values, _ in events for tag, value in values.items()}
    for name, brightness in (("video", [0, 120, 240]), ("picture", [120])):
        step, image = images[name]
        assert (step, image.height, image.width) == (7, 6, 8)
        shown = iio.imread(io.BytesIO(image.encoded_image_string), index=None)
        assert shown.reshape((len(brightness), 6, 8, -1))[..., 0].mean((1, 2)) == pytest.approx(brightness, abs=2)


def test_missing_wandb_is_explained_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        start.train(tiny_config(tmp_path / "runs", train__wandb=True))
    assert not (tmp_path / "runs").exists()


def test_wandb_gets_the_same_numbers(tmp_path, monkeypatch):
    logged, begun = [], {}
    run = types.SimpleNamespace(define_metric=lambda *_, **__: None, log=logged.append, finish=lambda: logged.append("end"))

    def video(data, format):
        return len(iio.imread(data, index=None))

    fake = types.SimpleNamespace(init=lambda **options: begun.update(options) or run, Image=np.shape, Video=video)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    from dreamer_jax.training.callbacks.wandb import WeightsAndBiases

    callback, run_view = WeightsAndBiases(Section()), view(tmp_path / "task" / "preset-0", frames=8)
    callback.start([run_view])
    callback.row(run_view, make_row(8, "eval", return_mean=2.0))
    callback.media(run_view, "picture", FADING[:1], 1)
    callback.media(run_view, "video", FADING, 20)
    callback.end([run_view], "finished")
    counters = {"frames": 8, "decisions": 8, "updates": 4, "wall_seconds": 1.0}
    media = [{"picture": (6, 8, 3), "frames": 8}, {"video": 3, "frames": 8}]
    assert logged == [{"eval/return_mean": 2.0, **counters}, *media, "end"]
    assert (begun["id"], begun["resume"]) == ("task-preset-0", "allow")
    assert begun["config"]["train"]["frames"] == Config().train.frames
    assert "reinit" not in begun
    WeightsAndBiases(Section()).start([run_view, view(tmp_path / "task" / "preset-1")])
    assert begun["reinit"] == "create_new"  # a second one would end the first
