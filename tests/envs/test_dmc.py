"""The DeepMind Control suite: every task, seeds and limits beside dm_control's own, images, and every refusal."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("dm_control", reason="dm_control is not installed (on Python 3.13 one of its dependencies has no wheel)")

import dm_env
from dm_env import specs

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import ConfigError, EnvError
from dreamer_jax.core.presets import load_config
from dreamer_jax.core.spaces import ActionSpec, ObsSpec
from dreamer_jax.envs import env_seeds, make_env, make_vector_env
from dreamer_jax.envs.families import dmc, gl
from dreamer_jax.envs.families.dmc import DmcEnv

Make = Callable[..., Any]


@pytest.fixture
def make() -> Iterator[Make]:
    """make("walker_walk", action_repeat=2) -> the environment as the agent sees it."""
    made = []

    def make_one(name: str, render: bool = False, **options: Any):
        made.append(make_env(EnvConfig(task=f"dmc:{name}", **options), render))
        return made[-1]

    yield make_one
    for env in made:
        env.close()


@pytest.fixture
def drawing() -> None:
    if gl.choose_gl() is None:
        pytest.skip(gl.gl_advice())


@pytest.fixture(scope="module")
def suite() -> Any:
    gl.choose_gl()  # before dm_control is imported
    from dm_control import suite

    return suite


def random_actions(env: Any, steps: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (steps, env.action_space.shape[0])).astype(np.float32)


def episode(env: Any, steps: int, seed: int | None = None) -> np.ndarray:
    """Observations and rewards of one episode under random actions, one row a step."""
    rows = [np.concatenate([*map(np.ravel, env.reset(seed=seed)[0].values()), [0.0]])]
    for action in random_actions(env, steps):
        observation, reward, *_ = env.step(action)
        rows.append(np.concatenate([*map(np.ravel, observation.values()), [reward]]))
    return np.stack(rows)


# Every task


def test_every_task_steps_within_its_spaces(suite, make):
    names = [f"{domain}_{task}" for domain, task in suite.ALL_TASKS]
    assert len(set(names)) == len(names)  # a name says which task it is
    for name in names:
        if name == dmc._NEEDS_GL and gl.choose_gl() is None:
            continue
        env = make(name)
        observation, _ = env.reset()  # without a seed, which would make every simulator twice
        assert env.observation_space.contains(observation), name
        for action in random_actions(env, 3):
            observation, reward, terminated, truncated, _ = env.step(action)
            assert env.observation_space.contains(observation), name
            assert env.unwrapped.action_space.contains(env.action(action)), name
            assert np.isfinite(reward), name
            assert not terminated, name
            assert not truncated, name
        env.close()


@pytest.mark.slow
def test_every_episode_lasts_a_thousand_control_steps(suite, make):
    for domain, task in suite.ALL_TASKS:
        env = make(f"{domain}_{task}")
        env.reset(seed=0)
        action = random_actions(env, 1)[0]
        ends = [env.step(action)[2:4] for _ in range(1000)]
        assert ends == [(False, False)] * 999 + [(False, True)], task
        env.close()


def test_the_state_has_the_keys_of_the_task(make):
    env = make("walker_walk")
    assert env.get_wrapper_attr("obs_specs") == {
        "height": ObsSpec("vector", ()),
        "orientations": ObsSpec("vector", (14,)),
        "velocity": ObsSpec("vector", (9,)),
    }
    assert env.get_wrapper_attr("action_spec") == ActionSpec(discrete=False, size=6)
    assert {value.dtype for value in env.reset(seed=0)[0].values()} == {np.dtype(np.float32)}


class Stub(dm_env.Environment):
    """A simulator that says whatever the test wants."""

    def __init__(self, steps: list[dm_env.TimeStep]):
        model = SimpleNamespace(ncam=0)
        self.physics = SimpleNamespace(model=model, free=lambda: None)
        self.steps = iter(steps)

    def reset(self):
        return next(self.steps)

    def step(self, action):
        return next(self.steps)

    def observation_spec(self):
        shapes = {"b": ((2,), float), "empty": ((0,), float), "index": ((), int), "a": ((), np.float32)}
        return {name: specs.Array(shape, dtype) for name, (shape, dtype) in shapes.items()}

    def action_spec(self):
        return specs.BoundedArray((3,), float, minimum=[-2, -1e10, 0], maximum=[6, 1e10, 1])

    def control_timestep(self):
        return 0.02


SHOWN = {"a": np.float32(0.5), "b": np.ones(2), "empty": np.zeros(0), "index": 3}


def test_empty_keys_and_integers_are_left_out():
    env = DmcEnv(lambda seed: Stub([dm_env.restart(SHOWN)]))
    assert set(env.observation_space) == {"a", "b"}
    assert set(env.reset()[0]) == {"a", "b"}


# Ends


@pytest.mark.parametrize(
    ("step", "ends"),
    [
        (dm_env.transition(1.0, SHOWN, discount=1.0), (False, False)),
        (dm_env.transition(1.0, SHOWN, discount=0.0), (False, False)),  # not a last step
        (dm_env.termination(1.0, SHOWN), (True, False)),
        (dm_env.truncation(1.0, SHOWN), (False, True)),
        (dm_env.truncation(1.0, SHOWN, discount=0.5), (False, True)),
    ],
)
def test_a_last_step_without_discount_is_terminal_and_any_other_is_truncated(step, ends):
    env = DmcEnv(lambda seed: Stub([dm_env.restart(SHOWN), step]))
    env.reset()
    assert env.step(np.zeros(3))[1:4] == (1.0, *ends)


def test_a_time_limit_truncates(suite):
    env = DmcEnv(lambda seed: suite.load("walker", "walk", task_kwargs={"random": seed, "time_limit": 0.1}))
    env.reset(seed=0)
    ends = [env.step(np.zeros(6))[2:4] for _ in range(4)]  # 0.1 s in control steps of 0.025 s
    assert ends == [(False, False)] * 3 + [(False, True)]
    env.close()


def test_lqr_terminates_at_its_goal(make):
    env = make("lqr_lqr_2_1")
    env.reset(seed=0)
    physics = env.unwrapped.simulator.physics
    with physics.reset_context():
        physics.data.qpos[:] = 0
        physics.data.qvel[:] = 0
    assert env.step(np.zeros(1, np.float32))[2:4] == (True, False)


def test_a_task_without_a_time_limit_gets_one(make):
    env = make("lqr_lqr_2_1", action_repeat=8)
    env.reset(seed=0)
    action = np.ones(1, np.float32)
    ends = [env.step(action)[2:4] for _ in range(125)]
    assert ends == [(False, False)] * 124 + [(False, True)]
    env.reset()
    assert env.step(action)[2:4] == (False, False)  # counted anew


# Actions and rewards


def test_action_repeat_sums_the_rewards_of_a_bare_loop(suite, make):
    bare = suite.load("cheetah", "run", task_kwargs={"random": 7})
    env = make("cheetah_run", action_repeat=3)
    bare.reset()
    env.reset(seed=7)
    for action in random_actions(env, 5):
        steps = [bare.step(action) for _ in range(3)]
        observation, reward, *_ = env.step(action)
        assert reward == pytest.approx(sum(step.reward for step in steps))
        for name, value in steps[-1].observation.items():
            np.testing.assert_allclose(observation[name], value, rtol=1e-6)


def test_actions_are_rescaled_to_the_task(make):
    env = make("quadruped_walk")  # per leg: yaw in [-1, 1], lift in [-1, 1.1], extend in [-0.8, 0.8]
    env.reset(seed=0)
    for action, leg in ((0.5, [0.5, 0.05 + 0.5 * 1.05, 0.4]), (-1, [-1, -1, -0.8]), (9, [1, 1.1, 0.8])):
        env.step(np.full(12, action, np.float32))
        np.testing.assert_allclose(env.unwrapped.simulator.physics.control(), leg * 4, rtol=1e-6)


def test_motors_without_limits_take_the_action_as_it_is():
    env = DmcEnv(lambda seed: Stub([]))
    np.testing.assert_array_equal(env.action_space.low, [-2, -1, 0])
    np.testing.assert_array_equal(env.action_space.high, [6, 1, 1])


# Seeds


@pytest.mark.parametrize("name", ["reacher_easy", "lqr_lqr_2_1"])  # lqr draws its springs, too
def test_a_seed_decides_the_episodes(name, make):
    one, two = make(name), make(name)
    episode(two, 2)  # what was before does not matter
    first, second = episode(one, 5, seed=3), episode(one, 5)
    np.testing.assert_array_equal(episode(two, 5, seed=3), first)
    np.testing.assert_array_equal(episode(two, 5), second)
    assert (first[0] != second[0]).any()  # later episodes go on in the stream
    assert (first[0] != episode(make(name), 5, seed=4)[0]).any()


def test_without_a_seed_episodes_differ(make):
    assert (episode(make("reacher_easy"), 1) != episode(make("reacher_easy"), 1)).any()


def test_processes_give_the_same_stream():
    streams = []
    for processes in (False, True):
        env = make_vector_env(EnvConfig(task="dmc:reacher_easy", action_repeat=2, processes=processes), env_seeds(0, 2))
        action = np.full((2, 2), 0.3, np.float32)
        steps = [env.reset(), *(env.step(action) for _ in range(3))]
        env.close()
        streams.append([np.concatenate([*step.obs.values(), step.reward[:, None]], -1) for step in steps])
    np.testing.assert_array_equal(*streams)
    assert (streams[0][0][0] != streams[0][0][1]).any()


# Images


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize(("name", "camera"), [("cartpole_swingup", 0), ("quadruped_walk", 2)])
def test_images_are_those_of_dm_control(suite, make, name, camera):
    bare = suite.load(*name.split("_"), task_kwargs={"random": 5})
    bare.reset()
    env = make(name, obs="pixels")
    observation, _ = env.reset(seed=5)
    assert env.get_wrapper_attr("obs_specs") == {"image": ObsSpec("image", (64, 64, 3))}
    for action in random_actions(env, 2):
        before = observation["image"].copy()
        bare.step(env.action(action))
        held, observation = observation, env.step(action)[0]
        image = observation["image"]
        assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
        assert image.std() > 5
        np.testing.assert_array_equal(image, bare.physics.render(64, 64, camera_id=camera))
        np.testing.assert_array_equal(held["image"], before)  # an earlier one is not overwritten
        assert (image != before).any()
    bare.physics.free()


@pytest.mark.usefixtures("drawing")
def test_camera_and_size_can_be_chosen(make):
    images = [make("walker_walk", obs="pixels", image_size=32, camera=c).reset(seed=0)[0]["image"] for c in (None, 0, 1)]
    assert images[0].shape == (32, 32, 3)
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()


@pytest.mark.usefixtures("drawing")
def test_one_image_a_decision_is_drawn(make, monkeypatch):
    env = make("cartpole_swingup", obs="both", action_repeat=3)
    assert {key: spec.kind for key, spec in env.get_wrapper_attr("obs_specs").items()} == {
        "position": "vector",
        "velocity": "vector",
        "image": "image",
    }
    draw, drawn = env.unwrapped._draw, []
    monkeypatch.setattr(env.unwrapped, "_draw", lambda *size: drawn.append(draw(*size)) or drawn[-1])
    observations = [env.reset(seed=0)[0], *(env.step(action)[0] for action in random_actions(env, 3))]
    assert len(drawn) == 4
    for observation, image in zip(observations, drawn):
        np.testing.assert_array_equal(observation["image"], image)
    np.testing.assert_array_equal(draw(64, 64), observations[-1]["image"])  # of the last of the three steps


@pytest.mark.usefixtures("drawing")
def test_an_end_within_a_decision_is_drawn(suite):
    load = partial(suite.load, "cartpole", "swingup")
    env = DmcEnv(lambda seed: load({"random": seed, "time_limit": 0.04}), obs="pixels", frame_every=3)
    env.reset(seed=0)
    images = [env.step(np.ones(1))[0]["image"] for _ in range(4)]
    assert (images[3] != images[2]).any()
    env.close()


@pytest.mark.usefixtures("drawing")
def test_frames_for_videos(make):
    env = make("walker_walk", render=True, action_repeat=2)
    env.reset(seed=0)
    assert env.render_mode == "rgb_array"
    assert env.metadata["render_fps"] == 20  # decisions of 2 x 0.025 s
    frame = env.render()
    assert (frame.shape, frame.dtype) == ((240, 320, 3), np.uint8)
    assert frame.std() > 5
    assert make("walker_walk").render_mode is None


@pytest.mark.usefixtures("drawing")
def test_images_come_from_processes():
    env = make_vector_env(EnvConfig(task="dmc:cartpole_swingup", obs="pixels", image_size=16, processes=True), env_seeds(0, 1))
    assert env.reset().obs["image"].std() > 5
    env.close()


# Which OpenGL


@pytest.fixture
def choose(monkeypatch) -> Callable[..., tuple[str | None, list[str]]]:
    """choose(works, **environment) -> (what is chosen where only `works` can draw, what was tried)."""

    def choose_one(works: str | None, **environment: str) -> tuple[str | None, list[str]]:
        tried: list[str] = []
        monkeypatch.delitem(sys.modules, "dm_control._render", raising=False)
        for name in ("MUJOCO_GL", gl._TRIED):
            monkeypatch.setenv(name, "")  # so that it is restored in the end
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(gl, "_CANDIDATES", ("egl", "osmesa"))
        monkeypatch.setattr(gl, "_can_draw", lambda name: tried.append(name) or name == works)
        return gl.choose_gl.__wrapped__(), tried

    return choose_one


@pytest.mark.parametrize(
    ("works", "given", "found", "tried", "left"),
    [
        ("egl", "", "egl", ["egl"], "egl"),
        ("osmesa", "", "osmesa", ["egl", "osmesa"], "osmesa"),
        (None, "", None, ["egl", "osmesa"], "disabled"),
        ("egl", "osmesa", None, ["osmesa"], "osmesa"),  # what the user set is kept
        ("glfw", "glfw", "glfw", ["glfw"], "glfw"),
        ("egl", "disabled", None, ["disabled"], "disabled"),
    ],
)
def test_gl_is_chosen_in_order_and_once(choose, works, given, found, tried, left):
    assert choose(works, MUJOCO_GL=given) == (found, tried)
    assert os.environ["MUJOCO_GL"] == left
    advice = f"MUJOCO_GL={given} cannot draw here; unset it" if given else "apt-get install libosmesa6"
    assert found or advice in gl.gl_advice()
    # A process that is started from here does not try again, unless it is told otherwise.
    inherited = {name: os.environ[name] for name in ("MUJOCO_GL", gl._TRIED)}
    assert choose(works, **inherited) == (found, [])
    assert choose("egl", **inherited | {"MUJOCO_GL": "other"})[1] == ["other"]


def test_gl_of_a_dm_control_that_is_already_imported(choose, monkeypatch):
    for backend, found in (("osmesa", "osmesa"), ("off", None), (None, None)):
        choose(None)
        monkeypatch.setitem(sys.modules, "dm_control._render", SimpleNamespace(BACKEND=backend))
        assert gl.choose_gl.__wrapped__() == found


@pytest.fixture
def blind(suite, monkeypatch) -> None:
    """A machine where nothing can draw."""
    monkeypatch.setattr(dmc, "choose_gl", lambda: None)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setenv(gl._TRIED, "=")


@pytest.mark.usefixtures("blind")
def test_without_gl_the_state_still_works(make):
    env = make("walker_walk", render=True)
    env.reset(seed=0)
    assert env.render_mode is None
    assert env.render() is None


@pytest.mark.usefixtures("blind")
def test_without_gl_images_are_refused_with_what_to_install(make, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name, options in (("walker_walk", {"obs": "pixels"}), ("walker_walk", {"obs": "both"}), ("quadruped_escape", {})):
        with pytest.raises(EnvError, match=r"needs OpenGL.* apt-get install libegl1 .*libosmesa6") as caught:
            make(name, **options)
        assert "\n" not in str(caught.value)


def test_gl_that_is_switched_off_in_truth():
    code = """
from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import EnvError
from dreamer_jax.envs import make_env
assert make_env(EnvConfig(task="dmc:walker_walk"), render=True).render_mode is None
try:
    make_env(EnvConfig(task="dmc:walker_walk", obs="pixels"))
except EnvError as error:
    print(error)
"""
    environment = {**os.environ, "MUJOCO_GL": "disabled"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "MUJOCO_GL=disabled cannot draw here; unset it" in result.stdout, result.stderr


# Refusals


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("walker_wolk", "walker_walk, "), ("cup_catch", "ball_in_cup_catch, "), ("HUMANOID_CMU_RUN", "humanoid_CMU_run, ")],
)
def test_a_wrong_name_lists_the_tasks(make, name, nearest):
    with pytest.raises(EnvError, match=f"no task '{name}'. Its tasks, nearest first: {nearest}") as caught:
        make(name)
    assert "quadruped_escape" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_camera_names_those_there_are(make):
    with pytest.raises(EnvError, match=r"no env.camera=2; the model has 0 \(side\), 1 \(back\)$"):
        make("walker_walk", camera=2)


@pytest.mark.parametrize(("version", "line"), [((3, 12), "pip install dm_control"), ((3, 13), "--no-deps dm_control")])
def test_a_missing_package_comes_with_its_install_line(make, monkeypatch, version, line):
    assert line in dmc.install_line(version)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvError, match=r"dmc:walker_walk needs dm_control, which is not installed. Try: pip install"):
        make("walker_walk")


def test_a_broken_installation_is_one_line(make, monkeypatch):
    def fail(name: str):
        raise ModuleNotFoundError("No module named 'lxml'", name="lxml")

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(EnvError, match=r"dm_control misses the package 'lxml'. Try: pip install"):
        make("walker_walk")


def test_a_simulator_that_cannot_be_made_is_one_line(suite, make, monkeypatch):
    def fail(*arguments: Any, **options: Any):
        raise AttributeError("flex_vertedge")

    monkeypatch.setattr(suite, "load", fail)
    with pytest.raises(EnvError, match=r"could not be made: AttributeError: flex_vertedge .* mujoco>=3.17,<4"):
        make("walker_walk")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env.obs": "pixels"}, "env.obs='pixels' is for dmc tasks only; leave it out for env.task='gym:CartPole-v1'"),
        ({"env.image_size": "32"}, "env.image_size=32 is for dmc and atari tasks only"),
        ({"env.camera": "0"}, "env.camera=0 is for dmc tasks only"),
        ({"env.task": "dmc:a_b", "env.obs": "image"}, "env.obs='image': input should be 'state', 'pixels' or 'both'"),
        ({"env.task": "dmc:a_b", "env.image_size": "15"}, "env.image_size='15': input should be greater than or equal to 16"),
        ({"env.task": "dmc:a_b", "env.image_size": "481"}, "less than or equal to 480"),
        ({"env.task": "dmc:a_b", "env.camera": "-1"}, "env.camera='-1': input should be greater than or equal to 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError) as caught:
        load_config("cartpole", options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_camera_can_be_none_on_the_command_line():
    assert load_config("cartpole", {"env.task": "dmc:a_b", "env.camera": "None"}).env.camera is None
    assert load_config("cartpole", {"env.task": "dmc:a_b", "env.camera": "3"}).env.camera == 3


PROBE_WITHOUT_DM_CONTROL = "import sys; sys.modules['dm_control'] = None\n" + gl._PROBE
DRAW = """
import os
from dreamer_jax.core.config import EnvConfig
from dreamer_jax.envs import make_env
env = make_env(EnvConfig(task="gym:HalfCheetah-v5"), render=True)
env.reset(seed=0)
frame = env.render()
print(os.environ["MUJOCO_GL"], frame.shape, frame.std() > 1)
env.close()
"""


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize("code", [PROBE_WITHOUT_DM_CONTROL, DRAW], ids=["probe", "HalfCheetah"])
def test_gymnasiums_mujoco_is_drawn_without_a_display(code):
    """Where dm_control is not installed, MuJoCo itself is tried; where nothing is set, the same OpenGL is chosen."""
    rest = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MUJOCO_GL", gl._TRIED)}
    environment = {**rest, "MUJOCO_GL": str(gl.choose_gl())} if code is PROBE_WITHOUT_DM_CONTROL else rest
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    expected = "drawn" if code is PROBE_WITHOUT_DM_CONTROL else f"{gl.choose_gl()} (480, 480, 3) True"
    assert expected in result.stdout, result.stderr
