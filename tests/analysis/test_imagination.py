"""The diagnosis: recorded episodes are the environment's, comparisons those of a loop, and what it draws can be seen."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import jax
import numpy as np
import pytest
from counting import Counting

from dreamer_jax.agent import distributions, rssm
from dreamer_jax.agent.heads import outcomes
from dreamer_jax.agent.networks import apply
from dreamer_jax.agent.representations.reward_only import RewardOnly
from dreamer_jax.analysis import imagination
from dreamer_jax.core.errors import ConfigError, StorageError
from dreamer_jax.core.section import Section
from dreamer_jax.play.policy import load_agent, load_policy

DIAGNOSE = Path(__file__).resolve().parents[2] / "scripts" / "diagnose.py"


@pytest.fixture(scope="module")
def agent(finished_run):
    return load_agent(finished_run)


@pytest.fixture(scope="module")
def episodes(agent, finished_run):
    """Three episodes of the agent in the counting environment: five steps each, the rewards 1 to 5."""
    policy = load_policy(finished_run, deterministic=False)
    return [imagination.record(policy, agent.config.env, seed) for seed in (1, 2, 3)]


def test_a_recorded_episode_is_the_environments(agent, episodes):
    for seed, episode in zip((1, 2, 3), episodes, strict=True):
        assert len(episode) == 5
        np.testing.assert_array_equal(episode.reward, [1, 2, 3, 4, 5])
        assert episode.terminated
        env = Counting(5)
        first, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(episode.obs["observation"][0], first)
        np.testing.assert_array_equal(episode.obs["observation"][:, 0], np.arange(6))
        np.testing.assert_array_equal(episode.action.sum(-1), 1)


def test_random_actions_are_those_of_the_seed(agent):
    one, again, other = (imagination.record(None, agent.config.env, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.action, again.action)
    assert not np.array_equal(one.action, other.action)


def test_filtered_states_are_those_of_the_steps(agent, episodes):
    """The deterministic part after one step does not depend on what was drawn: it is the core's, from the zero state."""
    nets, params = agent.nets, agent.params.world_model
    states = imagination.filter_episodes(agent, episodes, seed=0)
    assert states.deter.shape[:2] == (3, 6)
    zero = rssm.initial_state(nets, (3,))
    action = np.zeros((3, nets.action_spec.size), np.float32)
    first = apply(nets.rssm, params["rssm"], zero.deter, zero.stoch, action, method="core")
    np.testing.assert_allclose(states.deter[:, 0], first, atol=1e-6)
    taken = np.stack([episode.action[0] for episode in episodes])
    second = apply(nets.rssm, params["rssm"], states.deter[:, 0], states.stoch[:, 0], taken, method="core")
    np.testing.assert_allclose(states.deter[:, 1], second, atol=1e-6)


def test_the_comparison_is_that_of_a_loop(agent, episodes, monkeypatch):
    """Every start is record 4 of an episode of five: one step is recorded, and then it has terminated.

    Step 1 has the real reward 5 and is the end; of steps 2 and 3 it is known that the episode is over, and no reward.
    """
    monkeypatch.setattr(imagination, "CONTEXT", 4)
    result = imagination.compare(agent, episodes, horizon=3, starts=6, seed=0)
    assert result["count"] == [6, 0, 0]
    assert result["alive_count"] == [6, 6, 6]
    assert result["alive_real"] == [0, 0, 0]
    assert result["reward_real"] == [5, None, None]
    assert result["drift"] == [None, None, None]  # no imagined state has a real one beside it that goes on
    assert result["episode_return_mean"] == 15

    # The same starts once more, step by step.
    rng = np.random.default_rng(0)
    rows = rng.choice(3, 6, replace=True)  # three places: record 4 of each episode
    states = imagination.filter_episodes(agent, episodes, 0)
    start = jax.tree.map(lambda x: x[rows, 4], states)
    actions = np.stack([np.stack([episodes[e].action[4] for e in rows])] * 3)
    imagined = rssm.imagine_actions(agent.nets, agent.params.world_model, jax.random.key(1), start, actions)
    reward, continue_ = outcomes(agent.nets, agent.config.behavior, agent.params.world_model, rssm.features(imagined))
    assert result["reward_error"][0] == pytest.approx(np.abs(np.asarray(reward)[0] - 5).mean(), rel=1e-5)
    alive = np.cumprod(np.asarray(continue_) / agent.config.behavior.discount, 0) > 0.5
    assert result["alive_accuracy"] == pytest.approx((~alive).mean(1).tolist())


def test_states_on_the_way_are_alive_and_drift(agent, episodes):
    """From records 4 only; before that (context 5) there is none, so a shorter context is used for longer ways."""
    patch = pytest.MonkeyPatch()
    patch.setattr(imagination, "CONTEXT", 0)
    try:
        result = imagination.compare(agent, episodes, horizon=2, starts=15, seed=1)
    finally:
        patch.undo()
    assert result["count"][0] == 15  # each of the 15 places once
    assert result["count"][1] == 12
    assert result["alive_real"] == [pytest.approx(12 / 15), pytest.approx(9 / 15)]
    assert result["reward_real"] == [pytest.approx(3), pytest.approx(3.5)]
    assert all(value > 0 for value in result["drift"])


def test_every_step_is_compared_with_its_own_record(agent, episodes, monkeypatch):
    """Horizon 3 from every record: rewards, ends and drift of a loop over the starts that takes one step after another."""
    monkeypatch.setattr(imagination, "CONTEXT", 0)
    result = imagination.compare(agent, episodes, horizon=3, starts=15, seed=2)
    rng, nets, params = np.random.default_rng(2), agent.nets, agent.params.world_model
    chosen = [(i // 5, i % 5) for i in rng.choice(15, 15, replace=False)]
    states = imagination.filter_episodes(agent, episodes, 2)
    filtered = np.asarray(rssm.features(states))
    pairs = filtered.reshape(18, -1)[rng.integers(18, size=(2, 500))]
    spread = np.linalg.norm(pairs[0] - pairs[1], axis=-1).mean()
    actions = np.stack([[episodes[e].action[min(t + k, 4)] for e, t in chosen] for k in range(3)])
    start = jax.tree.map(lambda x: x[np.array([e for e, _ in chosen]), np.array([t for _, t in chosen])], states)
    imagined = rssm.imagine_actions(nets, params, jax.random.key(3), start, actions)
    reward, continue_ = map(np.asarray, outcomes(nets, agent.config.behavior, params, rssm.features(imagined)))
    features = np.asarray(rssm.features(imagined))
    for k in range(3):
        errors, drifts, right, alive = [], [], [], np.ones(15)
        for i, (e, t) in enumerate(chosen):
            record = t + 1 + k  # of six, 0 to 5, the last of which is the end
            goes_on = record < 5
            if record <= 5:
                errors.append(abs(reward[k, i] - record))  # the reward on arriving at record n is n
            if goes_on:
                drifts.append(np.linalg.norm(features[k, i] - filtered[e, record]) / spread)
            alive[i] = np.prod(continue_[: k + 1, i] / agent.config.behavior.discount) > 0.5
            right.append(alive[i] == goes_on)
        assert result["reward_error"][k] == pytest.approx(np.mean(errors), rel=1e-4)
        assert result["drift"][k] == pytest.approx(np.mean(drifts), rel=1e-4)
        assert result["alive_accuracy"][k] == pytest.approx(np.mean(right))


def test_rewards_are_compared_as_they_are_learned(agent, episodes, monkeypatch):
    monkeypatch.setattr(imagination, "CONTEXT", 4)
    behavior = agent.config.behavior.model_copy(update={"reward": "tanh"})
    config = agent.config.model_copy(update={"behavior": behavior})
    result = imagination.compare(dataclasses.replace(agent, config=config), episodes, horizon=1, starts=3, seed=0)
    assert result["reward_real"] == [pytest.approx(np.tanh(5))]
    assert result["return_mean"] == pytest.approx(np.tanh(5))
    assert result["episode_return_mean"] == 15


def test_discounted_returns():
    np.testing.assert_allclose(
        imagination.discounted_returns(np.array([1.0, 2.0, 3.0]), 0.5, 8.0), [1 + 1 + 0.75 + 1, 2 + 1.5 + 2, 7]
    )


def test_value_error_of_a_terminated_episode(agent, episodes, monkeypatch):
    """The return that follows record 4 of five is the last reward alone, and every value of this agent lies below it."""
    monkeypatch.setattr(imagination, "CONTEXT", 4)
    result = imagination.compare(agent, episodes, horizon=1, starts=3, seed=0)
    assert result["return_mean"] == pytest.approx(5)
    assert result["value_error"] == pytest.approx(abs(result["value_mean"] - 5), rel=1e-5)
    own = agent.config.behavior.model_copy(update={"returns": "own_reward"})
    config = agent.config.model_copy(update={"behavior": own})
    result = imagination.compare(dataclasses.replace(agent, config=config), episodes, horizon=1, starts=3, seed=0)
    assert result["return_mean"] == pytest.approx(4 + own.discount * 5)


@pytest.mark.parametrize("returns", ["next_reward", "own_reward"])
def test_a_cut_episode_goes_on_with_its_last_value(agent, episodes, monkeypatch, returns):
    """Behind the end of five steps stands what the critic says of record 5."""
    monkeypatch.setattr(imagination, "CONTEXT", 4)
    behavior = agent.config.behavior.model_copy(update={"returns": returns})
    agent = dataclasses.replace(agent, config=agent.config.model_copy(update={"behavior": behavior}))
    cut = [dataclasses.replace(episodes[0], terminated=False)]
    last = rssm.features(imagination.filter_episodes(agent, cut, 0))[0, 5]
    value = float(distributions.scalar_mean(apply(agent.nets.critic, agent.critic, last)))
    result = imagination.compare(agent, cut, horizon=1, starts=1, seed=0)
    expected = 5 + behavior.discount * value if returns == "next_reward" else 4 + behavior.discount * value
    assert result["return_mean"] == pytest.approx(expected, rel=1e-5)


def test_an_agent_without_critic_has_no_value_error_and_one_without_decoder_no_counterfactual(agent, episodes):
    nothing = RewardOnly(Section(), agent.nets.representation.plan)
    without = dataclasses.replace(agent, nets=dataclasses.replace(agent.nets, critic=None, representation=nothing))
    assert "value_error" not in imagination.compare(without, episodes, horizon=1, starts=3, seed=0)
    assert imagination.counterfactual(without, episodes[0], agent.config.env, seed=0) is None


def test_each_plan_has_its_own_outcome(agent):
    """From record 5 of ten, after five times the choice 1: what was done goes on, 0 adds nothing, 2 adds two a step."""
    env = agent.config.env.model_copy(update={"task": "import:counting:adding"})
    shown = np.stack([np.arange(11), np.arange(11)], -1).astype(np.float32)
    ones = np.eye(3, dtype=np.float32)[np.ones(10, int)]
    episode = imagination.Episode(0, {"observation": shown}, ones, np.arange(1.0, 11.0), terminated=True)
    outcomes = imagination.counterfactual(agent, episode, env, seed=0)["outcomes"]
    sums = {name: outcome["real"]["observation"][:, 1].tolist() for name, outcome in outcomes.items()}
    assert sums == {"as it was": [6, 7, 8, 9, 10], "choice 0": [5] * 5, "choice 2": [7, 9, 11, 13, 15]}


def test_counterfactuals_are_the_environments(agent, episodes):
    """From record 4 of 5: what was done ends with record 5, and so do other actions here, where none matters."""
    what_if = imagination.counterfactual(agent, episodes[0], agent.config.env, seed=0)
    assert what_if["start"] == 4
    assert set(what_if["outcomes"]) == {"as it was", "choice 0", "choice 2"}
    for outcome in what_if["outcomes"].values():
        np.testing.assert_array_equal(outcome["real"]["observation"][:, 0], [5])
        assert outcome["model"]["observation"].shape[1] == 2


def test_an_environment_that_does_not_repeat_itself_has_no_counterfactual(agent, episodes):
    other = dataclasses.replace(episodes[0], seed=99)  # another seed shows other random numbers
    assert imagination.counterfactual(agent, other, agent.config.env, seed=0) is None


def test_an_environment_that_ends_before_the_recorded_state_has_no_counterfactual(agent):
    """An episode of 30 decisions, compared from record 7 on, and the environment plays five."""
    action = np.eye(3, dtype=np.float32)[np.ones(30, int)]
    longer = imagination.Episode(1, {"observation": np.ones((31, 2), np.float32)}, action, np.ones(30), terminated=True)
    assert imagination.counterfactual(agent, longer, agent.config.env, seed=0) is None


def test_the_script_writes_table_numbers_and_figures(finished_run, tmp_path):
    command = [sys.executable, str(DIAGNOSE), str(finished_run), "--episodes", "2", "--starts", "4", "--horizon", "3"]
    here = Path(__file__).resolve().parents[1]
    env = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    command += ["--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert "| agent | 1 |" in done.stdout
    result = json.loads((tmp_path / "out" / "imagined_vs_real.json").read_text())
    assert result["agent"]["episodes"] == result["random"]["episodes"] == 2
    for name in ("imagined_vs_real.png", "counterfactual.png"):
        assert iio.imread(tmp_path / "out" / name).std() > 5


def test_bad_numbers_are_refused(finished_run, tmp_path):
    with pytest.raises(ConfigError, match="--starts 0: at least 1"):
        imagination.diagnose(finished_run, "last", 1, 0, 1, 0, tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(finished_run, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file cannot be made"):
        imagination.diagnose(finished_run, "last", 1, 1, 1, 0, tmp_path / "file")
    monkeypatch.setattr(imagination, "write_json", full)
    with pytest.raises(StorageError, match="cannot be written: No space left on device; choose another with --output"):
        imagination.diagnose(finished_run, "last", 1, 1, 1, 0, tmp_path)
