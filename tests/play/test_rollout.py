"""The rollout beside a Python loop over plain environments, and what chooses its actions."""

import contextlib
from itertools import islice

import numpy as np
import pytest

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.spaces import ActionSpec
from dreamer_jax.envs import env_seeds, make_env, make_vector_env
from dreamer_jax.envs.episodes import episode_seed
from dreamer_jax.play.policy import load_policy
from dreamer_jax.play.rollout import one_episode, policy_actions, random_actions, rollout

SEEDS = env_seeds(7, 3)


def chosen_actions(spec: ActionSpec, length: int) -> np.ndarray:
    """f32[length, 3, A]"""
    act = random_actions(spec, seed=0)
    return np.stack([act(Flags(3)) for _ in range(length)])


class Flags:
    """Of a step, what `random_actions` looks at."""

    def __init__(self, num_envs: int) -> None:
        self.is_first = np.zeros(num_envs, bool)


def plain_loop(config: EnvConfig, seed: int, actions: np.ndarray) -> list[dict[str, np.ndarray]]:
    """One plain environment that takes actions [T, A] and is reset with a seed of its own for each episode -> T + 1 rows."""
    env, number, over = make_env(config), 0, False
    none = np.zeros(actions.shape[1], np.float32)

    def row(obs, action, reward=0.0, is_first=False, is_last=False, is_terminal=False):
        flags = {"is_first": is_first, "is_last": is_last, "is_terminal": is_terminal}
        return {**{name: np.array(value) for name, value in obs.items()}, "action": action, "reward": reward, **flags}

    obs, _ = env.reset(seed=seed)
    rows = [row(obs, none, is_first=True)]
    for action in actions:
        if over:
            number, over = number + 1, False
            obs, _ = env.reset(seed=episode_seed(seed, number))
            rows.append(row(obs, none, is_first=True))
        else:
            obs, reward, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
            rows.append(row(obs, action, reward, False, over, terminated))
    env.close()
    return rows


@pytest.mark.parametrize(("task", "length"), [("gym:CartPole-v1", 90), ("gym:Pendulum-v1", 210)])
def test_a_rollout_is_that_of_plain_environments(task, length):
    """Three environments over several ends of episodes, terminal ones and time limits."""
    config = EnvConfig(task=task)
    with contextlib.closing(make_vector_env(config, SEEDS)) as envs:
        pairs = list(islice(rollout(envs, random_actions(envs.action_spec, seed=0)), length + 1))
        actions = chosen_actions(envs.action_spec, length)
    for i, seed in enumerate(SEEDS):
        rows = plain_loop(config, seed, actions[:, i])
        assert sum(row["is_last"] for row in rows) >= (2 if task == "gym:CartPole-v1" else 1)
        for (step, action), expected in zip(pairs, rows, strict=True):
            found = {**step.obs, "action": action, **{name: value for name, value in vars(step).items() if name != "obs"}}
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name][i], np.asarray(value, found[name].dtype), err_msg=name)


def test_actions_are_asked_for_only_when_the_next_record_is():
    """Whoever has seen enough leaves, and the policy takes no further step."""
    asked = []

    def act(step):
        asked.append(step)
        return np.eye(3, dtype=np.float32)[:1]

    with contextlib.closing(make_vector_env(EnvConfig(task="import:counting:five"), [0])) as envs:
        for step, _ in rollout(envs, act):
            if step.obs["observation"][0, 0] == 3:
                break
        assert len(asked) == 3
        assert len(list(one_episode(envs, act))) == 6
        assert len(asked) == 3 + 5


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_policy_sees_every_record_once(finished_run, deterministic):
    """The same actions as those of a loop that hands the policy one observation after another."""
    policy = load_policy(finished_run, deterministic=deterministic)
    with contextlib.closing(make_vector_env(policy.config.env, [3])) as envs:
        played = [action[0] for _, action in one_episode(envs, policy_actions(policy, 1, seed=4))][1:]
    env = make_env(policy.config.env)
    obs, _ = env.reset(seed=3)
    carry, is_first, done, actions = policy.initial(1, seed=4), True, False, []
    while not done:
        batched = {name: np.asarray(value)[None] for name, value in obs.items()}
        action, carry = policy(batched, carry, np.array([is_first]))
        actions.append(np.asarray(action)[0])
        obs, _, terminated, truncated, _ = env.step(actions[-1])
        is_first, done = False, terminated or truncated
    assert len(actions) == 5
    np.testing.assert_array_equal(played, actions)


def test_random_actions_are_what_environments_take():
    """Every choice as often, one-hot; or uniform in [-1, 1]. One environment draws the numbers of a generator one by one."""
    choices = random_actions(ActionSpec(True, 4), seed=0)(Flags(4000))
    np.testing.assert_array_equal(choices.sum(-1), 1)
    np.testing.assert_allclose(choices.mean(0), np.full(4, 0.25), atol=0.03)
    uniform = random_actions(ActionSpec(False, 2), seed=0)(Flags(4000))
    assert choices.dtype == uniform.dtype == np.float32
    np.testing.assert_allclose((uniform.min(), uniform.mean(), uniform.max()), (-1, 0, 1), atol=0.03)
    act, rng = random_actions(ActionSpec(True, 3), seed=5), np.random.default_rng(5)
    assert [act(Flags(1)).argmax() for _ in range(50)] == [rng.integers(3) for _ in range(50)]
    act, rng = random_actions(ActionSpec(False, 3), seed=5), np.random.default_rng(5)
    np.testing.assert_array_equal([act(Flags(1))[0] for _ in range(5)], np.float32([rng.uniform(-1, 1, 3) for _ in range(5)]))
