"""Loading a trained agent, playing with it, and the evaluation's arithmetic."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import imageio.v3 as iio
import jax
import numpy as np
import pytest
from counting import Counting
from run_folders import empty_record

from dreamer_jax.agent.train_step import init_agent
from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.spaces import ActionSpec, ObsSpec
from dreamer_jax.envs import env_seeds, make_env
from dreamer_jax.play.evaluate import EVALUATION_SEED, SELECTION_SEED, evaluate, evaluate_run, load_policy, record_episode
from dreamer_jax.replay.buffer import Replay
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.folder import open_run

EVALUATE = Path(__file__).resolve().parents[2] / "scripts" / "evaluate.py"


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


# The policy


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


def test_the_policy_fits_its_environment(policy):
    env = make_env(policy.config.env)
    obs, _ = env.reset(seed=0)
    carry, is_first, done, steps = policy.initial(1, seed=0), True, False, 0
    while not done:
        batched = {name: np.asarray(value)[None] for name, value in obs.items()}
        action, carry = policy(batched, carry, np.array([is_first]))
        obs, _, terminated, truncated, _ = env.step(np.asarray(action)[0])
        is_first, done, steps = False, terminated or truncated, steps + 1
    assert steps == 5


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
    with pytest.raises(ConfigError, match=r"no checkpoint '10'; it has \[20, 40\]"):
        load_policy(run, "10")


@pytest.mark.parametrize("which", ["123", "newest", "-1", "", "200.0"])
def test_an_unknown_checkpoint_is_refused_with_those_that_exist(finished_run, which):
    with pytest.raises(ConfigError, match=r"has no checkpoint .*; it has \[.*160, 200\] \(or: last, best\)"):
        load_policy(finished_run, which)


def test_what_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="is not a run"):
        load_policy(tmp_path / "nothing")
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ConfigError, match="has no checkpoints"):
        load_policy(run)


def test_loading_changes_nothing(run):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    load_policy(run)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


# Evaluation


class FirstChoice:
    """Always takes choice 0."""

    deterministic = True

    def initial(self, batch, seed):
        return None

    def __call__(self, obs, carry, is_first):
        return np.tile(np.float32([1, 0, 0]), (len(is_first), 1)), carry


@pytest.mark.parametrize("episodes", [1, 3, 20, 23])
def test_exactly_the_asked_number_of_episodes(episodes):
    result = evaluate(FirstChoice(), EnvConfig(task="import:counting:five"), episodes, seed=0)
    assert (result["episodes"], result["returns"], result["lengths"]) == (episodes, [15.0] * episodes, [5] * episodes)
    assert (result["return_mean"], result["return_std"], result["length_mean"]) == (15, 0, 5)
    assert result["success_mean"] is None


def test_short_episodes_are_not_preferred(monkeypatch):
    """Two environments, of 2 and 9 steps: five episodes are three of one and two of the other, however fast each is."""
    monkeypatch.setattr("dreamer_jax.play.evaluate.MAX_PARALLEL", 2)
    monkeypatch.setattr("counting._TURN", iter(range(2)))
    result = evaluate(FirstChoice(), EnvConfig(task="import:counting:short_or_long"), 5, seed=0)
    assert sorted(result["lengths"]) == [2, 2, 2, 9, 9]
    assert sorted(result["returns"]) == [3, 3, 3, 45, 45]
    assert (result["return_min"], result["return_max"], result["return_mean"]) == (3, 45, 99 / 5)


def test_evaluation_seeds_are_not_those_of_training(monkeypatch):
    seeds = []
    reset = Counting.reset

    def remember(self, *, seed=None, options=None):
        seeds.append(seed)
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(Counting, "reset", remember)
    evaluate(FirstChoice(), EnvConfig(task="import:counting:five"), 3, seed=0)
    assert len(set(seeds)) == 3
    assert not set(seeds) & set(env_seeds(0, 3))


def test_a_video_holds_one_frame_a_step_and_the_first(policy):
    frames, fps = record_episode(policy, policy.config.env, seed=0)
    assert (len(frames), fps, frames[0].shape) == (6, 20, (32, 48, 3))


def test_an_environment_without_pictures_has_no_video(policy, capsys, tmp_path):
    env = EnvConfig(task="import:counting:six")
    with pytest.raises(ConfigError, match="cannot render"):
        record_episode(policy, env, seed=0)
    evaluate.write_episode(policy, env, 0, tmp_path / "x.mp4")
    assert "no video: " in capsys.readouterr().out
    assert not (tmp_path / "x.mp4").exists()


@pytest.mark.parametrize("broken", ["raises", "grey"])
def test_a_video_that_fails_costs_nothing_else(policy, capsys, tmp_path, monkeypatch, broken):
    """What `render` raises or returns is the environment's own affair: one line says why there is no video."""

    def render(self):
        if broken == "raises":
            raise RuntimeError("no display\nhere")
        return np.zeros((8, 8), np.uint8)

    monkeypatch.setattr(Counting, "render", render)
    evaluate.write_episode(policy, policy.config.env, 0, tmp_path / "x.mp4")
    assert capsys.readouterr().out.count("\n") == 1
    assert not (tmp_path / "x.mp4").exists()


@pytest.mark.parametrize(("declared", "fps"), [(0.4, 1), (None, 30), (29.6, 30)])
def test_the_frame_rate_of_a_video_is_a_whole_number(policy, monkeypatch, declared, fps):
    monkeypatch.setitem(Counting.metadata, "render_fps", declared)
    assert record_episode(policy, policy.config.env, seed=0)[1] == fps


def test_evaluations_on_the_way_have_other_seeds_than_the_last_one():
    """The checkpoint that they choose is judged on episodes that did not choose it."""
    assert not set(env_seeds(EVALUATION_SEED, 20)) & set(env_seeds(SELECTION_SEED, 20))


def test_no_episodes_are_refused(finished_run):
    with pytest.raises(ConfigError, match="--episodes 0"):
        evaluate_run(finished_run, "last", 0, True, 0, "cpu", False)


def test_the_script_writes_numbers_and_a_video(run):
    here = Path(__file__).resolve().parents[1]
    result = subprocess.run(
        [sys.executable, str(EVALUATE), str(run), "--episodes", "3", "--deterministic"],
        env=os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "return 15.0 +- 0.0 (min 15.0, max 15.0) over 3 episodes" in result.stdout
    written = json.loads((run / "evaluations" / "last-deterministic.json").read_text())
    assert (written["returns"], written["deterministic"], written["checkpoint"]) == ([15.0] * 3, True, "last")
    assert len(iio.imread(run / "videos" / "last-deterministic.mp4", plugin="pyav")) == 6
