"""Runs that go on: with changes, with their imports, from another run's agent, and until an end other than their frames."""

import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from counting import Counting, tiny_config
from stopping import assert_same, last, rows, stop_next_run

from dreamer_jax.core import extensions
from dreamer_jax.core.config import Config, TrainConfig
from dreamer_jax.core.errors import STOPPED, CheckpointError, ConfigError, EnvError, RunError
from dreamer_jax.core.extensions import DOORS
from dreamer_jax.core.presets import read_config, read_yaml
from dreamer_jax.play.policy import load_policy
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.counters import Counters
from dreamer_jax.runs.folder import open_run
from dreamer_jax.runs.metrics import read_metrics
from dreamer_jax.runs.status import read_status
from dreamer_jax.training import build, seed_run, start
from dreamer_jax.training.ending import end_reason

SMALL = {"train__frames": 60, "eval__every": 25}


def read_agent(run: Path) -> dict:
    """The arrays of a run's last agent, in nested mappings."""
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        return checkpoints.read_agent(checkpoints.resolve("last"))


# Changes


@pytest.mark.slow  # a minute and a half
def test_a_finished_run_goes_on_for_longer(tmp_path):
    """It ends as the run that was as long from the beginning, and its configuration says so."""
    run = start.train(tiny_config(tmp_path / "longer", **SMALL))
    first = json.loads((run / "evaluation.json").read_text())
    start.resume(run, {"train": {"frames": "90"}, "eval.final_episodes": 4})
    config = read_config(run / "config.yaml")
    assert (config.train.frames, config.eval.final_episodes) == (90, 4)
    second = json.loads((run / "evaluation.json").read_text())
    assert (first["frames"], second["frames"], second["sampled"]["episodes"]) == (60, 90, 4)
    assert json.loads((run / "set_aside" / "evaluation-60.json").read_text()) == first
    whole = start.train(tiny_config(tmp_path / "whole", **SMALL | {"train__frames": 90, "eval__final_episodes": 4}))
    # The shorter run had an evaluation and the rest of a row at its end.
    ours = [row for row in rows(run) if "'frames': 60" not in row and "'train'" not in row]
    assert ours == [row for row in rows(whole) if "'frames': 60" not in row and "'train'" not in row]
    names = {name for name in last(whole) if name.startswith(("agent", "latent"))}
    assert_same({name: last(run)[name] for name in names}, {name: last(whole)[name] for name in names})


def test_without_frames_left_it_stays_evaluated_until_it_goes_on(tmp_path, without_learning, monkeypatch):
    """While it goes on it has no evaluation, so that reports do not take it for finished."""
    run = start.train(tiny_config(tmp_path, **SMALL))
    stop_next_run(monkeypatch, 70)
    start.resume(run, {"train.frames": 90})
    assert not (run / "evaluation.json").exists()
    start.resume(run)
    assert json.loads((run / "evaluation.json").read_text())["frames"] == 90


def test_what_makes_another_run_of_it_is_refused_with_what_does_not(tmp_path, without_learning):
    run = start.train(tiny_config(tmp_path, **SMALL))
    before = (run / "config.yaml").read_bytes()
    for name, value in {"model.deter": 32, "seed": 1, "imports": "x", "train.init_from": "x", "replay.capacity": 500}.items():
        with pytest.raises(ConfigError, match=rf"^--{name} cannot be changed when a run goes on; what can be: ") as refused:
            start.resume(run, {name: value})
        listed = str(refused.value).partition("what can be: ")[2].split(", ")
        assert {"train.frames", "train.callbacks", "eval.every", "replay.storage", "env.timeout", "device"} <= {*listed}
        assert not {"train.init_from", "train.init_parts", "imports", "preset", "env.task", "replay.capacity"} & {*listed}
    with pytest.raises(ConfigError, match=r"unknown option --train\.framez; did you mean 'train\.frames'"):
        start.resume(run, {"train.framez": 5})
    with pytest.raises(ConfigError, match=r"train\.frames='many'"):
        start.resume(run, {"train.frames": "many"})
    assert (run / "config.yaml").read_bytes() == before


def test_changes_are_written_only_when_everything_could_be_read(tmp_path, without_learning):
    run = start.train(tiny_config(tmp_path, **SMALL))
    before = (run / "config.yaml").read_bytes()
    shutil.rmtree(run / "replay")
    with pytest.raises(CheckpointError, match="none of its checkpoints can be read"):
        start.resume(run, {"train.frames": 90})
    assert (run / "config.yaml").read_bytes() == before


def test_seeds_are_changed_together(tmp_path, without_learning):
    runs = start.train_seeds(tiny_config(tmp_path, **SMALL), 2)
    start.resume_seeds(runs, {"train.frames": 80})
    assert [open_run(run).train.frames for run in runs] == [80, 80]
    assert [read_metrics(run)[-1]["frames"] for run in runs] == [80, 80]


# Imports

EXTENSION = """
import counting
import dreamer_jax

class Options(dreamer_jax.Section):
    every: int = 3

@dreamer_jax.register("noting")
class Noting(dreamer_jax.Callback):
    Options = Options
    seen = []

    def start(self, runs):
        self.seen.append(self.options.every)
"""


@pytest.fixture
def extension(tmp_path, monkeypatch) -> str:
    """The name of a module that registers the callback "noting"; it is forgotten after the test."""
    name = f"going_on_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(EXTENSION)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("dreamer_jax.core.extensions._imported", [])
    classes = {built_in: DOORS["callback"].get(built_in) for built_in in ("terminal", "tensorboard", "dreams")}
    monkeypatch.setattr(DOORS["callback"], "_classes", classes)
    yield name
    sys.modules.pop(name, None)


def forget(name: str) -> None:
    """As in a new process."""
    extensions._imported.clear()
    del sys.modules[name]
    del DOORS["callback"]._classes["noting"]


def test_a_run_imports_again_what_it_was_started_with(tmp_path, extension, without_learning, said):
    chosen = {"imports": [extension], "train__callbacks": ["noting"], "extensions__noting__every": 7}
    run = start.train(tiny_config(tmp_path, **SMALL, **chosen))
    assert sys.modules[extension].Noting.seen == [7]
    forget(extension)
    assert open_run(run).train.frames == 60
    assert extension not in sys.modules  # reading a run imports nothing
    start.resume(run, {"train.frames": 80, "extensions.noting.every": "9"})
    assert f"{run} imports {extension}" in said()
    assert sys.modules[extension].Noting.seen == [9]
    assert read_yaml(run / "config.yaml")["extensions"] == {"noting": {"every": 9}}
    forget(extension)
    load_policy(run)
    assert extension in sys.modules


def test_a_module_that_is_gone_is_named(tmp_path, extension, without_learning):
    run = start.train(tiny_config(tmp_path, **SMALL, imports=[extension], train__callbacks=["noting"]))
    forget(extension)
    Path(tmp_path / f"{extension}.py").unlink()
    for function in (start.resume, load_policy):
        with pytest.raises(ConfigError, match=f"there is no module '?{extension}"):
            function(run)


# Another run's agent


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A run that has learned a little."""
    return start.train(tiny_config(tmp_path_factory.mktemp("teacher"), **SMALL, replay__context=1))


@pytest.fixture
def begun(monkeypatch) -> list:
    """The agents that trainings have started with, before any update, in the form of their checkpoints."""
    agents: list = []

    class Spy(build.Learner):
        def __init__(self, nets, config, states, replays):
            agents.extend(
                jax.device_get({name: value for name, value in vars(state).items() if name != "key"}) for state in states
            )
            super().__init__(nets, config, states, replays)

    monkeypatch.setattr(build, "Learner", Spy)
    return agents


def same(one, two) -> bool:
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(two)
    return len(leaves) == len(others) and all(map(np.array_equal, leaves, others))


@pytest.mark.parametrize("parts", ["all", "world_model"])
def test_a_run_starts_from_another_ones_agent(tmp_path, teacher, begun, said, without_learning, parts):
    """Two seeds: parameters are the other run's; optimisers and counters are fresh, and so is what is not taken."""
    config = tiny_config(tmp_path / "fresh", **SMALL)
    start.train(config)
    changes = {"train__init_from": f"{teacher}:60", "train__init_parts": parts, "optimizer__algorithm": "adam"}
    runs = start.train_seeds(tiny_config(tmp_path / "taught", **SMALL, **changes), 2)
    saved = read_agent(teacher)
    fresh, *taught = begun
    for agent in taught:
        for name in ("world_model", "actor", "critic"):
            taken = parts == "all" or name == "world_model"
            assert same(agent[name].params, saved[name]["params"]) == taken
            assert not any(np.any(leaf) for leaf in jax.tree.leaves(agent[name].opt_state))
        assert same(agent["slow_critic"], saved["slow_critic"]) == (parts == "all")
        assert (int(agent["step"]), float(agent["return_norm"].high)) == (0, 0.0)
    assert same(taught[0]["actor"].params, fresh["actor"].params) == (parts == "world_model")
    taken = "world model, actor, critic, slow critic" if parts == "all" else "world model"
    assert f"{taken}: taken from {teacher}, checkpoint 60\n" in said()
    assert read_metrics(runs[1])[0]["frames"] == 5


def test_taken_prototypes_keep_their_slow_encoder(tmp_path, begun, without_learning):
    """With all of the agent it is the other run's; with the world model alone a copy of the encoder that was taken."""
    own = {**SMALL, "model__representation": "prototypes"}
    teacher = start.train(tiny_config(tmp_path / "teacher", **own))
    for parts in ("all", "world_model"):
        start.train(tiny_config(tmp_path / parts, **own, seed=1, train__init_from=str(teacher), train__init_parts=parts))
    first, everything, model = begun
    assert same(everything["parts"], first["parts"])
    assert same(model["parts"], first["parts"])  # that of a run without updates is a copy of its encoder
    assert jax.tree.leaves(model["parts"])


def test_a_run_from_another_ones_agent_goes_on_as_any_other(tmp_path, teacher, monkeypatch):
    changes = {**SMALL, "train__init_from": str(teacher), "replay__context": 1}
    whole = start.train(tiny_config(tmp_path / "whole", **changes))
    stop_next_run(monkeypatch, 31)
    run = start.train(tiny_config(tmp_path / "stopped", **changes))
    start.resume(run)
    assert rows(run) == rows(whole)
    assert_same(last(run), last(whole))


def test_a_run_that_begins_again_takes_it_again(tmp_path, teacher, begun, monkeypatch, without_learning):
    stop_next_run(monkeypatch, 31)
    run = start.train(tiny_config(tmp_path, **SMALL, train__init_from=str(teacher)))
    shutil.rmtree(run / "checkpoints" / "31")
    shutil.rmtree(run / "checkpoints" / "25")
    start.resume(run)
    assert same(begun[1]["actor"].params, read_agent(teacher)["actor"]["params"])


def test_an_agent_that_does_not_fit_is_refused_and_leaves_no_run(tmp_path, teacher, without_learning):
    """Of another width; and without a head that the new run has."""
    changes = {**SMALL, "train__init_from": str(teacher), "model__units": 16}
    with pytest.raises(CheckpointError) as refused:
        start.train(tiny_config(tmp_path, **changes))
    message = str(refused.value)
    assert f"train.init_from: the agent of {teacher}, checkpoint 60 does not fit: actor/" in message
    assert " is float32[8] there and float32[16] here; " in message
    assert "\n" not in message
    assert len(message) < 700
    with pytest.raises(CheckpointError, match=r"world_model/continue/\S+ is float32\S+ there and missing here"):
        start.train(tiny_config(tmp_path, **SMALL, train__init_from=str(teacher), model__continue_head=False))
    assert list((tmp_path / "import_counting_five").iterdir()) == []


def test_what_is_no_run_or_no_checkpoint_is_refused_before_there_is_a_folder(tmp_path, teacher, without_learning):
    for name, error, message in (
        (str(tmp_path / "nothing"), RunError, "is not a run"),
        (f"{teacher}:59", CheckpointError, "has no checkpoint '59'"),
    ):
        with pytest.raises(error, match=message):
            start.train(tiny_config(tmp_path / "runs", **SMALL, train__init_from=name))
    assert not (tmp_path / "runs").exists()


# Ends


@pytest.mark.parametrize(
    ("limits", "done", "recent", "reason"),
    [
        ({}, {"frames": 99}, [1e9] * 10, ""),
        ({}, {"frames": 100}, [], "frames"),
        ({"minutes": 0.5}, {"wall_seconds": 29.9}, [], ""),
        ({"minutes": 0.5}, {"wall_seconds": 30.0}, [], "minutes"),
        ({"target_return": 5}, {}, [0.0] * 5 + [10.0] * 5, "target_return"),
        ({"target_return": 5}, {}, [0.0] * 5 + [9.99] * 5, ""),
        ({"target_return": 5}, {}, [10.0] * 9, ""),  # not ten episodes yet
        ({"target_return": -7.5}, {}, [-7.5] * 10, "target_return"),
        ({"minutes": 0.5, "target_return": 5}, {"frames": 100, "wall_seconds": 60.0}, [5.0] * 10, "frames"),
    ],
)
def test_reasons_to_end(limits, done, recent, reason):
    assert end_reason(Config(train=TrainConfig(frames=100, **limits)), Counters(**done), recent) == reason


def test_a_target_ends_a_run_as_its_frames_would(tmp_path, without_learning):
    """Ten episodes of five decisions return 15 each: at frame 50. With a higher target it goes on."""
    run = start.train(tiny_config(tmp_path, **SMALL | {"train__frames": 90}, train__target_return=15))
    assert json.loads((run / "evaluation.json").read_text())["frames"] == 50
    assert (run / "checkpoints" / "50").is_dir()
    status = read_status(run)
    assert (status["status"], status["reason"], status["frames"]) == ("finished", "target_return", 50)
    start.resume(run)
    assert json.loads((run / "evaluation.json").read_text())["frames"] == 50
    start.resume(run, {"train.target_return": 15.5})
    assert json.loads((run / "evaluation.json").read_text())["frames"] == 90
    assert read_status(run)["reason"] == "frames"


def test_time_that_is_used_up_ends_a_run(tmp_path, without_learning):
    """The time of earlier parts counts, and another hour is gone on with."""
    run = start.train(tiny_config(tmp_path, **SMALL, train__minutes=1e-9))
    assert json.loads((run / "evaluation.json").read_text())["frames"] == 1
    assert read_status(run)["reason"] == "minutes"
    start.resume(run)
    assert json.loads((run / "evaluation.json").read_text())["frames"] == 1
    start.resume(run, {"train.minutes": 60})
    assert (read_status(run)["reason"], read_metrics(run)[-1]["frames"]) == ("frames", 60)


class Rising(Counting):
    """Environments made one after another reward 1, 2, ... for a step: seeds reach a target at different times."""

    made = 0

    def __init__(self, length):
        super().__init__(length)
        Rising.made += 1
        self.rank = Rising.made

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(self.rank * self.lifetime), *rest


def rising():
    return Rising(5)


def test_each_seed_is_retired_by_itself_at_its_target(tmp_path, without_learning, monkeypatch):
    """Step k of environment r rewards r k: the last ten episodes of five steps, up to step n, return 5 r (n - 24.5) each."""
    monkeypatch.setattr(Rising, "made", 0)
    config = tiny_config(tmp_path, env__task="import:test_going_on:rising", train__frames=150, train__target_return=400)
    runs = start.train_seeds(config, 2)
    ends = []
    for rank in (1, 2):
        n = next(n for n in range(50, 1000, 5) if 5 * rank * (n - 24.5) >= 400)
        ends.append(n)
    assert [json.loads((run / "evaluation.json").read_text())["frames"] for run in runs] == ends
    assert ends[0] > ends[1]
    assert {read_status(run)["reason"] for run in runs} == {"target_return"}


# How a run stands


def stopped_by(number: signal.Signals) -> type[Counting]:
    class Signalling(Counting):
        def step(self, action):
            if self.lifetime == 30:
                os.kill(os.getpid(), number)
            return super().step(action)

    return Signalling


def sigterm():
    return stopped_by(signal.SIGTERM)(5)


def sigusr1():
    return stopped_by(signal.SIGUSR1)(5)


def sigint():
    return stopped_by(signal.SIGINT)(5)


@pytest.mark.parametrize(("name", "exit_status"), [("SIGTERM", STOPPED), ("SIGUSR1", STOPPED), ("SIGINT", None)])
def test_a_signal_ends_a_run_with_a_checkpoint_and_a_status(tmp_path, without_learning, monkeypatch, name, exit_status):
    from dreamer_jax.cli import train as command

    config = tiny_config(tmp_path, env__task=f"import:test_going_on:{name.lower()}", **SMALL)
    handler = signal.getsignal(signal.Signals[name])
    with monkeypatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(command, "load_config", lambda preset, overrides: config)
        patch.setattr("dreamer_jax.agent.compiled.keep_compiled_programs", lambda: None)
        if exit_status:
            caught = stack.enter_context(pytest.raises(SystemExit))
        command.main([])
    if exit_status:
        assert caught.value.code == exit_status == 75
    assert signal.getsignal(signal.Signals[name]) is handler
    [run] = (tmp_path / f"import_test_going_on_{name.lower()}").iterdir()
    status = read_status(run)
    assert (status["status"], status["reason"], status["frames"]) == ("stopped", name, 31)
    assert status["resume"] == f"dreamer train --resume {run}"
    assert (run / "checkpoints" / "31").is_dir()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_during_the_last_evaluation_ends_it_at_once(tmp_path, without_learning, monkeypatch, name):
    """Everything has been saved by then. The run that goes on is evaluated."""

    def signalled(*_):
        os.kill(os.getpid(), signal.Signals[name])
        raise AssertionError("the signal has not ended the evaluation")

    evaluate = seed_run.evaluate
    with monkeypatch.context() as patch:
        patch.setattr(seed_run, "evaluate", signalled)
        run = start.train(tiny_config(tmp_path, **SMALL | {"eval__every": 0}))
    status = read_status(run)
    assert (status["status"], status["reason"]) == ("stopped", name)
    assert (run / "checkpoints" / str(status["frames"])).is_dir()
    assert not (run / "evaluation.json").exists()

    monkeypatch.setattr(seed_run, "evaluate", evaluate)
    start.resume(run)
    assert read_status(run)["status"] == "finished"
    assert (run / "evaluation.json").exists()


def test_a_running_run_says_so_with_each_checkpoint(tmp_path, without_learning, monkeypatch):
    seen = []
    save = Checkpoints.save

    def spy(self, frames, *rest):
        seen.append((frames, read_status(self.run)["status"], read_status(self.run)["frames"]))
        save(self, frames, *rest)

    monkeypatch.setattr(Checkpoints, "save", spy)
    run = start.train(tiny_config(tmp_path, **SMALL))
    assert seen == [(25, "running", 0), (50, "running", 25), (60, "running", 50)]
    assert (read_status(run)["status"], read_status(run)["reason"]) == ("finished", "frames")


class Breaking(Counting):
    def step(self, action):
        if self.lifetime == 40:
            raise OSError("the simulator has gone")
        return super().step(action)


def breaking():
    return Breaking(5)


def test_a_failed_run_says_why(tmp_path, without_learning):
    with pytest.raises(EnvError) as failed:
        start.train(tiny_config(tmp_path, env__task="import:test_going_on:breaking", **SMALL))
    [run] = (tmp_path / "import_test_going_on_breaking").iterdir()
    status = read_status(run)
    assert (status["status"], status["reason"], status["frames"]) == ("failed", str(failed.value), 40)
