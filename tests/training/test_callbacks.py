"""Callbacks: which are chosen, what they are told in which order, and that they break nothing."""

import contextlib
import logging

import numpy as np
import pytest
from counting import tiny_config
from stopping import assert_same, last, rows, stop_next_run

from dreamer_jax.core.config import Config, EvalConfig, TrainConfig
from dreamer_jax.core.errors import CallbackError, EnvError
from dreamer_jax.core.extensions import DOORS, Registry
from dreamer_jax.core.section import Section
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.metrics import read_metrics
from dreamer_jax.training import start
from dreamer_jax.training.callbacks.base import Callback
from dreamer_jax.training.callbacks.group import Callbacks, chosen_callbacks

SMALL = {"train__frames": 60, "eval__every": 25}


@pytest.fixture(autouse=True)
def registry(monkeypatch) -> Registry:
    """The door, which is as it was after each test."""
    door = DOORS["callback"]
    monkeypatch.setattr(door, "_classes", {name: door.get(name) for name in ("terminal", "tensorboard", "dreams")})
    return door


@pytest.fixture
def watch(registry):
    """watch(**methods): a callback "watch" with these methods, and all others as they are in the base class."""

    def add(**methods) -> type[Callback]:
        made = type("Watch", (Callback,), methods)
        registry.add("watch", made)
        return made

    return add


def test_the_configuration_chooses(watch):
    made = watch()
    made.Options = type("Options", (Section,), {"__annotations__": {"every": int}, "every": 3})
    config = Config(train=TrainConfig(tensorboard=False, callbacks=("watch",)), eval=EvalConfig(dreams=False))
    terminal, own = chosen_callbacks(config)
    assert (terminal.name, own.name, own.options.every) == ("terminal", "watch", 3)
    names = [one.name for one in chosen_callbacks(Config(train=TrainConfig(callbacks=("terminal",))))]
    assert names == ["terminal", "tensorboard", "dreams"]


def test_an_error_while_it_is_made_is_named(watch):
    watch(__init__=lambda self, options: 1 / 0)
    with pytest.raises(
        CallbackError, match=r"callback 'watch' raised ZeroDivisionError: .*test_callbacks.py:\d+\) in __init__"
    ):
        chosen_callbacks(Config(train=TrainConfig(callbacks=("watch",))))


def test_what_is_not_overridden_is_not_called():
    """Above all `step`, of which there are thousands a second."""
    group = Callbacks([Callback(None)])
    assert set(map(len, group._of.values())) == {0}


def test_a_training_is_told_in_order(tmp_path, watch, without_learning):
    """Two seeds of 60 frames in episodes of five, with evaluations at frames 25 and 50 and at the end."""
    told: list[tuple] = []

    def telling(event):
        def method(self, *arguments):
            told.append((event, *arguments))

        return method

    events = ("start", "step", "row", "progress", "checkpoint", "evaluation", "media", "end")
    watch(**{event: telling(event) for event in events})
    runs = start.train_seeds(tiny_config(tmp_path, train__callbacks=("watch",), **SMALL), 2)

    assert [told[0][0], told[-1][0]] == ["start", "end"]
    views = told[0][1]
    assert [view.folder for view in views] == runs
    assert told[-1][1:] == (views, "finished")
    # 60 decisions and 11 resets between 12 episodes, one environment each.
    assert sum(event == "step" for event, *_ in told) == 71
    for view in views:
        shown = [dict(row) for event, *rest in told if event == "row" and rest[0] is view for row in rest[1:]]
        assert shown == read_metrics(view.folder / "metrics.jsonl")
        evaluated = [rest[1].deterministic for event, *rest in told if event == "evaluation" and rest[0] is view]
        assert evaluated == [True] * 3
        saved = [rest[1] for event, *rest in told if event == "checkpoint" and rest[0] is view]
        assert saved == [25, 50, 60]
    reports = [rest[0] for event, *rest in told if event == "progress"]
    assert [report.frames for report in reports] == [20, 40, 60]
    assert [report.done for report in reports] == [False, False, True]
    assert reports[-1].returns == [(15.0,) * 10] * 2


def test_callbacks_change_nothing(tmp_path, watch):
    """One that tries: rows, checkpoint and sampling are those of a run without it."""

    def meddle(self, run, row):
        run.counters.frames += 1000
        if run.replay.items:
            run.replay.sample(2)
        run.replay.queue.clear()
        run.replay.added = 0
        with pytest.raises(ValueError, match="read-only"):
            run.replay.storage["reward"][:] = 7.0
        with pytest.raises(TypeError):
            row["frames"] = 0

    def meddle_more(self, run, policy, result):
        result["returns"].clear()
        carry = policy.initial(1, 0)
        policy({"observation": np.zeros((1, 2), np.float32)}, carry, np.ones(1, bool))

    watch(row=meddle, evaluation=meddle_more)
    changes = {**SMALL, "replay__context": 1, "replay__online": True}
    watched = start.train(tiny_config(tmp_path / "watched", train__callbacks=("watch",), **changes))
    alone = start.train(tiny_config(tmp_path / "alone", **changes))
    assert rows(watched) == rows(alone)
    assert_same(last(watched), last(alone))
    assert (watched / "evaluation.json").read_text().count("15.0") > 6


def failing_at(frames: int, error: type[Exception] = RuntimeError):
    """A method that raises an error at a row with so many frames."""

    def row(self, run, row):
        if row["frames"] == frames:
            raise error("the disk of somebody else")

    return row


@pytest.mark.parametrize("event", ["an episode", "an evaluation"])
def test_an_error_ends_the_run_with_a_checkpoint(tmp_path, watch, without_learning, event):
    """In the midst of a step too: it ends as after a signal, and goes on as if nothing had been."""
    frames = {"an episode": 35, "an evaluation": 25}[event]
    ended = []
    watch(row=failing_at(frames), end=lambda self, runs, status: ended.append(status))
    with pytest.raises(CallbackError) as refused:
        start.train(tiny_config(tmp_path / "watched", train__callbacks=("watch",), **SMALL))
    assert str(refused.value).startswith(
        "the callback 'watch' raised RuntimeError: the disk of somebody else (test_callbacks.py:"
    )
    assert str(refused.value).endswith(") in row")
    assert ended == ["failed"]
    [run] = (tmp_path / "watched" / "import_counting_five").iterdir()
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        assert checkpoints.resolve("last") == frames
    watch()
    start.resume(run)
    alone = start.train(tiny_config(tmp_path / "alone", **SMALL))
    assert rows(run) == rows(alone)
    assert_same(last(run), last(alone))


def test_an_error_of_this_project_comes_through_as_it_is(tmp_path, watch, without_learning):
    watch(row=failing_at(35, EnvError))
    with pytest.raises(EnvError, match=r"^the disk of somebody else$"):
        start.train(tiny_config(tmp_path, train__callbacks=("watch",), **SMALL))
    [run] = (tmp_path / "import_counting_five").iterdir()
    assert (run / "checkpoints" / "35").is_dir()


def test_an_error_at_the_start_leaves_no_run(tmp_path, watch, without_learning):
    def start_badly(self, runs):
        raise KeyError("no such host")

    ended = []
    watch(start=start_badly, end=lambda self, runs, status: ended.append(status))
    with pytest.raises(CallbackError, match=r"'no such host' .* in start"):
        start.train(tiny_config(tmp_path, train__callbacks=("watch",), **SMALL))
    assert list((tmp_path / "import_counting_five").iterdir()) == []
    assert ended == ["failed"]


def test_an_error_at_the_end_is_logged(tmp_path, watch, without_learning, caplog):
    watch(end=lambda self, runs, status: 1 / 0)
    run = start.train(tiny_config(tmp_path, train__callbacks=("watch",), **SMALL))
    assert (run / "evaluation.json").exists()
    [line] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith("the callback 'watch' raised ZeroDivisionError")


def test_a_stopped_run_says_so(tmp_path, watch, without_learning, monkeypatch):
    ended = []
    watch(end=lambda self, runs, status: ended.append((status, runs[0].counters.frames)))
    stop_next_run(monkeypatch, 31)
    start.train(tiny_config(tmp_path, train__callbacks=("watch",), **SMALL))
    assert ended == [("stopped", 31)]


def test_what_one_shows_all_see(tmp_path, watch, without_learning, registry):
    seen = []
    shown = np.zeros((2, 4, 6, 3), np.uint8)

    class Shows(Callback):
        def evaluation(self, run, policy, result):
            run.show("dream", shown, 10)

    registry.add("shows", Shows)
    watch(media=lambda self, *arguments: seen.append(arguments[1:]))
    start.train(tiny_config(tmp_path, train__callbacks=("shows", "watch"), **SMALL | {"eval__every": 0}))
    [(name, frames, fps)] = seen
    assert (name, frames is shown, fps) == ("dream", True, 10)


def test_frames_that_are_none_are_the_error_of_who_shows_them(tmp_path, without_learning, registry):
    class Shows(Callback):
        def evaluation(self, run, policy, result):
            run.show("dream", np.zeros((4, 6, 3), np.uint8), 10)

    registry.add("shows", Shows)
    with pytest.raises(CallbackError, match=r"'shows' raised ValueError: 'dream' is uint8\[4, 6, 3\]; uint8\[T, H, W, 3\]"):
        start.train(tiny_config(tmp_path, train__callbacks=("shows",), **SMALL))
