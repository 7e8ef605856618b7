"""Environment processes that die or hang: noticed, started anew, and nobody else's episode is touched."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from counting import tiny_config
from failing import SEEDS

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import EnvError
from dreamer_jax.core.presets import parse_config, read_yaml, write_yaml
from dreamer_jax.envs import EpisodeState, Step, VectorEnv, make_vector_env, workers
from dreamer_jax.envs.episodes import episode_seed, restart_seed
from dreamer_jax.play.evaluate import play_episodes
from dreamer_jax.runs.metrics import read_metrics
from dreamer_jax.training import loop, start


def opened(function: str, seeds=SEEDS, **options) -> contextlib.closing[VectorEnv]:
    """Environments of `failing` in processes."""
    config = EnvConfig(task=f"import:failing:{function}", processes=True, **options)
    return contextlib.closing(make_vector_env(config, seeds))


def undisturbed(seed: int, steps: int) -> list[Step]:
    """The records of one environment that never fails."""
    with contextlib.closing(make_vector_env(EnvConfig(task="import:counting:five"), [seed])) as envs:
        return [envs.reset(), *(envs.step(one_hot(1)) for _ in range(steps))]


def one_hot(num_envs: int) -> np.ndarray:
    return np.tile(np.float32([1, 0, 0]), (num_envs, 1))


def assert_same(one: Step, two: Step) -> None:
    np.testing.assert_array_equal(one.obs["observation"], two.obs["observation"])
    for name in ("reward", "is_first", "is_last", "is_terminal", "success"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


@pytest.mark.parametrize(
    ("function", "options", "fails_at", "reason"),
    [
        ("killed", {}, 3, "ended unexpectedly (exit code -9)"),
        ("left", {}, 3, "ended unexpectedly (exit code 3)"),
        ("killed_beside_a_child", {"timeout": 5}, 3, "ended unexpectedly (exit code -9)"),
        ("hung", {"timeout": 2}, 3, "did not answer for 2 s"),
        ("killed_in_reset", {}, 6, "ended unexpectedly (exit code -9)"),
    ],
)
def test_a_process_that_fails_is_started_anew(function, options, fails_at, reason, caplog):
    """Its successor's reset, with another seed, takes the place of the record; the other environment is undisturbed."""
    with opened(function, **options) as envs:
        records = [envs.reset(), *(envs.step(one_hot(2)) for _ in range(fails_at))]
        for process in multiprocessing.active_children():  # both leave it to the main process to stop
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(process.pid, number)
        records += [envs.step(one_hot(2)) for _ in range(7)]
        state = envs.episodes()[1]
    steps = fails_at + 7
    first, second = (
        undisturbed(SEEDS[0], steps),
        undisturbed(SEEDS[1], fails_at - 1) + undisturbed(restart_seed(SEEDS[1], 1), 7),
    )
    for record, one, two in zip(records, first, second, strict=True):
        assert_same(record[:1], one)
        assert_same(record[1:], two)
    cut = records[fails_at][1:]
    assert (cut.is_first, cut.is_last, cut.is_terminal, cut.reward) == (True, False, False, 0)
    assert (state.seed, state.number, len(state.actions)) == (restart_seed(SEEDS[1], 1), 1, 1)
    line = f"import:failing:{function}: environment 1 {reason}; its episode is cut off and it is started anew (restart 1 of 10)"
    assert caplog.messages == [line]


def test_a_restart_has_a_seed_of_its_own():
    """Neither that of an episode of its environment nor that of another restart."""
    seeds = [restart_seed(seed, count) for seed in SEEDS for count in range(1, 20)]
    seeds += [episode_seed(seed, number) for seed in SEEDS for number in range(20)]
    assert len(set(seeds)) == 2 * 19 + 2 * 20
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_restarts_are_limited(caplog):
    with opened("always_killed", [3], restarts=1) as envs:
        envs.reset()
        assert [envs.step(one_hot(1)).is_first.item() for _ in range(5)] == [False, False, True, False, False]
        with pytest.raises(
            EnvError,
            match=r"process ended unexpectedly \(exit code -9\), and env.restarts=1 are used up;.*--env.processes false",
        ):
            envs.step(one_hot(1))
    assert caplog.text.count("restart 1 of 1") == 1


@pytest.mark.parametrize(
    ("function", "start", "message"),
    [
        (
            "killed_at_start",
            60.0,
            r"^import:failing:killed_at_start: an environment process ended unexpectedly \(exit code -9\);",
        ),
        ("hung_at_start", 1.5, "an environment process did not answer for 2 s; .*--env.timeout"),
    ],
)
def test_a_process_that_fails_at_its_start_is_an_error(function, start, message, monkeypatch):
    monkeypatch.setattr(workers, "_START_SECONDS", start)
    monkeypatch.setattr(workers, "_CLOSE_SECONDS", 0.5)
    with pytest.raises(EnvError, match=message):
        opened(function, [3], timeout=0.5)
    assert not multiprocessing.active_children()


def test_a_process_that_cannot_be_started_is_an_error(monkeypatch):
    def full(self, *arguments):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(workers._Worker, "__init__", full)
    with pytest.raises(
        EnvError, match=r"no process could be started for one of 2 environments: OSError: .*Too many open files"
    ):
        opened("killed")


@pytest.mark.parametrize("processes", [False, True])
def test_an_error_names_its_environment(processes):
    with contextlib.closing(make_vector_env(EnvConfig(task="import:failing:raising", processes=processes), SEEDS)) as envs:
        envs.reset()
        envs.step(one_hot(2))
        envs.step(one_hot(2))
        with pytest.raises(
            EnvError, match=r"^environment 1: import:failing:raising at step 3 of the episode: step raised KeyError"
        ):
            envs.step(one_hot(2))


def test_a_hung_process_does_not_keep_close_waiting(monkeypatch):
    """As after a second Ctrl-C, in the midst of a step."""
    monkeypatch.setattr(workers, "_CLOSE_SECONDS", 0.5)
    previous = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        with opened("hung") as envs:
            envs.reset()
            envs.step(one_hot(2))
            envs.step(one_hot(2))
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            with pytest.raises(KeyboardInterrupt):
                envs.step(one_hot(2))
            begun = time.monotonic()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert time.monotonic() - begun < 5
    assert not multiprocessing.active_children()


def test_a_process_that_dies_between_steps_is_playing_nothing_known(caplog):
    """Its state has the next episode follow; in the run itself the next step starts it anew."""
    with opened("raising", [3, 4, 5]) as envs:
        envs.reset()
        envs.step(one_hot(3))
        victim = multiprocessing.active_children()[0]
        victim.kill()
        victim.join()
        states = envs.episodes()
        step = envs.step(one_hot(3))
    played = np.array([len(state.actions) for state in states])
    assert sorted(played) == [0, 1, 1]
    np.testing.assert_array_equal(step.is_first, played == 0)
    assert caplog.text.count("started anew") == 1
    with contextlib.closing(make_vector_env(EnvConfig(task="import:counting:five"), [6, 7, 8])) as others:
        np.testing.assert_array_equal(others.reset(states).is_first, played == 0)


def test_a_time_in_which_everything_was_stopped_counts_for_little(monkeypatch):
    """Of the hour only one second: else a job that was suspended would find all its environments hung."""
    clock, calls = SimpleNamespace(now=0.0), []

    def wait(objects, seconds):
        calls.append(seconds)
        clock.now += 3600 if len(calls) == 2 else seconds
        return []

    monkeypatch.setattr(workers, "wait", wait)
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: clock.now))
    assert workers._Patience(3.5).wait([]) == []
    assert calls == [1, 1, 1, 0.5]


def test_repeating_an_episode_may_take_as_long_as_its_steps(monkeypatch):
    asked = []
    monkeypatch.setattr(workers._Patience, "__init__", lambda self, seconds: asked.append(seconds))
    monkeypatch.setattr(workers._Worker, "receive", lambda self, patience: True)
    with opened("raising", [3, 4], timeout=2) as envs:
        envs._envs.reset([EpisodeState(3, 0, np.zeros((7, 3), np.float32), 0), None])
    assert asked == [workers._START_SECONDS + 2, 2 * (1 + 7)]


class Still:
    """A policy that takes choice 0."""

    def initial(self, batch, seed):
        return None

    def __call__(self, obs, carry, is_first):
        return one_hot(len(is_first)), carry


def test_an_evaluation_does_not_count_a_cut_episode():
    with opened("killed") as envs:
        returns, lengths, _ = play_episodes(Still(), envs, [2, 2], seed=0)
    assert (returns, lengths) == ([15.0] * 4, [5] * 4)


# Whole runs


def test_training_goes_on_past_a_killed_process(tmp_path, caplog, monkeypatch):
    """To its last frame; the cut episode is truncated, not terminal. The run can go on under other limits."""
    trainings, train = [], loop.Training.train
    monkeypatch.setattr(loop.Training, "train", lambda self: trainings.append(self) or train(self))
    changes = {"env__task": "import:failing:killed_alone", "env__processes": True, "eval__final_episodes": 1}
    run = start.train(tiny_config(tmp_path, train__frames=40, **changes))
    assert caplog.text.count("is started anew (restart 1 of 10)") == 1
    rows = read_metrics(run / "metrics.jsonl")
    assert rows[-1]["frames"] == 40
    episodes = [(row["frames"], row["return"], row["length"]) for row in rows if row["kind"] == "episode"]
    assert episodes == [(2 + 5 * i, 15.0, 5) for i in range(1, 8)]  # the first was cut off after two decisions

    [replay] = [one.replay for one in trainings[0].runs]
    begin = replay.context
    sampled = replay.sample(200)
    window = np.flatnonzero(sampled.first == begin)[0]  # from its first record, or its second where one is the context
    np.testing.assert_array_equal(sampled.is_first[window], [1, 0, 0, 1, 0, 0, 0, 0, 0, 1][begin : begin + 8])
    np.testing.assert_array_equal(sampled.is_last[window], [0, 0, 1, 0, 0, 0, 0, 0, 1, 0][begin : begin + 8])
    np.testing.assert_array_equal(sampled.is_terminal[window], [0, 0, 0, 0, 0, 0, 0, 0, 1, 0][begin : begin + 8])
    np.testing.assert_array_equal(sampled.reward[window], [0, 1, 2, 0, 1, 2, 3, 4, 5, 0][begin : begin + 8])

    values = read_yaml(run / "config.yaml")
    values["train"]["frames"] = 50
    values["env"] |= {"timeout": 100.0, "restarts": 3}
    write_yaml(parse_config(values, "test"), run / "config.yaml")
    start.resume(run)
    assert read_metrics(run / "metrics.jsonl")[-1]["frames"] == 50


def test_a_process_that_dies_before_a_checkpoint_does_not_prevent_it(tmp_path, monkeypatch):
    """Two steps into an episode of five at frame 32; the run that goes on begins another, and counts it from its beginning."""
    retire = loop.Training._retire_finished

    def stopping(self):
        retire(self)
        if self.collector.frames == 32:
            [process] = multiprocessing.active_children()
            process.kill()
            process.join()
            self.stop.requested = True

    changes = {"env__processes": True, "train__frames": 50, "eval__final_episodes": 1}
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "_retire_finished", stopping)
        run = start.train(tiny_config(tmp_path, **changes))
    assert (run / "checkpoints" / "32" / "in_flight").exists()
    start.resume(run)
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "episode"]
    assert [row["frames"] for row in rows] == [5, 10, 15, 20, 25, 30, 37, 42, 47]
    assert {(row["return"], row["length"]) for row in rows} == {(15.0, 5)}
