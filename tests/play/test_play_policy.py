"""Loading a trained agent, and the policy that plays it."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from counting import tiny_config
from gymnasium import spaces
from run_folders import empty_record

import dreamer_jax
from dreamer_jax.agent.layout import CPU
from dreamer_jax.agent.networks import build_networks
from dreamer_jax.agent.train_step import init_agent
from dreamer_jax.core.errors import CheckpointError, EnvError, RunError
from dreamer_jax.core.spaces import ActionSpec, ObsSpec
from dreamer_jax.envs import make_env
from dreamer_jax.envs.spaces import spaces_of
from dreamer_jax.play.policy import load_agent, load_policy
from dreamer_jax.replay.buffer import Replay
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.folder import create_run, open_run


@pytest.fixture(scope="module")
def policy(finished_run):
    return load_policy(finished_run)


@pytest.fixture(scope="module")
def sampled(finished_run):
    return load_policy(finished_run, deterministic=False)


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def observations(count: int = 4) -> list[dict[str, np.ndarray]]:
    """Observations f32[3, 2] of three environments."""
    rng = np.random.default_rng(0)
    return [{"observation": rng.normal(size=(3, 2)).astype(np.float32)} for _ in range(count)]


def play(policy, seed: int = 0) -> np.ndarray:
    """Actions [T, 3, A] along `observations`."""
    carry, actions = policy.initial(batch=3, seed=seed), []
    for step, obs in enumerate(observations(12)):
        action, carry = policy(obs, carry, np.full(3, step == 0))
        actions.append(np.asarray(action))
    return np.stack(actions)


def plain(tree) -> list[np.ndarray]:
    """Copies of a carry's arrays, its key as numbers."""
    tree = dataclasses.replace(tree, key=jax.random.key_data(tree.key))
    return [np.array(leaf, copy=True) for leaf in jax.tree.leaves(tree)]


def test_actions_are_what_the_environment_takes(policy, sampled):
    for actions in (play(policy), play(sampled)):
        assert (actions.shape, actions.dtype) == ((12, 3, 3), np.float32)
        np.testing.assert_array_equal(actions.sum(-1), 1)
        assert set(np.unique(actions)) == {0, 1}


def test_the_seed_decides_the_actions(sampled):
    np.testing.assert_array_equal(play(sampled, seed=1), play(sampled, seed=1))
    assert (play(sampled, seed=1) != play(sampled, seed=2)).any()


def test_deterministic_takes_the_most_likely_action(policy, sampled):
    """An actor that has hardly been trained: samples take every choice, and differ from the most likely one."""
    assert set(play(sampled).argmax(-1).flat) == {0, 1, 2}
    np.testing.assert_array_equal(play(policy), play(policy))
    assert not np.array_equal(play(policy), play(sampled))


def test_a_call_is_pure(sampled):
    """The same arguments give the same results, and nothing that was passed in changes."""
    (first, second), carry = observations(2), sampled.initial(3, seed=0)
    is_first = np.ones(3, bool)
    _, carry = sampled(first, carry, is_first)
    before, obs = plain(carry), {name: value.copy() for name, value in second.items()}
    one, one_carry = sampled(second, carry, ~is_first)
    two, two_carry = sampled(second, carry, ~is_first)
    np.testing.assert_array_equal(one, two)
    for a, b in zip(plain(one_carry), plain(two_carry), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(plain(carry), before, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(second["observation"], obs["observation"])
    assert is_first.all()
    assert any((a != b).any() for a, b in zip(plain(one_carry), before, strict=True))


def test_is_first_forgets(policy):
    """After is_first the state does not depend on what came before; without it, it does."""
    first, second, *_ = observations(4)
    _, one = policy(first, policy.initial(3, seed=0), np.ones(3, bool))
    latent = one.policy.latent
    two = one.replace(policy=one.policy.replace(latent=latent.replace(deter=latent.deter + 0.5)))
    for forgets in (True, False):
        ends = [policy(second, carry, np.full(3, forgets))[1].policy.latent.deter for carry in (one, two)]
        assert np.array_equal(*ends) == forgets


def test_other_parameters_take_other_actions(sampled):
    """The same policy with parameters of zeros draws from a uniform actor; the old one stays as it was."""
    before = play(sampled)
    other = sampled.with_params(jax.tree.map(lambda x: 0 * x, sampled._params))
    assert not np.array_equal(play(other), before)
    np.testing.assert_array_equal(play(sampled), before)


def test_the_library_names_it():
    assert dreamer_jax.load_policy is load_policy


# Which checkpoint


def test_checkpoints_by_name_and_number(finished_run, tmp_path):
    """Four agents, three of them with scores: the best is the second one, kept beside the newest also after a resumption."""
    config = open_run(finished_run)
    trained = load_policy(finished_run)
    template = jax.eval_shape(partial(init_agent, trained._nets, config), jax.random.key(0))
    with contextlib.closing(Checkpoints(finished_run)) as checkpoints:
        state = checkpoints.restore_agent(200, template)
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(finished_run / "config.yaml", run)
    replay = Replay({"observation": ObsSpec("vector", (2,))}, ActionSpec(True, 3), None, 10, 1, 2, False, seed=0)
    for frames, score in ((10, 1.0), (20, 3.0), (30, 2.0), (40, None)):
        with contextlib.closing(Checkpoints(run, keep=1)) as checkpoints:
            marked = jax.tree.map(lambda x, by=frames: x * 0 + by, state.actor.params)
            agent = dataclasses.replace(state, actor=state.actor.replace(params=marked))
            checkpoints.save(frames, agent, empty_record(), replay, None, score)
    for which, frames in (("last", 40), ("best", 20), ("20", 20), ("40", 40)):
        actor = load_policy(run, which)._params.actor
        assert {float(np.unique(leaf).item()) for leaf in jax.tree.leaves(actor)} == {frames}, which
    with pytest.raises(CheckpointError, match=r"no checkpoint '10'; it has \[20, 40\]"):
        load_policy(run, "10")


@pytest.mark.parametrize("which", ["123", "newest", "-1", "", "200.0"])
def test_an_unknown_checkpoint_is_refused_with_those_that_exist(finished_run, which):
    with pytest.raises(CheckpointError, match=r"has no checkpoint .*; it has \[.*160, 200\] \(or: last, best\)"):
        load_policy(finished_run, which)


def test_what_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        load_policy(tmp_path / "nothing")
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match="has no checkpoints"):
        load_policy(run)


def test_loading_changes_nothing(run):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    load_policy(run)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_an_agent_is_what_its_policy_plays(finished_run, policy):
    agent = load_agent(finished_run)
    assert agent.config == policy.config
    for a, b in zip(*map(jax.tree.leaves, (agent.params, policy._params)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert jax.tree.leaves(agent.critic)


# One observation at a time, in the environment's own form


class Nested(gymnasium.Env):
    """Shows a Dict in a Dict, and takes a Box of another shape and other bounds; random, in episodes of seven steps."""

    observation_space = spaces.Dict(
        body=spaces.Dict(speed=spaces.Box(-np.inf, np.inf, (2,), np.float64), gear=spaces.Discrete(4, start=-1)),
        touch=spaces.MultiBinary(3),
    )
    action_space = spaces.Box(np.float32([[0, -2]]), np.float32([[10, 2]]))

    def _observation(self):
        rng = self.np_random
        body = {"speed": rng.normal(size=2), "gear": int(rng.integers(-1, 3))}
        return {"body": body, "touch": rng.integers(0, 2, 3).astype(np.int8)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 7
        return self._observation(), {}

    def step(self, action):
        self.left -= 1
        return self._observation(), float(action.sum()), self.left == 0, False, {}


def nested():
    return Nested()


def untrained(folder: Path, task: str) -> Path:
    """A run in a task whose only checkpoint holds an agent of random parameters: it acts differently at each observation."""
    config = tiny_config(folder, env__task=task)
    with contextlib.closing(make_env(config.env)) as env:
        kept = spaces_of(env)
    run = create_run(config, kept.as_json())
    nets = build_networks(config, *kept.specs, np.float32, CPU)
    rng = np.random.default_rng(0)

    def drawn(leaf: Any) -> jax.Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return jax.numpy.asarray(rng.normal(0, 0.5, leaf.shape), leaf.dtype)

    agent = jax.tree.map(drawn, jax.eval_shape(partial(init_agent, nets, config), jax.random.key(0)))
    replay = Replay(*kept.specs, None, 10, 1, 2, False, seed=0)
    with contextlib.closing(Checkpoints(run, keep=1)) as checkpoints:
        checkpoints.save(1, agent, empty_record(), replay, None, None)
    return run


def one_hot_to_int(action: np.ndarray) -> int:
    return int(np.flatnonzero(action).item())


TASKS = {
    "gym:CartPole-v1": (lambda: gymnasium.make("CartPole-v1"), one_hot_to_int),
    "gym:Pendulum-v1": (lambda: gymnasium.make("Pendulum-v1"), lambda action: 2 * np.clip(action, -1, 1)),
    f"import:{__name__}:nested": (nested, lambda action: [np.clip(action, -1, 1) * [5, 2] + [5, 0]]),
}


@pytest.fixture(scope="module", params=TASKS)
def untrained_run(request, tmp_path_factory):
    """A run of each task, its environment as gymnasium makes it, and its action in numbers of the environment's own."""
    return untrained(tmp_path_factory.mktemp("untrained"), request.param), *TASKS[request.param]


@pytest.mark.parametrize("deterministic", [True, False])
def test_acting_in_the_raw_environment(untrained_run, deterministic):
    """`act` on raw observations chooses what the pure call does through `make_env`; three episodes, of one key sequence."""
    run, make_raw, in_own_numbers = untrained_run
    policy = load_policy(run, deterministic=deterministic)
    raw, env = make_raw(), make_env(policy.config.env)
    policy.reset(seed=5)
    carry, taken = policy.initial(1, seed=5), []
    for episode in range(3):
        (own, _), (shown, _) = raw.reset(seed=episode), env.reset(seed=episode)
        is_first, done = True, False
        while not done and len(taken) < 25 * (episode + 1):
            batch = {name: value[None] for name, value in shown.items()}
            chosen, carry = policy(batch, carry, np.array([is_first]))
            action = policy.act(own)
            np.testing.assert_allclose(action, in_own_numbers(np.asarray(chosen)[0]), rtol=1e-6, atol=1e-6)
            assert isinstance(action, int) or (action.shape, action.dtype) == (raw.action_space.shape, raw.action_space.dtype)
            assert raw.action_space.contains(action)
            own, *_, terminated, truncated, _ = raw.step(action)
            shown, *_ = env.step(np.asarray(chosen)[0])
            taken.append(np.asarray(action))
            is_first, done = False, terminated or truncated
        policy.reset()
    assert len(np.unique(np.stack(taken).reshape(len(taken), -1), axis=0)) > 1


def actions_of(policy, observations) -> list[Any]:
    return [policy.act(observation) for observation in observations]


def test_a_reset_with_a_seed_begins_anew(finished_run):
    """As a policy that was just loaded, which begins with seed 0; without a seed the random numbers go on."""
    policy = load_policy(finished_run, deterministic=False)
    seen = list(np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32))
    first = actions_of(policy, seen)
    policy.reset()
    second = actions_of(policy, seen)
    policy.reset(seed=0)
    third = actions_of(policy, seen)
    policy.reset(seed=1)
    assert third == first
    assert second != first
    assert actions_of(policy, seen) != first


def test_a_policy_of_other_parameters_has_a_memory_of_its_own(finished_run):
    policy = load_policy(finished_run, deterministic=False)
    seen = list(np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32))
    first = actions_of(policy, seen)
    assert actions_of(policy.with_params(policy.params), seen) == first


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(3, np.float32), r"observation key 'observation' is an array of float32 \[3\]; the space promised Box"),
        (np.array(["a", "b"]), "is an array of <U1"),
        (np.float32([0, np.nan]), r"is nan at index \[1\]"),
        ({"speed": 1}, "is dict|is a dict with keys"),
        (None, "is NoneType None"),
    ],
)
def test_a_wrong_observation_is_one_line(policy, observation, message):
    with pytest.raises(EnvError, match=f"^import:counting:five: .*{message}") as error:
        policy.act(observation)
    assert len(str(error.value).splitlines()) == 1


def test_a_missing_key_is_named(tmp_path):
    policy = load_policy(untrained(tmp_path, f"import:{__name__}:nested"))
    observation = Nested.observation_space.sample()
    del observation["body"]["gear"]
    with pytest.raises(EnvError, match=r"observation key 'body/gear' is missing from a dict with keys \['body', 'touch'\]"):
        policy.act(observation)


def test_a_run_keeps_its_spaces(finished_run):
    """Written out by hand."""
    bound = {"type": "Box", "shape": [2], "dtype": "float32", "low": "-inf", "high": "inf"}
    assert json.loads((finished_run / "spaces.json").read_text()) == {
        "observation_space": bound,
        "action_space": {"type": "Discrete", "n": 3, "start": 0},
        "obs_specs": {"observation": {"kind": "vector", "shape": [2], "classes": 0, "storage": "", "high": 255}},
        "action_spec": {"discrete": True, "size": 3},
    }


WITHOUT_THE_SIMULATOR = """
import sys
import numpy as np
import dreamer_jax
policy = dreamer_jax.load_policy(sys.argv[1], deterministic=False)
rng = np.random.default_rng(0)
print([policy.act(rng.normal(size=2).astype(np.float32)) for _ in range(12)])
try:
    import counting
except ImportError:
    print("no simulator")
"""


def test_the_simulator_is_not_needed(finished_run, tmp_path):
    """In a process that cannot import the environment's module the actions are the same."""
    rest = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", WITHOUT_THE_SIMULATOR, str(finished_run)]
    shown = subprocess.run(command, env=rest, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    rng, policy = np.random.default_rng(0), load_policy(finished_run, deterministic=False)
    expected = [policy.act(rng.normal(size=2).astype(np.float32)) for _ in range(12)]
    assert shown == [str(expected), "no simulator"]


def test_a_run_of_an_older_version_asks_its_environment(run, monkeypatch):
    """The file makes the difference: with it no environment is made."""
    made = []
    monkeypatch.setattr("dreamer_jax.play.policy.make_env", lambda env: made.append(env.task) or make_env(env))
    expected = load_policy(run).act(np.float32([1, 2]))
    assert made == []
    (run / "spaces.json").unlink()
    assert load_policy(run).act(np.float32([1, 2])) == expected
    assert made == ["import:counting:five"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"obs_specs": {}}', "null", '{"observation_space": 3, "obs_specs": {}}'])
def test_damaged_spaces_are_one_line(run, text):
    (run / "spaces.json").write_text(text)
    with pytest.raises(RunError, match=r"spaces\.json ") as error:
        load_policy(run)
    assert len(str(error.value).splitlines()) == 1


# Devices

TWO_DEVICES = """
import sys
import jax
import numpy as np
from dreamer_jax import load_policy
from dreamer_jax.agent.devices import on_device, seed_sharding
first, second = jax.devices("cpu")
policies = [load_policy(sys.argv[1], deterministic=False, device=device) for device in (first, second)]
alone = load_policy(sys.argv[1], deterministic=False)
rng = np.random.default_rng(0)
for _ in range(5):
    seen = rng.normal(size=2).astype(np.float32)
    assert len({policy.act(seen) for policy in (*policies, alone)}) == 1
for policy, device in zip(policies, (first, second)):
    action, carry = policy({"observation": np.zeros((3, 2), np.float32)}, policy.initial(3, 0), np.ones(3, bool))
    for leaf in jax.tree.leaves((action, carry, policy.params, policy.initial(1, 0))):
        assert leaf.devices() == {device}, (leaf.devices(), device)
    assert policy.device == device
assert jax.config.jax_default_device is None
with jax.default_device(second):
    assert seed_sharding(1) == jax.sharding.SingleDeviceSharding(second)
    with on_device("cpu"):
        assert seed_sharding(1) == jax.sharding.SingleDeviceSharding(first)
    assert seed_sharding(2).device_set == {first, second}
assert jax.config.jax_default_device is None
"""


def test_two_policies_on_two_devices(finished_run):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    command = [sys.executable, "-c", TWO_DEVICES, str(finished_run)]
    result = subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_neither_training_nor_loading_changes_the_default_device(finished_run, policy):
    """The run has been trained in this process."""
    assert jax.config.jax_default_device is None
