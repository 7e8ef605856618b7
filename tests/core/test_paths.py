"""Paths that users type: "~" is expanded, and the folder in which a command was started counts, wherever it is now."""

import os
import sys
from pathlib import Path

import pytest
from counting import TINY

import dreamer_jax
from dreamer_jax.benchmark.suites import make_plan
from dreamer_jax.cli.main import dispatch
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.paths import absolute, paths_from
from dreamer_jax.core.presets import load_config
from dreamer_jax.runs.status import read_status

MOVING = """
import os, counting

class Moving(counting.Counting):
    def step(self, action):
        os.chdir(ELSEWHERE)
        return super().step(action)

def make(render_mode=None):
    os.chdir(ELSEWHERE)
    return Moving(5, render_mode)
"""


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("~/runs", "/home/me/runs"),
        ("~", "/home/me"),
        ("runs/a b", "/start/runs/a b"),
        ("./~/runs", "/start/~/runs"),
        ("../$HOME", "/start/../$HOME"),
        ("/some/where", "/some/where"),
        ("", "/start"),
    ],
)
def test_a_path_is_absolute_and_only_a_tilde_is_expanded(typed, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    with paths_from(Path("/start")):
        assert str(absolute(typed)) == expected
        assert absolute(absolute(typed)) == absolute(typed)


def test_a_tilde_that_means_nothing_is_named(monkeypatch):
    with pytest.raises(ConfigError, match=r"~nobody_of_this_name/runs: there is no home folder"):
        absolute("~nobody_of_this_name/runs")


def test_a_removed_folder_is_named(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="the current folder does not exist any more"):
        absolute("runs")
    with pytest.raises(ConfigError, match="the current folder does not exist any more"):
        dispatch(["report", "runs"])


@pytest.fixture
def moving(tmp_path, monkeypatch) -> Path:
    """A module `moving` in the current folder, whose environments change the folder when they are made and in every step."""
    for name in ("here", "home", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "here" / "moving.py").write_text(MOVING.replace("ELSEWHERE", repr(str(tmp_path / "elsewhere"))))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "here"), *sys.path])
    monkeypatch.delitem(sys.modules, "moving", raising=False)
    return tmp_path


def options(runs: str) -> list[str]:
    changes = {**TINY, "env.task": "import:moving:make", "train.frames": 60, "runs": runs, "eval.video": True}
    return [f"--{name}={value}" for name, value in changes.items()]


@pytest.mark.parametrize(("runs", "place"), [("~/logdir", "home/logdir"), ("runs of mine", "here/runs of mine")])
def test_every_command_finds_its_paths_although_the_environment_changes_the_folder(moving, monkeypatch, runs, place):
    """Training, its resumption, an evaluation, a report and a run that begins with the agent, all with relative paths."""
    start, place = moving / "here", moving / place
    dispatch(["train", *options(runs)])
    (run,) = (place / "import_moving_make").iterdir()
    assert (run / "evaluation.json").is_file()
    assert len(list((run / "videos").iterdir())) == 1
    assert not any((moving / "elsewhere").iterdir())
    assert read_status(run)["resume"].removeprefix("dreamer train --resume ").strip("'") == str(run)
    typed = os.path.join(runs, run.relative_to(place))
    for words in (
        ["train", "--resume", typed, "--train.frames", "80"],
        ["evaluate", typed, "--episodes", "1", "--no-video"],
        ["report", runs],
        ["train", *options(runs), "--seed", "1", "--init-from", f"{typed}:last", "--eval.video", "false"],
    ):
        monkeypatch.chdir(start)
        words = [word for word in words if "--init-from" not in words or word != "--eval.video=True"]
        dispatch(words)
    assert len(list((run / "evaluations").iterdir())) == 1
    assert len(list((place / "import_moving_make").iterdir())) == 2
    assert not any((moving / "elsewhere").iterdir())
    assert {path.name for path in start.iterdir()} <= {"moving.py", "__pycache__", "runs of mine"}


def test_the_python_interface_expands_as_well(moving, monkeypatch):
    changes = {**TINY, "env.task": "import:moving:make", "train.frames": 40, "runs": "~/logdir"}
    run = dreamer_jax.train(load_config("cartpole", changes))
    assert run.parent == moving / "home" / "logdir" / "import_moving_make"
    typed = f"~/{run.relative_to(moving / 'home')}"
    assert dreamer_jax.resume(typed) == run
    assert dreamer_jax.read_metrics(typed) == dreamer_jax.read_metrics(run)
    assert dreamer_jax.load_policy(typed).config.seed == 0


def test_a_preset_and_its_base_may_be_in_the_home_folder(moving):
    (moving / "home" / "mine.yaml").write_text("base: ~/base.yaml\nseed: 3\n")
    (moving / "home" / "base.yaml").write_text("base: catch\nseed: 2\n")
    config = load_config("~/mine.yaml")
    assert (config.preset, config.seed, config.env.task) == ("mine", 3, load_config("catch").env.task)


def test_a_benchmark_and_the_command_that_it_prints_do_not_depend_on_the_folder(moving):
    """Its plan makes each environment once, which changes the folder."""
    (moving / "here" / "mine.yaml").write_text("base: cartpole\n")
    here = moving / "here"
    with paths_from(here):
        plan = make_plan("import:moving:make", 1, "mine.yaml", {"train.init_from": "other:best"}, Path("results"))
    assert Path.cwd() == moving / "elsewhere"
    assert (plan.output, plan.preset) == (here / "results", str(here / "mine.yaml"))
    assert (plan.configs[0].runs, plan.configs[0].train.init_from) == (str(here / "results/runs"), str(here / "other:best"))
    for words in (f"--preset {here}/mine.yaml", f"--output {here}/results", f"--train.init_from={here}/other:best"):
        assert words in plan.command()


def test_a_module_that_changes_the_folder_moves_no_run(moving):
    """Its import comes before the paths are used."""
    (moving / "here" / "module_that_leaves.py").write_text(f"import os\nos.chdir({str(moving / 'elsewhere')!r})\n")
    assert load_config("cartpole", {"imports": "module_that_leaves", "runs": "runs"}).runs == str(moving / "here" / "runs")
