"""Atari games: shapes, repeat, no-ops and names, with the games themselves."""

import gymnasium
import numpy as np
import pytest

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import ConfigError, EnvError
from dreamer_jax.core.presets import load_config, parse_config
from dreamer_jax.envs import make_env
from dreamer_jax.envs.families.atari import NO_OPS
from dreamer_jax.envs.tasks import make_simulator
from dreamer_jax.play.policy import read_specs

PONG = EnvConfig(task="atari:pong", action_repeat=4)


def test_images_are_grey_and_actions_the_games_own():
    specs, action = read_specs(PONG)
    (spec,) = specs.values()
    assert (spec.kind, spec.shape, str(spec.dtype)) == ("image", (64, 64, 1), "uint8")
    assert (action.discrete, action.size) == (True, 6)


def test_a_decision_takes_the_action_repeat():
    """The emulator counts its own frames; no-ops at the reset are up to 30, and differ with the seed."""
    env = make_env(PONG)
    starts = set()
    for seed in range(6):
        obs, _ = env.reset(seed=seed)
        starts.add(env.unwrapped.ale.getEpisodeFrameNumber())
        assert {value.shape for value in obs.values()} == {(64, 64, 1)}
    assert len(starts) > 1
    assert max(starts) <= NO_OPS + 1
    before = env.unwrapped.ale.getEpisodeFrameNumber()
    for _ in range(5):
        env.step(np.eye(6, dtype=np.float32)[2])
    assert env.unwrapped.ale.getEpisodeFrameNumber() - before == 5 * 4
    env.close()


def test_the_same_seed_and_actions_give_the_same_images():
    def play(seed: int) -> np.ndarray:
        env = make_env(PONG)
        images = [next(iter(env.reset(seed=seed)[0].values()))]
        images += [next(iter(env.step(np.eye(6, dtype=np.float32)[i % 6])[0].values())) for i in range(40)]
        env.close()
        return np.stack(images)

    one, again, other = play(3), play(3), play(4)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_names_of_several_words_and_other_sizes():
    make_simulator(EnvConfig(task="atari:up_n_down")).close()
    env = make_simulator(EnvConfig(task="atari:ms_pacman", image_size=96))
    assert isinstance(env, gymnasium.wrappers.AtariPreprocessing)
    assert env.observation_space.shape == (96, 96, 1)
    env.close()


def test_an_unknown_game_is_named_with_the_nearest():
    with pytest.raises(EnvError, match=r"there is no game 'pnog'. The games, nearest first: pong"):
        make_env(EnvConfig(task="atari:pnog"))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ale_py", None)
    with pytest.raises(EnvError, match=r"not installed: pip install \"dreamer_jax\[atari\]\""):
        make_env(PONG)


def test_options_of_other_families_are_refused():
    with pytest.raises(ConfigError, match=r"env\.camera=1 is for dmc tasks only"):
        parse_config({"env": {"task": "atari:pong", "camera": 1}}, "test")
    with pytest.raises(ConfigError, match=r"env\.image_size=96 is for dmc and atari tasks only"):
        parse_config({"env": {"task": "gym:CartPole-v1", "image_size": 96}}, "test")


def test_the_preset_makes_what_its_layers_take():
    specs, _ = read_specs(load_config("dreamer_v2_atari").env)
    assert next(iter(specs.values())).shape[:2] == (64, 64)
