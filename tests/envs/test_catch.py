"""The catch task: rewards, pictures and ends, by hand."""

import numpy as np

from dreamer_jax.core.presets import load_config
from dreamer_jax.core.spaces import ObsSpec
from dreamer_jax.envs import make_env
from dreamer_jax.envs.catch import BALL, PADDLE, Catch, make, make_64

LEFT, STAY, RIGHT = range(3)


def _cells(picture: np.ndarray, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    """(row, column) of the cells of a colour; a cell is 2 x 2 pixels."""
    pixels = {(int(row) // 2, int(column) // 2) for row, column in np.argwhere((picture == colour).all(-1))}
    return sorted(pixels)


def _play(env: Catch, seed: int, choose) -> tuple[float, int]:
    """An episode of a rule (ball column, paddle column) -> action; its return and its length."""
    picture, _ = env.reset(seed=seed)
    total, steps, landed = 0.0, 0, False
    while not landed:
        ((_, ball),) = _cells(picture, BALL)
        ((row, paddle),) = _cells(picture, PADDLE)
        assert row == 7
        picture, reward, landed, truncated, _ = env.step(choose(ball, paddle))
        assert not truncated
        total, steps = total + reward, steps + 1
    return total, steps


def test_following_the_ball_always_catches_it():
    env = Catch()
    results = [_play(env, seed, lambda ball, paddle: 1 + np.sign(ball - paddle)) for seed in range(20)]
    assert results == [(1.0, 7)] * 20


def test_standing_still_catches_the_balls_above():
    """The paddle stands in column 4, where one ball in eight falls."""
    env = Catch()
    columns = [_cells(env.reset(seed=seed)[0], BALL)[0][1] for seed in range(40)]
    assert set(columns) == set(range(8))
    assert [_play(env, seed, lambda ball, paddle: STAY)[0] for seed in range(40)] == [float(c == 4) for c in columns]


def test_the_paddle_stays_on_the_field():
    env = Catch()
    env.reset(seed=0)
    for _ in range(6):
        picture = env.step(LEFT)[0]
    assert _cells(picture, PADDLE) == [(7, 0)]


def test_the_preset_shows_small_images():
    env = make_env(load_config("catch").env, render=True)
    assert env.get_wrapper_attr("obs_specs") == {"observation": ObsSpec("image", (16, 16, 3))}
    env.reset(seed=0)
    assert env.render().shape == (192, 192, 3)
    env.close()


def test_in_64_pixels_it_is_the_same_picture():
    small, large = (of_size().reset(seed=3)[0] for of_size in (make, make_64))
    np.testing.assert_array_equal(large, np.kron(small, np.ones((4, 4, 1), np.uint8)))
    assert make_64().observation_space.shape == large.shape == (64, 64, 3)
