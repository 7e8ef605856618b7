"""Presets, options and their refusals: what a user may write, and the line that follows what they may not."""

import pydantic
import pytest
import yaml

from dreamer_jax.core import presets
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.options import field_names
from dreamer_jax.core.presets import CONFIG_FOLDER, load_config, parse_config, preset_names, read_yaml, write_yaml


def refusal(function, *arguments, **options) -> str:
    """The message of the ConfigError that a call ends with: one line."""
    with pytest.raises(ConfigError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_there_are_presets_for_discrete_and_continuous_control():
    assert {"cartpole", "pendulum"} <= set(preset_names())


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml")))
def test_every_preset_loads_and_says_what_it_is(name):
    config = load_config(name)
    assert config.preset == name
    assert Config.model_validate(config.model_dump()) == config
    assert (CONFIG_FOLDER / f"{name}.yaml").read_text().startswith("# ")


def test_a_preset_changes_only_what_it_names():
    named = read_yaml(CONFIG_FOLDER / "cartpole.yaml")
    assert load_config("cartpole").model_dump(include={"loss", "behavior"}) == Config().model_dump(include={"loss", "behavior"})
    assert load_config("cartpole").model.deter == named["model"]["deter"] != Config().model.deter


# Overrides


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"seed": "many"}, ["seed='many'", "valid integer", "seed of parameters"]),
        ({"seed": ""}, ["seed=''", "valid integer"]),
        ({"model.units": "64.5"}, ["model.units='64.5'", "valid integer"]),
        ({"eval.video": "perhaps"}, ["eval.video='perhaps'", "valid boolean"]),
        ({"device": "abacus"}, ["device='abacus'", "'cpu'", "'gpu'", "'tpu'"]),
        ({"train.frames": "0"}, ["train.frames='0'", "greater than or equal to 1", "[simulator steps]"]),
        ({"behavior.lam": "1.5"}, ["behavior.lam='1.5'", "less than or equal to 1"]),
        ({"optimizer.learning_rate": "-1"}, ["optimizer.learning_rate='-1'", "greater than 0"]),
        ({"loss.dyn": "nan"}, ["loss.dyn='nan'", "finite number"]),
        ({"loss.continue": "-1"}, ["loss.continue='-1'", "weight of the continue head"]),
        ({"model.deter": "100"}, ["deter=100 is not a multiple of blocks=8"]),
        ({"replay.capacity": "64"}, ["replay.capacity=64", "replay.batch_length=64 needs 65", "Raise replay.capacity"]),
        ({"replay.capacity": "300"}, ["replay.min_items=256 can never be reached", "237 start positions"]),
        ({"env.num_envs": "1024", "replay.capacity": "65000"}, ["over 1024 environments holds 63 steps each"]),
        ({"seed": "x", "model.units": "0"}, ["seed='x'", "(and 1 more)"]),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_used_is_refused_in_one_line(overrides, parts):
    message = refusal(load_config, "cartpole", overrides)
    assert [part for part in parts if part not in message] == [], message


def test_the_smallest_replay_that_serves_is_accepted():
    assert load_config("cartpole", {"replay.capacity": 256 + 63}).replay.capacity == 319
    assert "318" in refusal(load_config, "cartpole", {"replay.capacity": 318})


def test_overrides_in_python_are_checked_the_same_way():
    assert load_config("cartpole", {"replay.batch_size": 2, "env.num_envs": 3}).env.num_envs == 3
    assert "did you mean 'replay.batch_size'?" in refusal(load_config, "cartpole", {"batch_size": 2})


# Files


def test_a_written_configuration_reads_back_the_same(tmp_path):
    overrides = {"seed": 5, "loss.continue": 0.25, "optimizer.eps": 1e-20, "env.task": "import:a.b:c", "eval.video": False}
    config = load_config("pendulum", overrides)
    write_yaml(config, tmp_path / "config.yaml")
    assert parse_config(read_yaml(tmp_path / "config.yaml"), "file") == config


@pytest.fixture
def preset(tmp_path, monkeypatch):
    """preset(text) -> the ConfigError's message when a preset "mine" holds the text."""
    monkeypatch.setattr(presets, "CONFIG_FOLDER", tmp_path)

    def load(text: str | bytes, overrides: dict[str, str] | None = None) -> str:
        (tmp_path / "mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return refusal(load_config, "mine", overrides)

    return load


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("enf: {task: x}", ["preset mine", "unknown field 'enf'"]),
        ("env: {tsk: x}", ["unknown field 'env.tsk'", "did you mean 'env.task'?"]),
        ("replay: {batch_lenght: 3}", ["unknown field 'replay.batch_lenght'", "did you mean 'replay.batch_length'?"]),
        ("env: 5", ["env=5", "preset mine"]),
        ("seed: [1, 2]", ["seed=[1, 2]", "valid integer"]),
        ("seed: -1", ["seed=-1", "greater than or equal to 0"]),
        ("- a\n- b", ["mine.yaml holds list", "mapping"]),
        ("just words", ["mine.yaml holds str", "mapping"]),
        ("", ["mine.yaml holds NoneType", "mapping"]),
        ("env: {task: [", ["mine.yaml cannot be read as YAML"]),
        (b"seed: \xff\xfe", ["mine.yaml cannot be read as YAML"]),
        ("seed: !!int ''", ["mine.yaml cannot be read as YAML"]),
        ("seed: 2001-99-99", ["mine.yaml cannot be read as YAML", "month"]),
        (f"seed: {'9' * 5000}", ["mine.yaml cannot be read as YAML"]),
        (f"seed: {'[' * 2000}", ["mine.yaml cannot be read as YAML"]),
        ("env: &all [*all]", ["mine.yaml cannot be read as YAML", "write out *all: aliases are not read"]),
        (f"model: {{deter: 0x{'f' * 5000}}}", ["model.deter=a very long int: at most 9007199254740992 was expected"]),
        ("train: {frames: 100000000000}", ["train.frames=100000000000", "less than or equal to 10000000000"]),
        (f"seed: {['x'] * 1000}", ["seed=['x', 'x', ", "...: input should be a valid integer"]),
        ('env: {task: "gym:a\\nb"}', ["env.task='gym:a\\nb': string should match pattern"]),
        ('env: {task: "\\ud800"}', ["env.task='\\ud800'"]),
        ('model: {encoder_keys: "(\\n?P<"}', ["model.encoder_keys='(\\n?P<' is not a regular expression"]),
        (f"model: {{encoder_keys: '{'(' * 5000}'}}", ["is not a regular expression (maximum recursion depth exceeded"]),
        ("model: {encoder_keys: 'a{99999999999}'}", ["is not a regular expression (the repetition number is too large)"]),
        ("5: 6", ["5=5: keys should be strings"]),
    ],
)
def test_a_broken_file_is_refused_in_one_line(preset, text, parts):
    message = preset(text)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("text", ["env:", "env: 5"])
def test_a_section_that_is_no_mapping_is_refused_also_under_an_override(preset, text):
    assert preset(text, {"env.num_envs": "2"}).startswith("preset mine: env=")


def test_a_file_cannot_run_code(preset, tmp_path):
    trace = tmp_path / "trace"
    assert "cannot be read as YAML" in preset(f"seed: !!python/object/apply:os.mkdir ['{trace}']")
    assert "cannot be read as YAML" in preset("env: !!python/object:dreamer_jax.core.config.EnvConfig {task: x}")
    assert not trace.exists()


def test_a_missing_file_is_named(tmp_path):
    assert "nothing.yaml cannot be read" in refusal(read_yaml, tmp_path / "nothing.yaml")


def test_yaml_floats_without_a_dot_are_numbers():
    """YAML 1.1 reads 5e-4 as a string."""
    assert yaml.safe_load("5e-4") == "5e-4"
    assert parse_config({"optimizer": {"learning_rate": "5e-4"}}, "file").optimizer.learning_rate == 5e-4


# The object


@pytest.mark.parametrize(("section", "field"), [(None, "seed"), ("model", "deter"), ("loss", "continue_")])
def test_a_configuration_is_frozen(section, field):
    config = load_config("cartpole")
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        setattr(getattr(config, section) if section else config, field, 1)


def test_discount_follows_its_horizon():
    assert Config().behavior.discount == pytest.approx(0.996997, abs=1e-6)
    assert load_config("cartpole", {"behavior.discount_horizon": 2}).behavior.discount == 0.5


def test_every_number_and_choice_can_be_typed():
    """The command line hands over words: each field takes the word of its own default."""
    for name, field in field_names():
        default = load_config("dmc_proprio_paper").model_dump(by_alias=True)
        for part in name.split("."):
            default = default[part]
        if name not in ("preset", "model.size"):
            word = ",".join(default) or "none" if isinstance(default, list) else str(default)
            load_config("dmc_proprio_paper", {name: word})
        assert field.description


@pytest.mark.parametrize(("low", "high"), [("min_std", "max_std"), ("norm_low", "norm_high")])
def test_ranges_that_do_not_rise_are_refused(low, high):
    with pytest.raises(ConfigError, match=rf"behavior\.{low}=0\.5 has to be below behavior\.{high}=0\.5"):
        load_config("cartpole", {f"behavior.{low}": 0.5, f"behavior.{high}": 0.5})


def test_a_key_pattern_that_does_not_compile_is_refused():
    with pytest.raises(ConfigError, match=r"model\.encoder_keys='\(a' is not a regular expression"):
        load_config("cartpole", {"model.encoder_keys": "(a"})


PAPERS = {
    # V1's paper, appendix A, and its author's code; V2's code for DMC and Atari; PlaNet's code.
    "dreamer_v1": {
        "model.latent": "gaussian", "model.core": "gru", "model.stoch": 30, "model.deter": 200, "model.cnn": "strided",
        "loss.free_nats": 3, "loss.free_nats_of": "mean", "behavior.imagination_horizon": 15, "behavior.discount_horizon": 100,
        "behavior.lam": 0.95, "behavior.dynamics_share": 1, "behavior.policy": "tanh_normal", "behavior.exploration": 0.3,
        "optimizer.learning_rate": 6e-4, "optimizer.actor_rate": 8e-5, "optimizer.critic_rate": 8e-5, "optimizer.clip": 100,
        "replay.batch_size": 50, "replay.batch_length": 50, "env.action_repeat": 2,
    },
    "dreamer_v2_dmc": {
        "model.latent": "categorical", "model.core": "layer_norm_gru", "model.stoch": 32, "model.classes": 32,
        "model.deter": 200, "model.unimix": 0, "model.continue_head": False, "loss.free_nats": 1, "behavior.dynamics_share": 1,
        "behavior.entropy": 1e-4, "behavior.slow_every": 100, "optimizer.learning_rate": 3e-4, "optimizer.actor_rate": 8e-5,
        "optimizer.critic_rate": 8e-5, "optimizer.decay": 1e-6, "replay.batch_size": 16, "replay.batch_length": 50,
    },
    "dreamer_v2_atari": {
        "model.deter": 600, "model.continue_head": True, "loss.free_nats": 0, "loss.continue": 5, "behavior.reward": "tanh",
        "behavior.discount_horizon": 1000, "behavior.dynamics_share": 0, "behavior.entropy": 1e-3,
        "optimizer.learning_rate": 2e-4, "optimizer.actor_rate": 4e-5, "optimizer.critic_rate": 1e-4,
        "replay.prefill": 50_000, "env.action_repeat": 4,
    },
    "planet": {
        "model.actor_critic": False, "model.latent": "gaussian", "model.stoch": 30, "model.deter": 200, "loss.reward": 10,
        "loss.free_nats": 3, "behavior.planner.horizon": 12, "behavior.planner.iterations": 10,
        "behavior.planner.candidates": 1000, "behavior.planner.elites": 100, "behavior.exploration": 0.3,
        "optimizer.learning_rate": 1e-3, "optimizer.eps": 1e-4, "optimizer.clip": 1000, "replay.batch_size": 50,
    },
}  # fmt: skip


@pytest.mark.parametrize("preset", PAPERS)
def test_paper_presets_keep_the_papers_values(preset):
    values = load_config(preset).model_dump(by_alias=True)
    for name, expected in PAPERS[preset].items():
        found = values
        for part in name.split("."):
            found = found[part]
        assert found == expected, name


@pytest.mark.parametrize(
    ("preset", "share", "weight"),
    [("dreamer_v2_dmc", 0.8, 1.0), ("dreamer_v2_atari", 0.8, 0.1), ("dreamer_v2_cartpole_cpu", 0.8, 0.1)],
)
def test_kl_balance(preset, share, weight):
    """dyn and rep are V2's balance times its KL scale."""
    loss = load_config(preset).loss
    assert (loss.dyn, loss.rep) == pytest.approx((share * weight, (1 - share) * weight))


@pytest.mark.parametrize(("preset", "decisions"), [("dreamer_v1", 5), ("dreamer_v2_dmc", 5), ("dreamer_v2_atari", 16)])
def test_decisions_between_updates(preset, decisions):
    replay = load_config(preset).replay
    assert replay.batch_size * replay.batch_length / replay.train_ratio == decisions


def test_options_that_were_renamed_are_read_from_old_files_and_named_in_overrides(tmp_path):
    text = "train: {frames: 7, eval_every: 3, final_episodes: 2, video: false}\neval: {every: 5}\n"
    (tmp_path / "config.yaml").write_text(text)
    config = presets.read_config(tmp_path / "config.yaml")
    assert (config.train.frames, config.eval.final_episodes, config.eval.video) == (7, 2, False)
    assert config.eval.every == 5  # the new name counts
    with pytest.raises(ConfigError, match=r"unknown option --train.eval_every; did you mean 'eval.every'\?"):
        load_config("cartpole", {"train.eval_every": "5"})
