"""Registering from outside, and what a configuration does with it."""

import sys

import pytest
from pydantic import Field

import dreamer_jax
from dreamer_jax.core import extensions
from dreamer_jax.core.config import Config, EnvConfig
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.extensions import DOORS, import_extensions, register
from dreamer_jax.core.options import field_names
from dreamer_jax.core.presets import load_config, parse_config, read_config, write_yaml
from dreamer_jax.core.section import Section

MODULE = """
import dreamer_jax
from pydantic import Field


class Options(dreamer_jax.PartOptions):
    margin: int = Field(default=2, ge=1, description="distance of the pairs [timesteps]")


@dreamer_jax.register("pairs")
class Pairs(dreamer_jax.LossTerm):
    Options = Options


@dreamer_jax.register("quiet")
class Quiet(dreamer_jax.Callback):
    pass


class MazeOptions(dreamer_jax.Section):
    walls: float = Field(default=0.3, ge=0, le=1, description="density of the walls [ratio]")


@dreamer_jax.register("maze")
class Mazes(dreamer_jax.Family):
    form = "maze:<size>"
    Options = MazeOptions
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module `ideas_of_a_test` from outside, which is forgotten afterwards."""
    (tmp_path / "ideas_of_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "ideas_of_a_test"
    sys.modules.pop("ideas_of_a_test", None)


def test_options_have_a_typed_section_of_their_own(module):
    config = load_config("cartpole", {"imports": module, "loss.terms": "pairs", "extensions.pairs.margin": "3"})
    assert config.imports == (module,)
    assert config.extensions["pairs"].model_dump() == {"weight": 1.0, "margin": 3}
    assert config.options_of(DOORS["loss"].get("pairs")).margin == 3
    names = dict(field_names())
    assert "distance of the pairs" in names["extensions.pairs.margin"].description
    assert "density of the walls" in names["env.options.walls"].description


def test_what_is_chosen_has_its_defaults_and_nothing_else_a_section(module):
    assert load_config("cartpole", {"imports": [module]}).extensions == {}
    config = load_config("cartpole", {"imports": [module], "loss": {"terms": ["pairs"]}, "train.callbacks": "quiet"})
    assert {name: options.model_dump() for name, options in config.extensions.items()} == {
        "pairs": {"weight": 1.0, "margin": 2}
    }
    maze = load_config("cartpole", {"imports": [module], "env.task": "maze:4"})
    assert maze.env.options.model_dump() == {"walls": 0.3}


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"loss.terms": "pairz"}, ["loss.terms='pairz' is not the name of a loss term; did you mean 'pairs'?", "--import"]),
        ({"loss.terms": "pairs,pairs"}, ["loss.terms names 'pairs' twice"]),
        ({"loss.terms": "pairs", "extensions.pairs.margin": 0}, ["extensions.pairs.margin=0", "greater than or equal to 1"]),
        ({"loss.terms": "pairs", "extensions.pairs.weight": -1}, ["extensions.pairs.weight=-1"]),
        ({"loss.terms": "pairs", "extensions.pairs.marign": 3}, ["unknown option --extensions.pairs.marign", "margin"]),
        ({"extensions.pairs.margin": 3}, ["extensions.pairs has options, but nothing uses 'pairs'", "--loss.terms pairs"]),
        ({"extensions.other.margin": 3}, ["unknown option --extensions.other.margin"]),
        ({"env.task": "maze:4", "env.options.walls": 2}, ["env.options.walls=2", "less than or equal to 1"]),
        ({"env.options.walls": 0.1}, ["env.options is for imported families", "'gym' has none"]),
        ({"model.representation": "contrastiv"}, ["model.representation='contrastiv'", "did you mean 'contrastive'?"]),
        ({"behavior.bonuses": "pairs"}, ["'pairs' is a loss term; choose it with --loss.terms pairs"]),
    ],
)
def test_bad_choices_and_options_are_named(module, overrides, parts):
    with pytest.raises(ConfigError) as error:
        load_config("cartpole", {"imports": module, **overrides})
    for part in parts:
        assert part in str(error.value)


def test_reading_a_run_imports_nothing(module, tmp_path):
    """A configuration on disk keeps what it cannot type, and has it typed once the module is imported."""
    config = load_config("cartpole", {"imports": module, "loss.terms": "pairs", "env.task": "maze:4"})
    write_yaml(config, tmp_path / "config.yaml")
    for door in DOORS.values():
        door._classes.pop("pairs", None)
        door._classes.pop("maze", None)
    extensions._imported.remove(module)
    sys.modules.pop(module)
    read = read_config(tmp_path / "config.yaml")
    assert module not in sys.modules
    assert read.extensions["pairs"].model_dump() == {"weight": 1.0, "margin": 2}
    assert read.env.options.model_dump() == {"walls": 0.3}
    import_extensions(read.imports)
    again = read_config(tmp_path / "config.yaml")
    assert again.model_dump() == config.model_dump()
    assert type(again.extensions["pairs"]) is DOORS["loss"].get("pairs").Options


def test_modules_that_cannot_be_imported_are_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_idea.py").write_text("import json\nvalue = {}['pole']\n")
    with pytest.raises(ConfigError, match=r"there is no module 'no_such_idea' to import.*PYTHONPATH"):
        import_extensions(["no_such_idea"])
    with pytest.raises(ConfigError, match=r"importing broken_idea raised KeyError: 'pole' \(broken_idea.py:2\)"):
        import_extensions(["broken_idea"])
    with pytest.raises(ConfigError, match=r"Give its name, not its file: ideas\.own"):
        import_extensions(["ideas/own.py"])


def test_names_are_checked_when_they_are_registered():
    class One(dreamer_jax.LossTerm):
        pass

    class Other(dreamer_jax.ExplorationBonus):
        pass

    for bad in ("Upper", "with space", "", "1st", "a/b"):
        with pytest.raises(ConfigError, match="cannot be registered as"):
            register(bad)(One)
    with pytest.raises(ConfigError, match="'reward' is built in"):
        register("reward")(One)
    with pytest.raises(ConfigError, match="'contrastive' is built in"):
        register("contrastive")(type("Mine", (dreamer_jax.Representation,), {"__module__": "elsewhere"}))
    register("one")(One)
    register("one")(One)  # a cell of a notebook that is run again
    with pytest.raises(ConfigError, match="already the name of a loss term in"):
        register("one")(type("Third", (dreamer_jax.LossTerm,), {}))
    with pytest.raises(ConfigError, match="'one' is already the name of a loss term;"):
        register("one")(Other)
    with pytest.raises(ConfigError, match="has to be derived from one of"):
        register("two")(dict)
    with pytest.raises(ConfigError, match="the name is missing"):
        register(One)


class Plain:
    weight = 1.0


class Weightless(dreamer_jax.Section):
    pass


class Needed(dreamer_jax.PartOptions):
    size: int


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"loss": lambda self: {}}, "it has 'loss', which nothing calls; did you mean 'losses'"),
        ({"init_stat": lambda self: {}}, "did you mean 'init_state'"),
        ({"Options": Plain}, "its Options are .*Plain.*; a class derived from dreamer_jax.Section"),
        ({"Options": Weightless}, "its Options have no 'weight'; derive them from dreamer_jax.PartOptions"),
        ({"Options": Needed}, "its option 'size' has no default"),
    ],
)
def test_classes_that_do_not_fit_their_door_are_refused(body, message):
    with pytest.raises(ConfigError, match=message):
        register("unfit")(type("Unfit", (dreamer_jax.LossTerm,), body))


def test_a_method_of_ones_own_may_be_like_one_that_is_there():
    register("fit")(type("Fit", (dreamer_jax.LossTerm,), {"loss": lambda self: {}, "losses": lambda self: {}, "head": None}))


def test_imports_of_base_preset_and_command_line_add_up(module, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "second_idea.py").write_text("")
    (tmp_path / "own.yaml").write_text(f"base: cartpole\nimports: [{module}]\nloss: {{terms: [pairs]}}\n")
    config = load_config(tmp_path / "own.yaml", {"imports": f"second_idea,{module}"})
    assert config.imports == (module, "second_idea")


# Presets of one's own


def test_a_file_changes_the_preset_that_it_names(tmp_path):
    (tmp_path / "first.yaml").write_text("base: catch\nenv: {num_envs: 3}\nmodel: {representation: contrastive}\n")
    (tmp_path / "second.yaml").write_text("base: first.yaml\nseed: 7\nenv.num_envs: 2\n")
    config, catch = load_config(str(tmp_path / "second.yaml"), {"train.frames": "1e4"}), load_config("catch")
    assert (config.preset, config.seed, config.env.num_envs, config.train.frames) == ("second", 7, 2, 10_000)
    assert config.env.task == catch.env.task
    assert config.model == catch.model.model_copy(update={"representation": "contrastive"})


def test_a_file_without_a_base_changes_the_defaults(tmp_path):
    (tmp_path / "own.yaml").write_text("seed: 7\n")
    assert load_config(tmp_path / "own.yaml") == Config(seed=7, preset="own")


def test_nested_mappings_and_configurations_are_presets():
    config = load_config({"base": "catch", "env": {"num_envs": 3}}, {"train": {"frames": 5}, "seed": 1})
    assert (config.preset, config.env.num_envs, config.train.frames, config.seed) == ("custom", 3, 5, 1)
    again = load_config(config, {"loss": {"continue": 0.5}})
    assert again == config.model_copy(update={"loss": config.loss.model_copy(update={"continue_": 0.5})})


def test_a_size_replaces_the_widths_of_the_base(tmp_path):
    (tmp_path / "own.yaml").write_text("base: cartpole\nmodel: {size: 1m, units: 99}\n")
    model = load_config(tmp_path / "own.yaml").model
    assert (model.deter, model.hidden, model.units, model.size) == (512, 64, 99, "custom")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("base: cartpol\n", ["unknown preset 'cartpol'; did you mean 'cartpole'?"]),
        ("base: [cartpole]\n", ["base=['cartpole']; the name of a preset"]),
        ("base: own.yaml\n", ["a preset cannot be its own base"]),
        ("base: missing.yaml\n", ["missing.yaml cannot be read"]),
        ("base: cartpole\nimports: {a: 1}\n", ["imports={'a': 1}; a list of modules was expected"]),
        ("base: cartpole\nenv: {tsk: x}\n", ["preset own: unknown field 'env.tsk'; did you mean 'env.task'?"]),
        ("base: cartpole\nseed: many\n", ["preset own: seed='many'"]),
        ("- cartpole\n", ["holds list; a mapping"]),
    ],
)
def test_bad_files_are_named(tmp_path, text, parts):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "own.yaml")
    for part in parts:
        assert part in str(error.value)


def test_whole_numbers_may_have_an_exponent():
    assert parse_config({"train": {"frames": "1e6"}}, "test").train.frames == 1_000_000
    assert parse_config({"replay": {"prefill": "2.5e3"}}, "test").replay.prefill == 2_500
    for bad in ("1e-3", "1.5e0", "1e999", "1e"):
        with pytest.raises(ConfigError, match=r"train\.frames"):
            parse_config({"train": {"frames": bad}}, "test")


def test_an_extensions_whole_numbers_too():
    class Counted(Section):
        count: int = Field(default=1, ge=0)

    assert Counted(count="1e2").count == 100


def test_environments_are_equal_whatever_read_them():
    assert EnvConfig() == EnvConfig.model_validate(EnvConfig().model_dump())
