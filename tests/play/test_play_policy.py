"""Loading a trained agent, and the policy that plays it."""

import contextlib
import dataclasses
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from run_folders import empty_record

import dreamer_jax
from dreamer_jax.agent.train_step import init_agent
from dreamer_jax.core.errors import CheckpointError, RunError
from dreamer_jax.core.spaces import ActionSpec, ObsSpec
from dreamer_jax.play.policy import load_agent, load_policy
from dreamer_jax.replay.buffer import Replay
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.folder import open_run


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
