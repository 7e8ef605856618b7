"""Dreams of a training: files beside each evaluation, shown to other callbacks, and a run that is the same without them."""

import logging
from collections import deque

import imageio.v3 as iio
import numpy as np
import pytest
from counting import tiny_config
from stopping import assert_same, last, rows

from dreamer_jax.core.config import Config
from dreamer_jax.core.section import Section
from dreamer_jax.play.dreams import SAMPLES, Dream
from dreamer_jax.play.policy import load_policy
from dreamer_jax.runs.counters import Counters
from dreamer_jax.training import start
from dreamer_jax.training.callbacks import dreams
from dreamer_jax.training.callbacks.base import RunView
from dreamer_jax.training.callbacks.dreams import Dreams

SMALL = {"train__frames": 60, "eval__every": 25}


def test_a_run_with_dreams_is_the_run_without(tmp_path, monkeypatch, caplog):
    """Two seeds: rows, checkpoints and sampling are the same, one program serves all dreams, and each evaluation has one."""
    made = []
    monkeypatch.setattr(dreams, "Dreamer", lambda *arguments, make=dreams.Dreamer: made.append(make(*arguments)) or made[-1])
    caplog.set_level(logging.WARNING, "dreamer_jax")
    quiet = start.train_seeds(tiny_config(tmp_path / "quiet", **SMALL), 2)
    dreaming = start.train_seeds(tiny_config(tmp_path / "dreaming", eval__dreams=True, train__tensorboard=True, **SMALL), 2)
    for one, two in zip(quiet, dreaming, strict=True):
        assert rows(one) == rows(two)
        assert_same(last(one), last(two))
        assert not (one / "dreams").exists()
        assert sorted(path.name for path in (two / "dreams").iterdir()) == ["25.png", "50.png", "60.png"]
        (events,) = (two / "tensorboard").iterdir()
        assert events.read_bytes().count(b"dreams/figure") == 3
    assert not caplog.records
    (dreamer,) = made
    assert dreamer._imagine._cache_size() == 1


def test_the_figure_is_of_the_replay_and_the_agent(tmp_path, monkeypatch):
    """Recorded rewards of the counting environment are the number of the step, whichever episodes were chosen."""
    seen = []
    draw = dreams.draw_figure
    monkeypatch.setattr(dreams, "draw_figure", lambda dream, title: seen.append((dream, title)) or draw(dream, title))
    config = tiny_config(tmp_path, train__frames=40, eval__every=0, eval__dreams=True)
    run = start.train(config)
    ((dream, title),) = seen  # of the evaluation at the end
    assert title == "import:counting:five, frame 40: recorded and imagined"
    assert dream.length.tolist() == [6] * 4
    np.testing.assert_array_equal(dream.reward[0], np.tile(np.arange(6), (4, 1)))
    np.testing.assert_array_equal(dream.values["observation"][0][..., 0], np.tile(np.arange(6), (4, 1)))
    assert iio.imread(run / "dreams" / "40.png").shape[-1] == 3


@pytest.fixture
def view(tmp_path):
    """A run at frame 7 whose `show` is recorded in `view.shown`."""
    shown = []
    made = RunView(Config(), tmp_path, Counters(frames=7), deque(), _NoReplay(), lambda run, *rest: shown.append((run, *rest)))
    made.shown = shown
    return made


class _NoReplay:
    """Stands for the replay where the dream does not come from it."""

    rng, queue, storage = None, [], {}


def test_images_become_a_video(view, finished_run, monkeypatch):
    """Shown, and written twice as large; then the figure."""
    real = np.repeat(np.arange(0, 180, 30, dtype=np.uint8), 64 * 64 * 3).reshape(1, 6, 64, 64, 3)
    reward = np.zeros((1, 6)), np.zeros((1, SAMPLES, 6))
    dream = Dream(np.array([6]), np.array([2]), {"camera": (real, real / 255)}, {}, reward)
    monkeypatch.setattr(dreams, "Dreamer", lambda *arguments: lambda *numbers: dream)
    Dreams(Section()).evaluation(view, load_policy(finished_run), {})
    (_, name, video, fps), (_, figure_name, figure, _) = view.shown
    assert (name, figure_name) == ("dreams/video", "dreams/figure")
    written = iio.imread(view.folder / "dreams" / "7.mp4", plugin="pyav")
    assert written.shape == (6, 2 * video.shape[1], 2 * video.shape[2], 3)
    assert np.abs(written[:, ::2, ::2].astype(int) - video).mean() < 6
    assert iio.immeta(view.folder / "dreams" / "7.mp4", plugin="pyav")["fps"] == fps
    assert [int(frame[20, 20, 0]) for frame in video] == [0, 30, 60, 90, 120, 150]
    np.testing.assert_array_equal(iio.imread(view.folder / "dreams" / "7.png"), figure[0])


def test_nothing_is_written_while_there_is_nothing_to_dream_of(view, finished_run, monkeypatch, caplog):
    monkeypatch.setattr(dreams, "Dreamer", lambda *arguments: lambda *numbers: None)
    Dreams(Section()).evaluation(view, load_policy(finished_run), {})
    assert not (view.folder / "dreams").exists()
    assert not view.shown
    assert not caplog.records


def test_a_dream_that_fails_costs_a_warning(tmp_path, monkeypatch, caplog):
    """The run goes on, and is evaluated."""

    def fail(*arguments):
        raise RuntimeError("no ink\nleft")

    monkeypatch.setattr(dreams, "draw_figure", fail)
    caplog.set_level(logging.WARNING, "dreamer_jax")
    run = start.train(tiny_config(tmp_path, train__frames=40, eval__every=0, eval__dreams=True))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("no dream at frame 40: RuntimeError: no ink left")
    assert "\n" not in record.getMessage()
    assert (run / "evaluation.json").exists()
    assert not list((run / "dreams").iterdir())
