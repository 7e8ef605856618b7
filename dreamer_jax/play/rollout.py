"""The one rollout of the project, and two ways to choose its actions: a trained policy's and random ones.

An evaluation counts the episodes of a rollout, a video draws its steps, and the diagnosis of the world model stores them.
"""

from collections.abc import Callable, Iterator

import numpy as np

from dreamer_jax.core.spaces import ActionSpec
from dreamer_jax.envs import Step, VectorEnv
from dreamer_jax.play.policy import Policy

Act = Callable[[Step], np.ndarray]
"""Chooses the actions f32[E, A] at the records of E environments. It may remember what came before."""


def rollout(envs: VectorEnv, act: Act) -> Iterator[tuple[Step, np.ndarray]]:
    """Resets the environments and plays them without end; yields every record with the action that led to it.

        step       o_0    o_1    o_2    o_3     o_0'     o_1'
        action      0     a_0    a_1    a_2      0       a_0'
        is_first    1                            1
        is_last                          1

    `act` chooses the next action when the next pair is asked for. It is also called at a record that is_last, where the
    environment ignores its answer and starts a new episode.

    Yields:
      the step, and the action f32[E, A], which is zero where the step is_first.

    Raises:
      ActionError: an action of the wrong shape, or one that is not finite.
      EnvError: an environment that fails.
    """
    step = envs.reset()
    action = np.zeros((envs.num_envs, envs.action_spec.size), np.float32)
    while True:
        yield step, action
        chosen = act(step)
        step = envs.step(chosen)
        action = np.where(step.is_first[:, None], 0, chosen)


def one_episode(envs: VectorEnv, act: Act) -> Iterator[tuple[Step, np.ndarray]]:
    """The `rollout` of a single environment until its first episode ends; N + 1 pairs for N decisions."""
    assert envs.num_envs == 1
    for step, action in rollout(envs, act):
        yield step, action
        if step.is_last[0]:
            return


def policy_actions(policy: Policy, num_envs: int, seed: int) -> Act:
    """The actions of a policy, which starts with an empty memory; `seed` decides what is sampled."""
    carry = policy.initial(num_envs, seed)

    def act(step: Step) -> np.ndarray:
        nonlocal carry
        action, carry = policy(step.obs, carry, step.is_first)
        return np.asarray(action)

    return act


def random_actions(spec: ActionSpec, seed: int) -> Act:
    """Random choices, one-hot, or continuous actions uniform in [-1, 1]."""
    rng = np.random.default_rng(seed)

    return lambda step: draw_actions(spec, rng, len(step.is_first))


def draw_actions(spec: ActionSpec, rng: np.random.Generator, count: int) -> np.ndarray:
    """Random actions f32[count, A]: a random choice, one-hot, or uniform in [-1, 1]."""
    if spec.discrete:
        return np.eye(spec.size, dtype=np.float32)[rng.integers(spec.size, size=count)]
    return rng.uniform(-1, 1, (count, spec.size)).astype(np.float32)
