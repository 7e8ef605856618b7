"""What errors about spaces advise: every line is pasted here, and then the environment can be used."""

import collections
import re
from typing import Any

import gymnasium
import numpy
import numpy as np
import pytest
from gymnasium import spaces

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import EnvError
from dreamer_jax.core.spaces import ObsSpec
from dreamer_jax.envs import make_env

VECTOR = spaces.Box(-1, 1, (2,), np.float32)
CLICKS = spaces.MultiDiscrete([2, 3], start=[0, -1])


class Sampled(gymnasium.Env):
    """Observations and actions of any space; each step checks its action."""

    def __init__(self, observation_space: Any = VECTOR, action_space: Any = None):
        self.observation_space = observation_space
        self.action_space = spaces.Discrete(2) if action_space is None else action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.shown = self.observation_space.sample()
        return self.shown, {}

    def step(self, action):
        assert self.action_space.contains(action), (action, self.action_space)
        self.taken = action
        return self.observation_space.sample(), 0.0, False, False, {}


_CURRENT: list[Any] = []


def current():
    return _CURRENT[0]


def canonical(env: Any) -> gymnasium.Env:
    _CURRENT[:] = [env]
    return make_env(EnvConfig(task=f"import:{__name__}:current"))


def after_advice(env: gymnasium.Env) -> tuple[gymnasium.Env, gymnasium.Env]:
    """The environment behind the lines of its errors, wrapped by itself and as the agent sees it."""
    inner, lines = env, 0
    while True:
        try:
            return inner, canonical(env)
        except EnvError as error:
            text = str(error)
        assert "\n" not in text
        found = re.search(r"env = gymnasium\.wrappers\..*", text)
        assert found, text
        line, depth = found[0], 0
        for end, letter in enumerate(line):  # up to the bracket that closes the call: other advice can follow
            depth += (letter == "(") - (letter == ")")
            if letter == ")" and not depth:
                line = line[: end + 1]
                break
        names = {"env": env, "gymnasium": gymnasium, "numpy": numpy}
        exec(line, names)
        env, lines = names["env"], lines + 1
        assert lines < 5


def _image(shape: tuple[int, ...], high: int = 255, dtype: Any = np.uint8) -> spaces.Box:
    return spaces.Box(0, high, shape, dtype)


@pytest.mark.parametrize(
    ("space", "spec", "expected"),
    [
        (_image((3, 64, 64)), ObsSpec("image", (64, 64, 3)), lambda x: np.moveaxis(x, 0, -1)),
        (_image((9, 84, 96)), ObsSpec("image", (84, 96, 9)), lambda x: np.moveaxis(x, 0, -1)),
        (_image((16, 64, 64), 1), ObsSpec("image", (64, 64, 16), high=1), lambda x: np.moveaxis(x, 0, -1)),
        (_image((4, 20, 20), 1, np.bool_), ObsSpec("image", (20, 20, 4), high=1), lambda x: np.moveaxis(x, 0, -1)),
        (spaces.MultiBinary((4, 20, 20)), ObsSpec("image", (20, 20, 4), high=1), lambda x: np.moveaxis(x, 0, -1)),
        (
            spaces.Box(
                np.zeros((2, 20, 20), np.uint8), np.uint8([[[1]], [[9]]]) * np.ones((2, 20, 20), np.uint8), dtype=np.uint8
            ),
            ObsSpec("image", (20, 20, 2), high=(1, 9)),
            lambda x: np.moveaxis(x, 0, -1),
        ),
        (spaces.Box(0, 1, (16, 20, 3)), ObsSpec("image", (16, 20, 3)), lambda x: np.rint(255 * x)),
        (spaces.Box(-1, 1, (16, 20, 3)), ObsSpec("image", (16, 20, 3)), lambda x: np.rint(255 * (x + 1) / 2)),
        (spaces.Box(0, 1, (3, 20, 20)), ObsSpec("image", (20, 20, 3)), lambda x: np.rint(255 * np.moveaxis(x, 0, -1))),
        (_image((16, 20, 1), 65535, np.uint16), ObsSpec("image", (16, 20, 1)), lambda x: np.rint(x / 257)),
        (spaces.Box(100, 110, (16, 20, 1), np.uint8), ObsSpec("image", (16, 20, 1)), lambda x: np.rint(25.5 * (x - 100.0))),
        (spaces.Box(-np.inf, np.inf, (2, 3, 4)), ObsSpec("vector", (24,)), np.ravel),
        (_image((2, 4, 4, 3)), ObsSpec("vector", (96,)), np.ravel),
        (_image((4, 16, 20, 3)), ObsSpec("image", (16, 20, 12)), lambda x: np.concatenate(list(x), -1)),
        (spaces.MultiDiscrete([2, 3]), ObsSpec("vector", (5,)), lambda x: [*np.eye(2)[x[0]], *np.eye(3)[x[1]]]),
        (spaces.Tuple([VECTOR, spaces.Discrete(2)]), ObsSpec("vector", (4,)), lambda x: [*x[0], *np.eye(2)[x[1]]]),
    ],
    ids=lambda value: "" if callable(value) else str(value)[:40],
)
@pytest.mark.parametrize("keys", [(), ("a",), ("deep", "er 'key'")], ids=str)
def test_observations_after_the_advised_line(space, spec, expected, keys):
    """The same numbers as by hand; other observations stay what they are."""
    whole = space
    for key in reversed(keys):
        whole = spaces.Dict({key: whole, "other": VECTOR})
    inner, env = after_advice(Sampled(whole))
    name = "/".join(keys) or "observation"
    assert env.get_wrapper_attr("obs_specs")[name] == spec
    observation, _ = env.reset(seed=3)
    shown = inner.shown
    for key in keys:
        np.testing.assert_array_equal(shown["other"], observation["/".join([*keys[: keys.index(key)], "other"])])
        shown = shown[key]
    np.testing.assert_allclose(observation[name], np.asarray(expected(shown)), atol=1.01 if spec.kind == "image" else 1e-6)
    if space.dtype == np.uint8 and spec.kind == "image":
        np.testing.assert_array_equal(observation[name], np.rint(expected(shown)))


@pytest.mark.parametrize(
    "space",
    [spaces.Sequence(VECTOR), spaces.Text(9), spaces.Graph(VECTOR, None), _image((0,)), spaces.OneOf([VECTOR])],
    ids=str,
)
def test_what_cannot_be_an_array_is_left_out_or_needs_a_wrapper(space):
    _, env = after_advice(Sampled(spaces.Dict(a=space, b=VECTOR, c=spaces.Discrete(3))))
    assert list(env.get_wrapper_attr("obs_specs")) == ["b", "c"]
    for whole in (space, spaces.Dict(a=space)):
        with pytest.raises(EnvError, match=r"ObservationWrapper|holds no numbers") as error:
            canonical(Sampled(whole))
        assert "FilterObservation" not in str(error.value)


@pytest.mark.parametrize("shape", [(16, 16, 27), (20, 24, 27), (17, 50, 2), (8, 8, 12), (12, 8, 8), (75, 131, 3), (16, 32, 16)])
def test_channels_last_are_taken_as_they_are(shape):
    env = canonical(Sampled(_image(shape)))
    assert env.get_wrapper_attr("obs_specs") == {"observation": ObsSpec("image", shape)}


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (spaces.Box(0, np.inf, (2,)), [-1, 0], [0, 0.5]),
        (spaces.Box(-np.inf, np.inf, (2,), np.float64), [-1, 0.5], [-1, 0.5]),
        (spaces.Box(np.float32([-np.inf, 2]), np.float32([3, np.inf])), [1, 1], [3, 3]),
        (spaces.MultiDiscrete([2, 3]), np.eye(6)[4], [1, 1]),
        (CLICKS, np.eye(6)[5], [1, 1]),
        (spaces.MultiDiscrete([[2, 2], [1, 2]]), np.eye(8)[6], [[1, 1], [0, 0]]),
        (spaces.MultiBinary(3), np.eye(8)[5], [1, 0, 1]),
        (spaces.MultiBinary((2, 2)), np.eye(16)[8], [[1, 0], [0, 0]]),
        (spaces.MultiDiscrete([9, 9, 2]), [1, -1, 0.6], [8, 0, 1]),
        (spaces.MultiBinary(7), [1, -1, 1, 1, -1, -1, 0.2], [1, 0, 1, 1, 0, 0, 1]),
    ],
    ids=str,
)
def test_actions_after_the_advised_line(space, action, expected):
    inner, env = after_advice(Sampled(action_space=space))
    env.reset(seed=0)
    env.step(np.float32(action))
    np.testing.assert_array_equal(inner.taken, expected)


# Spaces that are none


def _old(name: str) -> type:
    """A class as the package gym has it, which needs not be installed here."""
    return type(name, (), {"__module__": "gym.spaces", "__repr__": lambda _: "Discrete(2)"})


@pytest.mark.parametrize("place", ["observation_space", "action_space"])
def test_spaces_of_the_old_gym_are_called_so(place):
    env = Sampled()
    setattr(env, place, _old("Discrete")())
    with pytest.raises(
        EnvError, match=rf"{place} is Discrete\(2\) of the old package gym; a space of gymnasium was expected"
    ) as error:
        canonical(env)
    assert "from gymnasium import spaces" in str(error.value)
    assert "shimmy.GymV26CompatibilityV0(env=env)" in str(error.value)


def test_environments_of_the_old_gym_are_called_so():
    with pytest.raises(EnvError, match=r"of the old package gym; a gymnasium.Env was expected. In current, convert .*shimmy"):
        canonical(_old("Maze")())


@pytest.mark.parametrize("place", ["observation_space", "action_space"])
def test_missing_spaces_are_one_line(place):
    env = Sampled()
    setattr(env, place, None)
    with pytest.raises(EnvError, match=rf"has no {place}. Set self.{place} in its __init__, such as gymnasium.spaces"):
        canonical(env)
    delattr(env, place)
    with pytest.raises(EnvError, match=rf"has no {place}"):
        canonical(env)
    setattr(env, place, [2, 3])
    with pytest.raises(EnvError, match=rf"{place} is list, which is no space; a space of gymnasium was expected"):
        canonical(env)


def test_a_named_tuple_is_a_tuple(monkeypatch):
    env = Sampled()
    step, reset = env.step, env.reset
    named = collections.namedtuple("Step", "obs reward terminated truncated info")
    monkeypatch.setattr(env, "step", lambda action: named(*step(action)))
    monkeypatch.setattr(env, "reset", lambda **given: collections.namedtuple("Begin", "obs info")(*reset(**given)))
    seen = canonical(env)
    seen.reset(seed=0)
    assert seen.step(np.float32([1, 0]))[1:] == (0.0, False, False, {})
