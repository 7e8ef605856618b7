"""Command lines: how options are written, what `--help` lists, and the one line that follows what cannot be read."""

import re
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamer_jax.cli.parser import SHORT_NAMES, CommandParser, choose, whole_number
from dreamer_jax.cli.train import training_request
from dreamer_jax.core import extensions
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.extensions import DOORS
from dreamer_jax.core.options import field_names
from dreamer_jax.core.presets import load_config, preset_names, write_yaml

SPELLED = {field: short for short, field in SHORT_NAMES.items()}


def refusal(function: Callable, *arguments: object) -> str:
    """The message of the ConfigError that a call ends with: one line."""
    with pytest.raises(ConfigError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def read(arguments: list[str], **settings: object) -> Namespace:
    """A command with a run's options and some of its own."""
    parser = CommandParser("test", "A command.")
    parser.add_run_options(**settings)
    parser.add_argument("--calls", type=whole_number(1), default=20, help="timed calls [count]")
    parser.add_argument("--threshold", type=float, help="return [return]")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2], help="several [count]")
    parser.add_argument("--quick", action="store_true", help="be quick")
    return parser.read(arguments)


# Reading


def test_options_override_the_preset_in_both_spellings():
    options = ["--seed", "3", "--env.task=gym:Acrobot-v1", "--optimizer.learning_rate", "1e-3", "--loss.continue=0.5"]
    request = training_request([*options, "--eval.video", "false"])
    config = request.config
    assert (request.seeds, request.resume, request.dry_run) == (1, None, False)
    assert (config.seed, config.env.task, config.optimizer.learning_rate) == (3, "gym:Acrobot-v1", 1e-3)
    assert (config.loss.continue_, config.eval.video) == (0.5, False)
    assert config.model == load_config("cartpole").model


def test_own_options_and_those_of_the_run_are_told_apart():
    words = ["--calls", "1e3", "--seed", "7", "--sizes", "3", "4", "--quick", "--train.frames=1e4", "--threshold", "-2.5e2"]
    options = read(words)
    assert (options.calls, options.sizes, options.quick, options.threshold) == (1000, [3, 4], True, -250)
    assert options.overrides == {"seed": "7", "train.frames": "1e4"}
    assert options.preset == "cartpole"
    assert options.given == {"calls", "seed", "sizes", "quick", "train.frames", "threshold"}


def test_a_value_may_hold_an_equals_sign_or_begin_with_a_minus():
    assert read(["--runs=a=b", "--train.target_return", "-1e3"]).overrides == {"runs": "a=b", "train.target_return": "-1e3"}


def test_short_names_set_their_fields():
    words = ["--init-from", "runs/a:best", "--init-parts=world_model", "--import", "json,string"]
    expected = {"train.init_from": "runs/a:best", "train.init_parts": "world_model", "imports": "json,string"}
    assert read(words).overrides == expected
    long = [f"--{name}={value}" for name, value in expected.items()]
    assert read(long).overrides == expected


def test_the_preset_may_stand_anywhere():
    config = training_request(["--seed", "1", "--preset", "pendulum"]).config
    assert (config.preset, config.seed, config.env.task) == ("pendulum", 1, "gym:Pendulum-v1")


def test_a_preset_may_be_required():
    assert "--preset is needed: cartpole, " in refusal(lambda: read(["--seed", "1"], default=None))
    assert read(["--preset", "catch"], default=None).preset == "catch"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--preset", "cartpol"], ["unknown preset 'cartpol'", "did you mean 'cartpole'?", "Presets: ", "pendulum"]),
        (["--preset", "../secret"], ["unknown preset '../secret'", "Presets: "]),
        (["--sede", "1"], ["unknown option --sede", "did you mean 'seed'?"]),
        (["--env.tsk", "x"], ["unknown option --env.tsk", "did you mean 'env.task'?"]),
        (["--batch_size", "4"], ["unknown option --batch_size", "did you mean 'replay.batch_size'?"]),
        (["--train.eval_every", "5"], ["unknown option --train.eval_every", "did you mean 'eval.every'?"]),
        (["--dry-rum"], ["unknown option --dry-rum", "did you mean 'dry-run'?"]),
        (["--init_from", "x"], ["unknown option --init_from", "did you mean 'init-from'?"]),
        (["--env", "x"], ["unknown option --env"]),
        (["--see", "1"], ["unknown option --see"]),  # no abbreviations
        (["--zzzzzzzz", "1"], ["unknown option --zzzzzzzz", "--help"]),
        (["--seed"], ["--seed needs a value", "seed of parameters"]),
        (["--seed", "--runs", "x"], ["--seed needs a value"]),
        (["--seeds"], ["--seeds needs a value", "independent agents"]),
        (["--import"], ["--import needs a value"]),
        (["cartpole"], ["unexpected argument 'cartpole'", "--field value"]),
        (["--dry-run", "yes"], ["unexpected argument 'yes'"]),
        (["--dry-run=yes"], ["--dry-run takes no value", "=yes"]),
        (["-s", "1"], ["unexpected argument '-s'"]),
        (["--seed", "1", "--seed", "2"], ["--seed is given twice"]),
        (["--seed", "1", "--seed=1"], ["--seed is given twice"]),
        (["--seeds", "1", "--seeds=1"], ["--seeds is given twice"]),
        (["--dry-run", "--dry-run"], ["--dry-run is given twice"]),
        (["--preset=catch", "--preset", "catch"], ["--preset is given twice"]),
        (["--imports", "json", "--import", "json"], ["--import is given twice"]),
        (["--seeds", "1.5"], ["--seeds: '1.5' was given", "whole number from 1 to 1024"]),
        (["--seed", "many"], ["seed='many'", "valid integer", "seed of parameters"]),
        (["--seed="], ["seed=''", "valid integer"]),
        (["--import", "no_such_module"], ["no module 'no_such_module'"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("-") else None,
)
def test_what_cannot_be_read_is_refused_in_one_line(arguments, parts):
    message = refusal(training_request, arguments)
    assert [part for part in parts if part not in message] == [], message


def test_resume_takes_runs_and_changes():
    request = training_request(["--resume", "a/run", "b", "--train.frames", "20000"])
    assert (request.resume, request.overrides) == ([Path.cwd() / "a/run", Path.cwd() / "b"], {"train.frames": "20000"})
    request = training_request(["--resume=a/b=c"])
    assert (request.resume, request.overrides, request.config) == ([Path.cwd() / "a/b=c"], {}, None)


@pytest.mark.parametrize("words", [["--preset", "catch"], ["--seeds", "1"], ["--dry-run"]])
@pytest.mark.parametrize("first", [True, False])
def test_resume_refuses_what_belongs_to_new_runs(words, first):
    resume = ["--resume", "a/run"]
    message = refusal(training_request, [*words, *resume] if first else [*resume, *words])
    assert message.startswith(f"{words[0]} does not go with --resume")


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("1e6", 1_000_000), ("2.5E3", 2500), ("1_000", 1000), ("2", 2), ("9007199254740992", 2**53)],
)
def test_whole_numbers(text, value):
    number = whole_number(2)(text)
    assert number == value
    assert type(number) is int


@pytest.mark.parametrize("text", ["1.5", "1e-1", "1", "-5", "", "x", "²", "nan", "inf", "1e999999999", "9007199254740993"])
def test_no_whole_numbers_of_at_least_two(text):
    with pytest.raises(Exception, match="a whole number of at least 2 was expected"):
        whole_number(2)(text)


def test_a_command_without_a_runs_options_does_not_take_them():
    parser = CommandParser("test", "A command.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run")
    parser.add_argument("--episodes", type=whole_number(1), default=3, help="episodes [count]")
    assert parser.read(["x", "--episodes=4"]).run == Path("x")
    assert "did you mean 'episodes'?" in refusal(parser.read, ["x", "--epsodes", "4"])
    assert "unknown option --seed." in refusal(parser.read, ["x", "--seed", "4"])
    assert "required: RUN" in refusal(parser.read, [])


# Commands


def test_commands_are_chosen_by_name(capsys):
    commands = {"train": "trains", "evaluate": "plays"}
    assert choose("dreamer", "About.", commands, ["train", "--seed", "1"]) == ("train", ["--seed", "1"])
    assert "did you mean 'train'? Commands: train, evaluate" in refusal(choose, "dreamer", "About.", commands, ["trian"])
    for arguments in ([], ["--help"], ["-h"]):
        with pytest.raises(SystemExit) as caught:
            choose("dreamer", "About.", commands, arguments)
        assert not caught.value.code
        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown and summary in shown for name, summary in commands.items())


# Help


def helped(capsys: pytest.CaptureFixture, arguments: list[str], function: Callable = training_request) -> str:
    with pytest.raises(SystemExit) as caught:
        function(arguments)
    assert not caught.value.code
    return capsys.readouterr().out


def test_help_lists_every_option_with_its_value(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = helped(capsys, ["--help", "--seed", "7"])
    words = " ".join(shown.split())
    values = load_config("cartpole", {"seed": 7}).model_dump(by_alias=True)
    for name, field in field_names():
        spelled = SPELLED.get(name, name)
        assert f" --{spelled} " in words, name
        text = {"imports": "json", "preset": "catch"}.get(name, "1")
        assert read([f"--{spelled}", text]).given == {name}  # what is listed can be typed
        assert len(field.description) > 5, name
        value = values
        for part in name.split("."):
            value = value[part]
        if isinstance(value, list):
            value = ",".join(value)
        written = str(value).lower() if isinstance(value, bool) else "none" if value in ("", None) else value
        own = words[words.index(f" --{spelled} ") :].partition("(default: ")[2]
        assert own.startswith(f"{written})"), name
    assert all(name in words for name in preset_names())
    assert "--imports" not in words
    assert "--train.init_from" not in words
    headings = re.findall(r"^(\w[\w.]*):$", shown, re.MULTILINE)
    assert {"env", "model", "behavior", "behavior.planner", "train"} <= set(headings)
    assert shown.startswith("usage: dreamer train ")


def test_help_describes_every_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = "".join(helped(capsys, ["--help"]).split())
    missing = [name for name, field in field_names() if name != "preset" and "".join(field.description.split()) not in shown]
    assert missing == []


def test_help_shows_the_values_of_the_preset(capsys):
    catch, default = load_config("catch"), Config()
    assert catch.replay.batch_size != default.replay.batch_size
    shown = " ".join(helped(capsys, ["--help", "--preset", "catch"]).split())
    assert f"sequences in a batch B [count] (default: {catch.replay.batch_size})" in shown
    assert "the values of preset catch" in shown


def test_help_of_other_commands(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = helped(capsys, ["--help"], lambda words: read(words, default=None, decided=("seed",)))
    assert "--calls" in shown
    assert "(default: 20)" in shown
    assert "--env.task" in shown
    assert "--seed " not in shown


@pytest.mark.parametrize("arguments", [["--help", "--sede", "1"], ["--sede", "1", "-h"]])
def test_help_still_refuses_a_wrong_option(arguments):
    assert "did you mean 'seed'?" in refusal(training_request, arguments)


# Extensions

IDEAS = """
import dreamer_jax
from dreamer_jax.core.extensions import Extension
from dreamer_jax.core.section import Section
from pydantic import Field


@dreamer_jax.register("{name}")
class Term(Extension):
    door = "loss"

    class Options(Section):
        \"\"\"How smooth: 100%.\"\"\"

        weight: float = Field(default=0.25, ge=0, description="weight of the smoothness, 50% of old")
"""


@pytest.fixture
def ideas(tmp_path, monkeypatch):
    """The name of a module that registers the loss term "smooth_parser"; the registry forgets it again."""
    (tmp_path / "parser_ideas.py").write_text(IDEAS.format(name="smooth_parser"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(DOORS["loss"], "_classes", dict(DOORS["loss"]._classes))
    yield "parser_ideas"
    sys.modules.pop("parser_ideas", None)


def test_options_of_imported_extensions_are_options(ideas):
    name = "extensions.smooth_parser.weight"
    assert f"unknown option --{name}" in refusal(training_request, [f"--{name}", "2"])
    config = training_request([f"--{name}", "2", "--loss.terms", "smooth_parser", "--import", ideas]).config
    assert config.extensions["smooth_parser"].weight == 2
    assert config.imports == (ideas,)


def test_options_of_the_extensions_that_a_resumed_run_imports_are_options(ideas, tmp_path):
    config = load_config("cartpole", {"imports": [ideas], "loss.terms": "smooth_parser"})
    write_yaml(config, tmp_path / "config.yaml")
    DOORS["loss"]._classes.clear()
    extensions._imported.remove(ideas)
    sys.modules.pop(ideas)
    request = training_request(["--resume", str(tmp_path), "--extensions.smooth_parser.weight=3"])
    assert request.overrides == {"extensions.smooth_parser.weight": "3"}


def test_help_lists_the_options_of_imported_extensions(ideas, capsys):
    assert "smooth_parser" not in helped(capsys, ["--help"])
    shown = " ".join(helped(capsys, ["--help", f"--import={ideas}"]).split())
    assert "extensions.smooth_parser: How smooth: 100%." in shown
    assert "--extensions.smooth_parser.weight FLOAT weight of the smoothness, 50% of old (default: 0.25)" in shown
