"""What an environment shows and takes, kept as JSON and read again."""

import json
from collections import OrderedDict

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import EnvError
from dreamer_jax.core.spaces import ActionSpec, ObsSpec
from dreamer_jax.envs import make_env
from dreamer_jax.envs.actions import action_conversion
from dreamer_jax.envs.observations import ObservationConversion
from dreamer_jax.envs.spaces import EnvSpaces, spaces_of

NESTED = spaces.Dict(
    OrderedDict(
        {
            "zoom": spaces.Box(np.float32([-1, -np.inf]), np.float32([np.inf, 0.1])),
            "body": spaces.Dict({"mode": spaces.Discrete(4, start=-2), 7: spaces.MultiBinary(3)}),
            "bits": spaces.MultiBinary((2, 3)),
            "camera": spaces.Box(0, 255, (4, 5, 3), np.uint8),
            "planes": spaces.Box(0, 10, (4, 5, 2), np.uint8),
            "mask": spaces.MultiBinary((4, 5, 1)),
            "both": spaces.Box(np.zeros((1, 1, 2), np.uint8), np.uint8([[[255, 3]]]), dtype=np.uint8),
            "far": spaces.Box(-np.inf, np.inf, (), np.float64),
            "count": spaces.Box(-(2**62), 2**62, (1,), np.int64),
        }
    )
)


def kept(observation: spaces.Space, action: spaces.Space) -> tuple[EnvSpaces, EnvSpaces]:
    """Spaces, and what is read of the JSON text that they are written as."""
    before = EnvSpaces(ObservationConversion(observation, "task"), action_conversion(action, "task"))
    return before, EnvSpaces.from_json(json.loads(json.dumps(before.as_json(), allow_nan=False)), "task")


@pytest.mark.parametrize("observation", [NESTED, *NESTED["body"].spaces.values(), *NESTED.spaces.values()], ids=str)
def test_observation_spaces_are_read_as_they_were(observation):
    """The same space, order of keys included, and the same arrays of what is drawn from it."""
    before, after = kept(observation, spaces.Discrete(2))
    assert after.observation.space == observation
    assert str(after.observation.space) == str(observation)
    assert list(after.specs[0].items()) == list(before.specs[0].items())
    observation.seed(0)
    for _ in range(5):
        sample = observation.sample()
        one, two = before.observation(sample), after.observation(sample)
        assert list(one) == list(two)
        for name, array in one.items():
            assert array.dtype == two[name].dtype
            np.testing.assert_array_equal(array, two[name])


@pytest.mark.parametrize(
    "action",
    [
        spaces.Discrete(3),
        spaces.Discrete(2, start=5),
        spaces.Box(-2, 2, (1,)),
        spaces.Box(np.float64([[0.1, -1 / 3]]), np.float64([[1e9, 0]]), dtype=np.float64),
        spaces.Box(0, 4, (2, 2), np.int32),
        spaces.Box(0, 1, (2,), np.bool_),
    ],
    ids=str,
)
def test_action_spaces_are_read_as_they_were(action):
    before, after = kept(spaces.Discrete(2), action)
    assert after.action.space == action
    assert after.action.spec == before.action.spec
    for values in np.random.default_rng(0).uniform(-1.5, 1.5, (5, before.action.spec.size)).astype(np.float32):
        one, two = before.action(values), after.action(values)
        assert type(one) is type(two)
        np.testing.assert_array_equal(one, two)
        assert action.contains(two)


def test_equal_bounds_are_one_number():
    """The file of an environment with images stays small."""
    before, _ = kept(spaces.Box(0, 255, (64, 64, 3), np.uint8), spaces.Discrete(2))
    assert len(json.dumps(before.as_json())) < 400


def test_without_bounds_in_the_file_images_are_divided_by_255():
    """As older versions of this project, which wrote none, have trained."""
    before, _ = kept(spaces.Dict(planes=spaces.Box(0, 1, (4, 4, 3), np.uint8)), spaces.Discrete(2))
    values = before.as_json() or {}
    assert values["obs_specs"]["planes"].pop("high") == 1
    after = EnvSpaces.from_json(values, "task")
    assert after.specs[0] == {"planes": ObsSpec("image", (4, 4, 3), high=255)}
    assert after.observation({"planes": np.ones((4, 4, 3), np.uint8)})["planes"].max() == 1


def test_a_wrong_observation_is_named_as_it_was():
    before, after = kept(NESTED, spaces.Discrete(2))
    broken = [
        {},
        {**NESTED.sample(), "zoom": np.float32([0, np.nan])},
        {**NESTED.sample(), "body": {"mode": 2, 7: np.int8([0, 0, 0])}},
        {**NESTED.sample(), "camera": np.zeros((4, 5, 3))},
    ]
    for observation in broken:
        with pytest.raises(EnvError, match=r"observation key '.*; the space promised ") as one:
            before.observation(observation)
        with pytest.raises(EnvError) as two:
            after.observation(observation)
        assert str(one.value) == str(two.value)


@pytest.mark.parametrize(
    "space", [spaces.Dict({("a", 1): spaces.Discrete(2)}), spaces.Box(0, 1, (2,), np.longdouble)], ids=["tuple", "longdouble"]
)
def test_what_json_cannot_hold_is_not_kept(space):
    assert EnvSpaces(ObservationConversion(space, "task"), action_conversion(spaces.Discrete(2), "task")).as_json() is None


BOX = {"type": "Box", "shape": [2], "dtype": "float32", "low": -1.0, "high": 1.0}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("observation_space", None),
        ("observation_space", []),
        ("observation_space", {}),
        ("observation_space", {"type": "Tuple"}),
        ("observation_space", {"type": "Dict", "spaces": [["a", BOX], ["a", BOX]]}),
        ("observation_space", {"type": "Dict", "spaces": [["reward", BOX]]}),
        ("observation_space", {"type": "Dict", "spaces": [[["a"], BOX]]}),
        ("observation_space", {"type": "other", "text": "Sequence(...)"}),
        *(
            ("observation_space", BOX | change)
            for change in (
                {"shape": [3]},
                {"shape": [-2]},
                {"shape": [2.0]},
                {"shape": 2},
                {"shape": [10**12]},
                {"dtype": "object"},
                {"dtype": "float33"},
                {"dtype": 5},
                {"low": [0.0]},
                {"low": float("nan")},
                {"low": "low"},
                {"low": 2.0},
                {"low": None},
                {"low": [[0.0, 0.0]]},
                {"dtype": "int8", "low": 1000},
                {"dtype": "int8", "low": 0.5},
            )
        ),
        ("action_space", {"type": "Discrete", "n": 0, "start": 0}),
        ("action_space", {"type": "Discrete", "n": 10**40, "start": 0}),
        ("action_space", {"type": "Discrete", "n": "3", "start": 0}),
        ("action_space", {"type": "MultiBinary", "n": 2}),
        ("obs_specs", None),
        ("obs_specs", {}),
        ("obs_specs", {"observation": 3}),
        ("obs_specs", {"observation": {"kind": "vector"}}),
        ("obs_specs", {"observation": {"kind": "vector", "shape": [3], "classes": 0, "storage": ""}}),
        ("obs_specs", {"observation": {"kind": "vector", "shape": [2], "classes": 0, "storage": "int8"}}),
        ("obs_specs", {"observation": {"kind": "words", "shape": [2], "classes": 0, "storage": "int8"}}),
        ("obs_specs", {"observation": {"kind": "vector", "shape": [2], "classes": 0, "storage": "", "high": 7}}),
        ("obs_specs", {"observation": {"kind": "vector", "shape": [2], "classes": 0, "storage": "", "high": [255, 255]}}),
        ("obs_specs", {"observation": {"kind": "vector", "shape": [2], "classes": 0, "storage": "", "high": "255"}}),
        ("action_spec", {"discrete": True, "size": 4}),
        ("action_spec", None),
    ],
)
def test_damage_is_one_line(part, value):
    good, _ = kept(spaces.Box(-1, 1, (2,)), spaces.Discrete(3))
    values = good.as_json()
    assert values is not None
    assert values["observation_space"] == BOX
    assert EnvSpaces.from_json(values, "task").specs == ({"observation": ObsSpec("vector", (2,))}, ActionSpec(True, 3))
    with pytest.raises(ValueError, match=r"\w") as damage:
        EnvSpaces.from_json(values | {part: value}, "task")
    assert len(str(damage.value).splitlines()) == 1
    with pytest.raises(ValueError, match=r"\w"):
        EnvSpaces.from_json({name: values[name] for name in values if name != part}, "task")


def test_spaces_within_spaces_without_end_are_damage():
    good, _ = kept(spaces.Box(-1, 1, (2,)), spaces.Discrete(3))
    deep = BOX
    for _ in range(5000):
        deep = {"type": "Dict", "spaces": [["a", deep]]}
    with pytest.raises(ValueError, match="RecursionError"):
        EnvSpaces.from_json((good.as_json() or {}) | {"observation_space": deep}, "task")


def test_a_conversion_is_what_the_environment_does():
    """Of a real environment: `make_env` shows and takes the same."""

    env, raw = make_env(EnvConfig(task="gym:Pendulum-v1")), gymnasium.make("Pendulum-v1")
    found = EnvSpaces.from_json(spaces_of(env).as_json() or {}, "task")
    assert (found.observation.space, found.action.space) == (raw.observation_space, raw.action_space)
    (shown, _), (own, _) = env.reset(seed=1), raw.reset(seed=1)
    for action in np.float32([[0.3], [-2], [0.9]]):
        np.testing.assert_array_equal(found.observation(own)["observation"], shown["observation"])
        shown, own = env.step(action)[0], raw.step(found.action(action))[0]
