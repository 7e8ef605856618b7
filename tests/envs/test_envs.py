"""Environments: the stream of records, the conversion of spaces, and every refusal."""

import itertools
import os
import signal
import subprocess
import sys
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import EnvError
from dreamer_jax.core.spaces import ActionSpec, ObsSpec
from dreamer_jax.envs import env_seeds, make_env, make_vector_env
from dreamer_jax.envs.families import registered

HERE = __name__
NOISE = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class Counting(gymnasium.Env):
    """Shows [steps since the reset, a random number]; the reward is the step's number; terminates after `length`."""

    observation_space = NOISE
    action_space = spaces.Discrete(3)

    def __init__(self, length: int = 3, fail_at: int = 0):
        self.length, self.fail_at, self.count = length, fail_at, 0

    def _observation(self):
        return np.array([self.count, self.np_random.random()], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._observation(), {}

    def step(self, action):
        self.count += 1
        if self.count == self.fail_at:
            raise KeyError("50% of a pole")
        done = self.count == self.length
        return self._observation(), float(self.count), done, False, {"success": True} if done else {}


class Scripted(gymnasium.Env):
    """Returns what it is told, and remembers the last action."""

    render_mode = None

    def __init__(self, observation_space=NOISE, observation: Any = None, action_space=None, **returns: Any):
        self.observation_space = observation_space
        self.action_space = action_space or spaces.Discrete(2)
        self.observation = observation_space.sample() if observation is None else observation
        self.returns = {"reward": 0.0, "terminated": False, "truncated": False, "info": {}} | returns
        self.action: Any = None

    def reset(self, *, seed=None, options=None):
        return self.observation, {}

    def step(self, action):
        self.action = action
        return (self.observation, *self.returns.values())


def terminating():
    return Counting()


def limited():
    return gymnasium.wrappers.TimeLimit(Counting(length=100), 2)


def both():
    return gymnasium.wrappers.TimeLimit(Counting(length=2), 2)


def failing():
    return Counting(fail_at=2)


def killed():
    env = Counting()
    env.step = lambda action: os.kill(os.getpid(), signal.SIGKILL)
    return env


def renderable(render_mode=None):
    env = Scripted()
    env.render_mode = render_mode
    return env


def needs_argument(size):
    return Scripted()


def returns_nothing():
    return None


def imports_nothing_known():
    import a_package_that_is_not_there  # noqa: F401


_CURRENT: list[gymnasium.Env] = []


def current():
    return _CURRENT[0]


def canonical(env: gymnasium.Env, **options: Any) -> gymnasium.Env:
    """`env` as the agent sees it."""
    _CURRENT[:] = [env]
    return make_env(EnvConfig(task=f"import:{HERE}:current", **options))


def config(function: str, **options: Any) -> EnvConfig:
    return EnvConfig(task=f"import:{HERE}:{function}", **options)


def stream(env_config: EnvConfig, steps: int, num_envs: int = 2, seed: int = 0) -> list[Any]:
    """The first records under choice 0."""
    env = make_vector_env(env_config, env_seeds(seed, num_envs))
    try:
        action = np.tile(np.float32([1, 0, 0]), (num_envs, 1))
        return [env.reset(), *(env.step(action) for _ in range(steps))]
    finally:
        env.close()


def column(steps: list[Any], field: str) -> list[Any]:
    return [getattr(step, field)[0].item() for step in steps]


def counts(steps: list[Any]) -> list[float]:
    return [step.obs["observation"][0, 0].item() for step in steps]


# The stream of records


def test_an_episode_of_three_decisions_is_four_records():
    steps = stream(config("terminating"), 5)
    assert counts(steps) == [0, 1, 2, 3, 0, 1]  # 3 is the terminal observation
    assert column(steps, "reward") == [0, 1, 2, 3, 0, 1]
    assert column(steps, "is_first") == [True, False, False, False, True, False]
    assert column(steps, "is_last") == [False, False, False, True, False, False]
    assert column(steps, "is_terminal") == [False, False, False, True, False, False]


def test_a_time_limit_is_last_but_not_terminal():
    steps = stream(config("limited"), 3)
    assert column(steps, "is_last") == [False, False, True, False]
    assert column(steps, "is_terminal") == [False] * 4
    assert counts(steps) == [0, 1, 2, 0]


def test_an_end_at_the_time_limit_is_terminal():
    assert column(stream(config("both"), 2), "is_terminal") == [False, False, True]


def test_reset_starts_again():
    env = make_vector_env(config("terminating"), env_seeds(0, 1))
    action = np.float32([[1, 0, 0]])
    assert env.reset().is_first.all()
    for _ in range(3):
        step = env.step(action)
    assert step.is_last.all()
    assert env.reset().is_first.all()
    assert not env.step(action).is_first.any()


def test_dtypes_shapes_and_specs():
    env = make_vector_env(config("terminating"), env_seeds(0, 3))
    step = env.reset()
    assert env.obs_specs == {"observation": ObsSpec("vector", (2,))}
    assert env.action_spec == ActionSpec(discrete=True, size=3)
    assert env.num_envs == 3
    assert (step.obs["observation"].shape, step.obs["observation"].dtype) == ((3, 2), np.float32)
    assert (step.reward.dtype, step.success.dtype) == (np.float32, np.float32)
    assert all(flag.dtype == bool and flag.shape == (3,) for flag in (step.is_first, step.is_last, step.is_terminal))


def test_success_is_nan_where_it_is_not_reported():
    np.testing.assert_array_equal(column(stream(config("terminating"), 4), "success"), [np.nan, np.nan, np.nan, 1, np.nan])
    _, *_, info = _step(canonical(Scripted(info={"is_success": False, "other": object()})))
    assert info == {"success": 0.0}


@pytest.mark.parametrize("processes", [False, True])
def test_records_are_safe_to_keep(processes):
    env = make_vector_env(config("terminating", processes=processes), env_seeds(0, 1))
    first = env.reset()
    kept = first.obs["observation"].copy()
    second = env.step(np.float32([[1, 0, 0]]))
    second.is_last[:] = True  # must not reach the environment's own flags
    np.testing.assert_array_equal(first.obs["observation"], kept)
    assert first.is_first.all()
    assert not env.step(np.float32([[1, 0, 0]])).is_first.any()
    env.close()


def test_processes_give_the_same_stream():
    for one, two in zip(stream(config("terminating"), 9), stream(config("terminating", processes=True), 9)):
        np.testing.assert_array_equal(one.obs["observation"], two.obs["observation"])
        for field in ("reward", "is_first", "is_last", "is_terminal", "success"):
            np.testing.assert_array_equal(getattr(one, field), getattr(two, field))


# Seeds


def _noise(seed: int) -> np.ndarray:
    return np.stack([step.obs["observation"][:, 1] for step in stream(config("terminating"), 5, seed=seed)])


def test_seeds_reproduce_and_differ():
    np.testing.assert_array_equal(_noise(0), _noise(0))
    assert len(np.unique(_noise(0))) == 12  # environments differ, and later episodes are not the first again
    assert not np.isin(_noise(1), _noise(0)).any()


def test_only_the_first_reset_is_seeded():
    env = make_vector_env(config("terminating"), env_seeds(0, 1))
    assert env.reset().obs["observation"][0, 1] != env.reset().obs["observation"][0, 1]


def test_env_seeds_do_not_depend_on_the_number_of_environments_nor_overlap():
    assert env_seeds(5, 8)[:3] == env_seeds(5, 3)
    seeds = list(itertools.chain(*(env_seeds(seed, 16) for seed in range(64))))
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)


# Action repeat


def _step(env: gymnasium.Env, action: Any = (1, 0)) -> tuple[Any, ...]:
    env.reset()
    return env.step(np.float32(action))


def test_action_repeat_sums_rewards_and_stops_at_the_end():
    env = canonical(Counting(length=3), action_repeat=2)
    env.reset()
    action = np.float32([1, 0, 0])
    observation, reward, terminated, _, info = env.step(action)
    assert (observation["observation"][0], reward, terminated, info) == (2, 1 + 2, False, {})
    observation, reward, terminated, _, info = env.step(action)
    assert (observation["observation"][0], reward, terminated, info) == (3, 3, True, {"success": 1.0})


def test_action_repeat_stops_at_a_time_limit():
    env = canonical(limited(), action_repeat=5)
    env.reset()
    _, reward, terminated, truncated, _ = env.step(np.float32([1, 0, 0]))
    assert (reward, terminated, truncated) == (3, False, True)


# Actions


def test_one_hot_actions_start_where_the_space_does():
    inner = Scripted(action_space=spaces.Discrete(3, start=-1))
    env = canonical(inner)
    assert env.get_wrapper_attr("action_spec") == ActionSpec(discrete=True, size=3)
    env.reset()
    for choice, expected in ((0, -1), (1, 0), (2, 1)):
        env.step(np.eye(3, dtype=np.float32)[choice])
        assert inner.action == expected
        assert inner.action_space.contains(inner.action)


def test_continuous_actions_are_clipped_rescaled_and_reshaped():
    box = spaces.Box(np.float32([[0, -2], [-1, 5]]), np.float32([[10, 2], [1, 5]]))
    inner = Scripted(action_space=box)
    env = canonical(inner)
    assert env.get_wrapper_attr("action_spec") == ActionSpec(discrete=False, size=4)
    _step(env, [0.5, -1, 7, 0])
    np.testing.assert_allclose(inner.action, [[7.5, -2], [1, 5]])
    assert box.contains(inner.action)


def test_rescaled_actions_never_leave_the_bounds():
    rng = np.random.default_rng(0)
    low = rng.normal(size=50).astype(np.float32)
    inner = Scripted(action_space=spaces.Box(low, low + rng.random(50).astype(np.float32)))
    env = canonical(inner)
    for action in (np.ones(50), -np.ones(50), rng.normal(size=50)):
        _step(env, action)
        assert inner.action_space.contains(inner.action)


def test_integer_boxes_reach_their_ends():
    inner = Scripted(action_space=spaces.Box(0, 4, (3,), np.int32))
    _step(canonical(inner), [-0.9, 0.1, 0.9])
    np.testing.assert_array_equal(inner.action, [0, 2, 4])
    assert inner.action.dtype == np.int32


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), "no finite bounds.*Choose limits"),
        (spaces.Box(np.float32([0]), np.float32([np.inf])), "no finite bounds"),
        (spaces.Box(-3e38, 3e38, (1,)), "no finite bounds"),
        (spaces.Box(0, 1, (0,)), "holds no numbers"),
        (spaces.MultiDiscrete([2, 3]), "Discrete or a bounded Box was expected. Make one choice of all combinations"),
        (spaces.MultiBinary(2), "Discrete or a bounded Box was expected"),
        (spaces.Dict(a=spaces.Discrete(2)), "Discrete or a bounded Box was expected. Write a gymnasium.ActionWrapper"),
    ],
)
def test_unusable_action_spaces_are_refused(space, message):
    with pytest.raises(EnvError, match=message):
        canonical(Scripted(action_space=space))


def test_wrong_actions_are_refused():
    env = make_vector_env(config("terminating"), env_seeds(0, 2))
    env.reset()
    with pytest.raises(EnvError, match=r"shape \[3\]; \[2, 3\] was expected"):
        env.step(np.zeros(3, np.float32))
    with pytest.raises(EnvError, match="action holds NaN"):
        env.step(np.full((2, 3), np.nan, np.float32))


# Observations


def _observe(space: spaces.Space, value: Any) -> tuple[dict[str, ObsSpec], dict[str, np.ndarray]]:
    env = canonical(Scripted(space, value))
    return env.get_wrapper_attr("obs_specs"), env.reset()[0]


def test_discrete_observations_count_from_zero():
    specs, observation = _observe(spaces.Discrete(3, start=5), np.int64(6))
    assert specs == {"observation": ObsSpec("discrete", (), classes=3)}
    assert observation["observation"] == 1
    assert observation["observation"].dtype == np.int32


def test_nested_dicts_are_flattened():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    space = spaces.Dict(
        camera=spaces.Box(0, 255, (4, 4, 3), np.uint8),
        body=spaces.Dict(
            height=spaces.Box(0, 9, (), np.float64),
            feet=spaces.Dict(touch=spaces.MultiBinary(2)),
            ram=spaces.Box(0, 255, (2, 3), np.uint8),
        ),
    )
    value = {
        "camera": image,
        "body": {"height": 1.5, "feet": {"touch": np.int8([0, 1])}, "ram": np.full((2, 3), 7, np.uint8)},
    }
    specs, observation = _observe(space, value)
    assert specs == {
        "camera": ObsSpec("image", (4, 4, 3)),
        "body/height": ObsSpec("vector", ()),
        "body/feet/touch": ObsSpec("vector", (2,)),
        "body/ram": ObsSpec("vector", (2, 3)),
    }
    np.testing.assert_array_equal(observation["camera"], image)
    np.testing.assert_array_equal(observation["body/feet/touch"], [0, 1])
    assert observation["body/height"] == 1.5
    assert {key: array.dtype for key, array in observation.items()} == {key: spec.dtype for key, spec in specs.items()}
    assert all(specs[key].shape == array.shape for key, array in observation.items())


CHANNELS = np.uint8([255, 255, 255, 1]) * np.ones((4, 4, 1), np.uint8)  # colours and a mask


@pytest.mark.parametrize(
    ("space", "high"),
    [
        (spaces.Box(0, 255, (4, 4, 3), np.uint8), 255),
        (spaces.Box(0, 1, (4, 4, 3), np.uint8), 1),
        (spaces.Box(0, 10, (4, 4, 2), np.uint8), 10),
        (spaces.Box(np.zeros_like(CHANNELS), CHANNELS, dtype=np.uint8), (255, 255, 255, 1)),
        (spaces.Box(16, 235, (4, 4, 1), np.uint8), 235),
        (spaces.Box(0, 0, (4, 4, 1), np.uint8), 1),
        (spaces.Box(0, 1, (4, 4, 3), np.bool_), 1),
        (spaces.Box(0, 200, (4, 4, 1), np.int64), 200),
        (spaces.MultiBinary((4, 4, 5)), 1),
    ],
    ids=str,
)
def test_images_have_the_bounds_of_their_space(space, high):
    space.seed(0)
    sample = space.sample()
    specs, observation = _observe(space, sample)
    assert specs == {"observation": ObsSpec("image", space.shape, high=high)}
    assert observation["observation"].dtype == np.uint8
    np.testing.assert_array_equal(observation["observation"], sample)


def test_a_begun_run_keeps_its_bounds():
    """And where anything else of an observation has changed, nothing is kept."""
    env = make_vector_env(config("planes"), env_seeds(0, 1))
    assert env.keep_bounds({"observation": ObsSpec("image", (4, 4, 2)), "other": ObsSpec("vector", ())}) == []
    assert env.keep_bounds({"observation": ObsSpec("vector", (4, 4))}) == []
    assert env.obs_specs == {"observation": ObsSpec("image", (4, 4, 3), high=1)}
    assert env.keep_bounds({"observation": ObsSpec("image", (4, 4, 3))}) == ["observation"]
    assert env.obs_specs == {"observation": ObsSpec("image", (4, 4, 3))}


def planes():
    return Scripted(PLANES)


def test_all_kinds_pass_through_processes():
    for processes in (False, True):
        env = make_vector_env(config("all_kinds", processes=processes), env_seeds(0, 2))
        step = env.reset()
        for key, spec in env.obs_specs.items():
            assert (step.obs[key].shape, step.obs[key].dtype) == ((2, *spec.shape), spec.dtype)
        assert step.obs["index"].tolist() == [1, 1]
        assert step.obs["image"].max() == 200
        env.close()


def all_kinds():
    space = spaces.Dict(index=spaces.Discrete(3, start=1), image=spaces.Box(0, 255, (4, 4, 3), np.uint8), vector=NOISE)
    return Scripted(space, {"index": 2, "image": np.full((4, 4, 3), 200, np.uint8), "vector": np.zeros(2, np.float32)})


def test_environments_of_different_spaces_are_refused():
    with pytest.raises(EnvError, match=r"changing has other spaces each time that it is made: .*\(2,\).* before .*\(1,\)"):
        make_vector_env(config("changing"), env_seeds(0, 2))


_SIZE = itertools.count(1)


def changing():
    return Scripted(spaces.Box(-1, 1, (next(_SIZE),), np.float32))


def test_integers_where_floats_were_promised_are_cast():
    assert _observe(NOISE, np.array([1, 2]))[1]["observation"].dtype == np.float32


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Tuple([NOISE]), "key 'observation' has space Tuple.*FlattenObservation"),
        (spaces.Dict(a=spaces.Text(5)), "key 'a' has space Text"),
        (spaces.MultiDiscrete([2, 2]), "has space MultiDiscrete"),
        (spaces.Dict(a=spaces.Dict(b=spaces.Sequence(NOISE))), "key 'a/b' has space Sequence"),
        (spaces.Graph(NOISE, None), "has space Graph"),
        (spaces.Box(0, 1, (4, 4, 3)), "Make it an image of uint8: env = "),
        (spaces.Box(0, 255, (2, 4, 4, 3), np.uint8), "rank 0 to 2"),
        *(
            (spaces.Box(0, 255, shape, np.uint8), "Put the channels last: env = ")
            for shape in ((3, 64, 64), (4, 84, 96), (9, 84, 84), (16, 64, 64), (1, 32, 40))
        ),
        (spaces.Dict(a=spaces.Box(0, 1, (0,))), "key 'a'.*It holds no numbers"),
        (spaces.Dict(), "holds no key"),
        (spaces.Dict({"a/b": NOISE, "a": spaces.Dict(b=NOISE)}), "key 'a/b' occurs twice"),
        *(
            (spaces.Dict({key: NOISE}), f"key '{key}' is reserved")
            for key in ("reward", "is_first", "is_last", "is_terminal", "mlp", "cnn_8x8")
        ),
    ],
)
def test_unusable_observation_spaces_are_refused(space, message):
    with pytest.raises(EnvError, match=message):
        canonical(Scripted(space, 0))


IMAGE = spaces.Box(0, 255, (4, 4, 3), np.uint8)
PLANES = spaces.Box(0, 1, (4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (NOISE, np.zeros(3, np.float32), r"key 'observation' is an array of float32 \[3\]; the space promised Box.*\(2,\)"),
        (NOISE, np.float32([0, np.nan]), r"nan at index \[1\]"),
        (NOISE, np.float32([np.inf, 0]), r"inf at index \[0\]"),
        (NOISE, np.array([1e300, 0]), r"inf at index \[0\] \(as float32\)"),
        (NOISE, np.array(["a", "b"]), "an array of <U1"),
        (NOISE, np.zeros(2, complex), "an array of complex128"),
        (NOISE, None, "NoneType None"),
        (spaces.Box(0, 9, (2,), np.int64), np.array([0.5, 1]), "an array of float64"),
        (spaces.Dict(a=NOISE, b=NOISE), {"a": np.zeros(2)}, r"key 'b' is missing from a dict with keys \['a'\]"),
        (spaces.Dict(a=NOISE), np.zeros(2), "key 'a' is missing"),
        (IMAGE, np.zeros((4, 4, 3), np.int64), "an array of int64"),
        (IMAGE, np.zeros((4, 3, 4), np.uint8), r"uint8 \[4, 3, 4\]"),
        (IMAGE, np.zeros((4, 4, 3), np.float32), "an array of float32"),
        (PLANES, np.full((4, 4, 3), 255, np.uint8), r"255 at index \[0, 0, 0\]; the space promised Box\(0, 1"),
        (PLANES, np.zeros((4, 4, 3), np.float32), "an array of float32"),
        (spaces.Box(0, 9, (1, 2, 1), np.int64), np.array([[[9], [-3]]]), r"-3 at index \[0, 1, 0\]"),
        (spaces.Box(CHANNELS * 0, CHANNELS, dtype=np.uint8), np.full_like(CHANNELS, 2), r"2 at index \[0, 0, 3\]"),
        (spaces.MultiBinary((1, 2, 1)), np.int64([[[1], [256]]]), r"256 at index \[0, 1, 0\]"),
        (spaces.Discrete(3, start=1), 0, r"int 0; the space promised Discrete\(3, start=1\)"),
        (spaces.Discrete(3), 3, "int 3"),
        (spaces.Discrete(3), 1.0, "float 1.0"),
        (spaces.Discrete(3), np.array([1]), r"an array of int64 \[1\]"),
    ],
)
def test_broken_observations_are_refused_at_reset_and_step(space, value, message):
    inner = Scripted(space)
    env = canonical(inner)
    env.reset()
    inner.observation = value
    env_name = f"import:{HERE}:current"
    with pytest.raises(EnvError, match=f"^{env_name} at step 1 of the episode: .*{message}") as caught:
        env.step(np.float32([1, 0]))
    assert "\n" not in str(caught.value)
    with pytest.raises(EnvError, match=f"^{env_name} at reset: .*{message}"):
        env.reset()


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        ({"reward": np.nan}, "reward is float nan; one finite number was expected"),
        ({"reward": -np.inf}, "reward is float -inf"),
        ({"reward": 1e39}, "reward is float 1e"),
        ({"reward": None}, "reward is NoneType None"),
        ({"reward": np.zeros(1)}, r"reward is an array of float64 \[1\]"),
        ({"terminated": 1}, r"terminated is int 1; a bool was expected. Return bool\(terminated\)"),
        ({"truncated": None}, "truncated is NoneType None"),
        ({"info": None}, "info is NoneType None"),
        ({"info": {"success": "yes"}}, r"info\['success'\] is str 'yes'"),
        ({"info": {"is_success": np.nan}}, r"info\['is_success'\] is float nan"),
        ({"another": 0}, "step returned a tuple of 6"),
    ],
)
def test_broken_returns_are_refused(returns, message):
    with pytest.raises(EnvError, match=message):
        _step(canonical(Scripted(**returns)))


def test_usual_numbers_are_accepted():
    for reward in (1, True, np.float32(1), np.int64(1), np.bool_(True)):
        result = _step(canonical(Scripted(reward=reward, terminated=np.bool_(False))))
        assert result[1:4] == (1.0, False, False)
        assert [type(value) for value in result[1:4]] == [float, bool, bool]


def test_old_reset_is_refused(monkeypatch):
    inner = Scripted()
    monkeypatch.setattr(inner, "reset", lambda seed, options: inner.observation)
    with pytest.raises(EnvError, match=r"reset returned an array .*the tuple \(observation, info\) was expected"):
        canonical(inner).reset()


# Errors inside environments


@pytest.mark.parametrize("processes", [False, True])
def test_an_error_inside_an_environment_is_one_line_with_its_place(processes):
    with pytest.raises(EnvError, match=r"failing at step 2 .*: step raised KeyError: '50% of a pole' \(test_envs\.py:\d+\)$"):
        stream(config("failing", processes=processes), 2)


def test_a_killed_process_is_an_error_and_close_still_works():
    with pytest.raises(EnvError, match="an environment process ended unexpectedly"):
        stream(config("killed", processes=True, restarts=0), 1)


# Tasks


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("CartPole-v1", "'CartPole-v1' is not a task. Write gym:<registered id>.* or import:<package.module>:<function>"),
        ("gym:", "is not a task"),
        ("import:math", "is not a task"),
        ("import::f", "is not a task"),
        ("gym:cartpol-v1", "no environment 'cartpol-v1' is registered; the nearest ids are CartPole-v1"),
        ("gym:PENDULUM-V1", "the nearest ids are Pendulum-v1"),
        ("gym:CartPole-v9", "the nearest ids are CartPole-v1"),
        ("gym:CartPole", "the nearest ids are CartPole-v1"),
        ("gym:NOWHERE/Pong-v5", r"gym:<its module>:NOWHERE/Pong-v5"),
        ("gym:MiniGrid-Empty-5x5-v0", "write gym:<its module>:MiniGrid-.*perhaps,.* gym:minigrid:MiniGrid-Empty-5x5-v0$"),
        ("gym:PyTestLike/Maze-v0", r"write gym:<its module>:PyTestLike/Maze-v0, perhaps"),
        ("gym:Pytes/Maze-v0", r"write gym:<its module>:Pytes/Maze-v0, such as gym:pytest:Pytes/Maze-v0$"),
        ("gym:3D/Maze-v0", r"write gym:<its module>:3D/Maze-v0$"),
        ("gym:CartPole-v9", "the nearest ids are CartPole-v1, CartPole-v0[^:]*$"),
        ("gym:no_such_module:Pong-v5", "no module 'no_such_module'"),
        ("import:no_such_module.envs:make", "no module 'no_such_module'. Install its package, or set PYTHONPATH"),
        (f"import:{HERE}:terminatin", "does not exist; did you mean 'terminating'"),
        (f"import:{HERE}:NOISE", "is not a function"),
        (f"import:{HERE}:needs_argument", "needs_argument raised TypeError"),
        (f"import:{HERE}:returns_nothing", r"returns_nothing\(\) returned NoneType; a gymnasium.Env was expected"),
        (f"import:{HERE}:imports_nothing_known", "ModuleNotFoundError: No module named 'a_package_that_is_not_there'"),
    ],
)
def test_wrong_tasks_are_refused(task, message):
    with pytest.raises(EnvError, match=message) as caught:
        make_env(EnvConfig(task=task))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (gymnasium.error.DependencyNotInstalled("X is not installed, run `pip install x`"), "not installed.*`pip install x`"),
        (ModuleNotFoundError("No module named 'x'", name="x.y"), "Try: pip install x$"),
        (RuntimeError("no display"), "Missing-v0 could not be made: RuntimeError: no display"),
    ],
)
def test_environments_that_cannot_be_made(error, message, monkeypatch):
    def make(**options):
        raise error

    monkeypatch.setattr(gymnasium, "registry", dict(gymnasium.registry))
    monkeypatch.setattr("gymnasium.envs.registration.registry", gymnasium.registry)
    gymnasium.register("Missing-v0", make)
    with pytest.raises(EnvError, match=message):
        make_env(EnvConfig(task="gym:Missing-v0"))


class Drawn(Scripted):
    """Drawn with MuJoCo, as this module has `MujocoRenderer`."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode


@pytest.mark.parametrize("works", ["egl", None])
def test_mujoco_environments_are_drawn_with_what_can_draw(works, monkeypatch, caplog):
    """As dmc tasks are; without OpenGL there is the same advice. Others are not asked."""
    asked = []
    monkeypatch.setattr(registered, "choose_gl", lambda: asked.append(works) or works)
    monkeypatch.setattr(registered, "gl_advice", lambda: "Install EGL")
    monkeypatch.setattr(gymnasium, "registry", dict(gymnasium.registry))
    monkeypatch.setattr("gymnasium.envs.registration.registry", gymnasium.registry)
    gymnasium.register("Drawn-v0", Drawn)
    drawn = EnvConfig(task="gym:Drawn-v0")
    assert make_env(drawn, render=True).render_mode == "rgb_array"
    assert not asked
    monkeypatch.setitem(globals(), "MujocoRenderer", object)
    assert make_env(drawn).render_mode is None
    assert not asked
    assert make_env(drawn, render=True).render_mode == ("rgb_array" if works else None)
    assert asked == [works]
    assert ("gym:Drawn-v0 cannot be drawn: Install EGL" in caplog.text) == (works is None)


def test_render_is_asked_for_only_where_it_is_known():
    assert make_env(config("renderable"), render=True).render_mode == "rgb_array"
    assert make_env(config("renderable")).render_mode is None
    assert make_env(config("terminating"), render=True).render_mode is None


def test_a_registered_environment_renders():
    env = make_env(EnvConfig(task="gym:CartPole-v1"), render=True)
    env.reset(seed=0)
    frame = env.render()
    assert isinstance(frame, np.ndarray)
    assert (frame.dtype, frame.shape[-1]) == (np.uint8, 3)
    assert make_env(EnvConfig(task="gym:CartPole-v1")).render_mode is None


def test_imports_no_jax():
    code = "import sys, dreamer_jax.envs; sys.exit(bool({'jax', 'flax', 'optax'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
