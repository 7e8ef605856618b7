"""Evaluations: the returns of fresh episodes that a trained agent plays."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import ConfigError, StorageError
from dreamer_jax.core.files import make_folder, write_json
from dreamer_jax.core.paths import absolute
from dreamer_jax.envs import VectorEnv, env_seeds, make_vector_env
from dreamer_jax.play.policy import EVALUATION_SEED, Policy, load_policy
from dreamer_jax.play.rollout import policy_actions, rollout
from dreamer_jax.play.video import write_episode

logger = logging.getLogger(__name__)
MAX_PARALLEL = 20  # environments of one evaluation
# The evaluations during training choose the best checkpoint. The one that judges it has other seeds, EVALUATION_SEED.
SELECTION_SEED = 2**32


def evaluate(policy: Policy, env: EnvConfig, episodes: int, seed: int, first_seed: int = EVALUATION_SEED) -> dict[str, Any]:
    """Plays `episodes` fresh episodes on seeds that training never uses: `first_seed` + seed.

    Each environment contributes a number of episodes fixed beforehand, so that short episodes are not preferred.

    Returns:
      returns and lengths (decisions) of every episode, with return mean, standard deviation and range, and the mean success
      where the environment reports it.

    Raises:
      EnvError: the environment cannot be made, or fails.
      ActionError: the policy's action is not finite.
    """
    num_envs = min(episodes, MAX_PARALLEL)
    quota = [(episodes - i + num_envs - 1) // num_envs for i in range(num_envs)]
    envs = make_vector_env(env, env_seeds(first_seed + seed, num_envs))
    try:
        returns, lengths, successes = play_episodes(policy, envs, quota, seed)
    finally:
        envs.close()
    known = [value for value in successes if not np.isnan(value)]
    return {
        "episodes": episodes,
        "deterministic": policy.deterministic,
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "return_min": float(np.min(returns)),
        "return_max": float(np.max(returns)),
        "length_mean": float(np.mean(lengths)),
        "success_mean": float(np.mean(known)) if known else None,
        "returns": [float(value) for value in returns],
        "lengths": [int(value) for value in lengths],
    }


def play_episodes(
    policy: Policy, envs: VectorEnv, quota: Sequence[int], seed: int
) -> tuple[list[float], list[int], list[float]]:
    """Plays until every environment has finished its quota of episodes.

    Args:
      quota: number of episodes of each environment; those that an environment finishes beyond it do not count.
      seed: decides what the policy samples.

    Returns:
      returns, lengths [decisions] and successes (NaN where none is reported) of the episodes, in the order of their ends.
    """
    returns: list[float] = []
    lengths: list[int] = []
    successes: list[float] = []
    total, length, left = np.zeros(envs.num_envs), np.zeros(envs.num_envs, int), np.array(quota)
    for step, _ in rollout(envs, policy_actions(policy, envs.num_envs, seed)):
        total = np.where(step.is_first, 0.0, total + step.reward)
        length = np.where(step.is_first, 0, length + 1)
        for i in np.flatnonzero(step.is_last & (left > 0)):
            returns.append(total[i])
            lengths.append(length[i])
            successes.append(step.success[i])
            left[i] -= 1
        if not left.any():
            break
    return returns, lengths, successes


def evaluate_run(
    run: Path,
    checkpoint: str,
    episodes: int,
    deterministic: bool,
    seed: int,
    device: str | None,
    video: bool,
    planner: bool = False,
) -> dict[str, Any]:
    """Evaluates a run's agent, logs the result, and writes `evaluations/<checkpoint>-<policy>.json` and a video.

    Raises:
      ConfigError: no episodes are asked for.
      StorageError: the result cannot be written.
      RunError, CheckpointError, EnvError: as `load_policy` and `evaluate`.
    """
    if episodes < 1:
        raise ConfigError(f"--episodes {episodes}: at least 1 is needed")
    run = absolute(run)  # before an environment can change the current folder
    policy = load_policy(run, checkpoint, deterministic, device, planner)
    name = f"{checkpoint}-{'deterministic' if deterministic else 'sampled'}{'-planner' if planner else ''}"
    path = run / "evaluations" / f"{name}.json"
    make_folder(path.parent)  # before the episodes: an error here would lose them
    env = policy.config.env
    result = {"task": env.task, "checkpoint": checkpoint, "seed": seed} | evaluate(policy, env, episodes, seed)
    try:
        write_json(path, result)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; make room for it, and evaluate again") from None
    logger.info("%s, checkpoint %s: %s", env.task, checkpoint, summary(result))
    logger.info("wrote %s", path)
    if video:
        write_episode(policy, env, seed, run / "videos" / f"{name}.mp4")
    return result


def summary(result: dict[str, Any]) -> str:
    """An evaluation in one line for a terminal."""
    return (
        f"return {result['return_mean']:.1f} +- {result['return_std']:.1f} "
        f"(min {result['return_min']:.1f}, max {result['return_max']:.1f}) over {result['episodes']} episodes"
    )
