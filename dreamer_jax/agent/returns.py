"""Value estimates of a sequence of rewards and values, and the normaliser of returns.

Arrays have the time axis in front: f32[H, ...] for what belongs to a step, f32[H+1, ...] for what belongs to a state.
"""

import chex
import jax
import jax.numpy as jnp

from dreamer_jax.agent.types import ReturnNorm
from dreamer_jax.core.algorithm import BehaviorConfig


def lambda_return(reward: jax.Array, value: jax.Array, discount: jax.Array, lam: float | jax.Array) -> jax.Array:
    """Lambda-return (V1 eq. 6, V3 eq. 7), over the leading time axis.

    R_t = reward_t + discount_t ((1 - lam_t) value_{t+1} + lam_t R_{t+1}), R_H = value_H.

    Args:
      reward: f32[H, ...] in environment units after action repeat.
      value: f32[H+1, ...].
      discount: f32[H, ...] in [0, 1]; 0 at a termination.
      lam: scalar, or f32[H, ...]; 0 where an episode is cut, so that the value is bootstrapped there.

    Returns:
      f32[H, ...].
    """
    chex.assert_equal_shape([reward, discount])
    chex.assert_shape(value, (reward.shape[0] + 1, *reward.shape[1:]))
    lam = jnp.broadcast_to(lam, reward.shape)
    bootstrap = reward + discount * (1 - lam) * value[1:]

    def step(following, inputs):
        base, decay = inputs
        current = base + decay * following
        return current, current

    _, returns = jax.lax.scan(step, value[-1], (bootstrap, discount * lam), reverse=True)
    return returns


def n_step_return(reward: jax.Array, value: jax.Array, discount: jax.Array, steps: int) -> jax.Array:
    """n-step return (V_N, V1 eq. 5): the rewards of `steps` steps and the value after them, or the value at the horizon if that
    comes first.

    The other arguments and the result are those of `lambda_return`.
    """
    chex.assert_equal_shape([reward, discount])
    chex.assert_shape(value, (reward.shape[0] + 1, *reward.shape[1:]))
    returns = value
    for _ in range(min(steps, reward.shape[0])):
        returns = jnp.concatenate([reward + discount * returns[1:], value[-1:]])
    return returns[:-1]


def reward_return(reward: jax.Array, last: jax.Array, alive: jax.Array) -> jax.Array:
    """Sum of the rewards up to the horizon (V_R, V1 eq. 4), without values and without discount.

    Args:
      reward: f32[H, ...].
      last: f32[...], the reward at the horizon itself where a state's value begins with the state's own reward, else 0.
      alive: f32[H, ...], the probability that the episode goes on.

    Returns:
      f32[H, ...].
    """
    return lambda_return(reward, jnp.concatenate([jnp.zeros_like(reward), last[None]]), alive, 1.0)


def estimate_value(
    reward: jax.Array, last: jax.Array, value: jax.Array, discount: jax.Array, config: BehaviorConfig
) -> jax.Array:
    """The value estimate f32[H, ...] that `config.estimator` names.

    Args:
      last: as in `reward_return`; the other estimates do not use it.
      reward, value, discount: as in `lambda_return`.
    """
    if config.estimator == "reward":
        return reward_return(reward, last, discount / config.discount)
    if config.estimator == "n_step":
        return n_step_return(reward, value, discount, config.n_step)
    return lambda_return(reward, value, discount, config.lam)


def update_return_norm(norm: ReturnNorm, returns: jax.Array, config: BehaviorConfig) -> tuple[ReturnNorm, jax.Array]:
    """Moves the running percentiles towards those of `returns`, which may have any shape (V3).

    The percentiles start at 0 and are not bias-corrected.

    Returns:
      the new percentiles, and scale f32[] = max(norm_limit, high - low) with the new ones.
    """
    percentiles = jnp.percentile(jax.lax.stop_gradient(returns), jnp.array([config.norm_low, config.norm_high]))
    low = (1 - config.norm_rate) * norm.low + config.norm_rate * percentiles[0]
    high = (1 - config.norm_rate) * norm.high + config.norm_rate * percentiles[1]
    return ReturnNorm(low, high), jnp.maximum(config.norm_limit, high - low)
