"""Actor and critic: returns, their normaliser, and the losses on imagined and replayed states (V3)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import distrax
import jax
import jax.numpy as jnp

from dreamer_jax import distributions, rssm
from dreamer_jax.config import BehaviorConfig
from dreamer_jax.networks import Networks, apply
from dreamer_jax.types import LatentState, Metrics, Params, ReturnNorm, Trajectory

stop = jax.lax.stop_gradient


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


def update_return_norm(norm: ReturnNorm, returns: jax.Array, config: BehaviorConfig) -> tuple[ReturnNorm, jax.Array]:
    """Moves the percentiles towards those of `returns` (any shape) -> (new norm, scale f32[]).

    scale = max(norm_limit, high - low) with the updated values; they start at 0 and are not bias-corrected.
    """
    percentiles = jnp.percentile(stop(returns), jnp.array([config.norm_low, config.norm_high]))
    low = (1 - config.norm_rate) * norm.low + config.norm_rate * percentiles[0]
    high = (1 - config.norm_rate) * norm.high + config.norm_rate * percentiles[1]
    return ReturnNorm(low, high), jnp.maximum(config.norm_limit, high - low)


def policy_distribution(outputs: dict[str, jax.Array], config: BehaviorConfig) -> distrax.Distribution:
    """The actor's outputs as a distribution over actions [.., A]: one-hot categorical, or bounded normal.

    The categorical mixes in no uniform share: the author's code ignores the configured one on this path.
    """
    if "logits" in outputs:
        return distributions.one_hot_categorical(outputs["logits"])
    return distributions.bounded_normal(outputs["mean"], outputs["std"], config.min_std, config.max_std)


class ActorCriticInputs(NamedTuple):
    """What the losses on imagined states read, over states 0..H of N trajectories.

    policy: distribution over [H, N, A] at states 0..H-1; action f32[H, N, A]; reward, continue_, value f32[H+1, N] predicted at
    each state, without gradient; value_logits f[H, N, bins] and slow_value f32[H, N] at states 0..H-1.
    """

    policy: distrax.Distribution
    action: jax.Array
    reward: jax.Array
    continue_: jax.Array
    value: jax.Array
    value_logits: jax.Array
    slow_value: jax.Array


def actor_critic_losses(
    inputs: ActorCriticInputs, norm: ReturnNorm, config: BehaviorConfig
) -> tuple[dict[str, jax.Array], jax.Array, ReturnNorm, Metrics]:
    """REINFORCE actor loss and two-hot critic loss (V3 eq. 6 to 8).

        index      0      1      2    ...    H
        state     s_0    s_1    s_2   ...   s_H
        action    a_0    a_1    a_2   ...
        return    R_0    R_1    R_2   ...          R_k uses reward_{k+1}, continue_{k+1}, value_{k+1}
        weight   c_0   c_0 c_1    ...              product of continues up to and including index k

    Returns:
      {"policy", "value": f32[H, N]}, the returns f32[H, N], the updated normaliser, metrics.
    """
    chex.assert_equal_shape([inputs.reward, inputs.continue_, inputs.value])
    chex.assert_equal_shape_prefix([inputs.reward[1:], inputs.value_logits, inputs.slow_value], 2)
    reward, continue_, value, slow_value = map(stop, (inputs.reward, inputs.continue_, inputs.value, inputs.slow_value))

    returns = lambda_return(reward[1:], value, continue_[1:], config.lam)
    # The start's own continue counts, so terminal starts weigh nothing. The discount is inside continue_ already.
    weights = jnp.cumprod(continue_, 0)  # [H+1, N]
    weight = weights[:-1]
    norm, scale = update_return_norm(norm, returns, config)
    advantage = (returns - value[:-1]) / scale

    entropy = inputs.policy.entropy()
    log_prob = inputs.policy.log_prob(stop(inputs.action))
    losses = {
        "policy": -weight * (log_prob * advantage + config.entropy * entropy),
        "value": weight
        * (
            distributions.two_hot_loss(inputs.value_logits, returns)
            + config.slow_weight * distributions.two_hot_loss(inputs.value_logits, slow_value)
        ),
    }
    metrics = {
        "imagined_reward": reward.mean(),
        "imagined_continue": continue_.mean(),
        "imagined_return": returns.mean(),
        "imagined_value": value.mean(),
        "imagined_weight": weights.mean(),
        "advantage": advantage.mean(),
        "advantage_magnitude": jnp.abs(advantage).mean(),
        "return_scale": scale,
        "policy_entropy": entropy.mean(),
    }
    return losses, returns, norm, metrics


def replay_value_loss(
    value_logits: jax.Array,
    slow_logits: jax.Array,
    reward: jax.Array,
    is_last: jax.Array,
    is_terminal: jax.Array,
    bootstrap: jax.Array,
    config: BehaviorConfig,
) -> tuple[jax.Array, jax.Array]:
    """Critic loss on the replayed sequence itself (V3).

        index      0      1    ...   T-1
        return    R_0    R_1   ...              R_t uses reward_{t+1} and what flags t+1 say
        loss      l_0    l_1   ...   (T-1)      none where is_last_t: the next state belongs to another episode

    Args:
      value_logits, slow_logits: f[B, T, bins]; the former keeps its gradient, into the world model too.
      reward: f32[B, T] from the replay; is_last, is_terminal: bool[B, T].
      bootstrap: f32[B, T], the imagined return from each state.

    Returns:
      loss f32[B, T-1], returns f32[B, T-1].
    """
    chex.assert_equal_shape([reward, is_last, is_terminal, bootstrap])
    last, terminal = is_last.astype(jnp.float32), is_terminal.astype(jnp.float32)
    returns = lambda_return(
        reward=reward.T[1:],
        value=stop(bootstrap).T,
        discount=(1 - terminal.T[1:]) * config.discount,
        lam=(1 - last.T[1:]) * config.lam,
    ).T  # [B, T-1]
    slow_value = distributions.two_hot_mean(stop(slow_logits))
    loss = distributions.two_hot_loss(value_logits[:, :-1], returns)
    loss += config.slow_weight * distributions.two_hot_loss(value_logits[:, :-1], slow_value[:, :-1])
    return (1 - last[:, :-1]) * loss, returns


def imagine_from_posterior(
    nets: Networks, config: BehaviorConfig, params: Params, actor_params: Params, key: jax.Array, states: LatentState
) -> Trajectory:
    """Imagines from every posterior state [B, T] -> Trajectory over N = B*T. Nothing in it carries a gradient (V3)."""
    params, actor_params, states = stop((params, actor_params, states))
    start = jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), states)  # [N, ...]

    def act(action_key, features):
        outputs = apply(nets.actor, actor_params, features)
        return distributions.sample(action_key, policy_distribution(outputs, config))

    return rssm.imagine(nets, params, act, key, start, config.imagination_horizon)


def evaluate_trajectory(
    nets: Networks,
    config: BehaviorConfig,
    params: Params,
    actor_params: Params,
    critic_params: Params,
    slow_params: Params,
    trajectory: Trajectory,
) -> ActorCriticInputs:
    """Runs every head over the imagined states; only actor and critic parameters keep their gradient."""
    features, last = stop((trajectory.features, rssm.features(trajectory.last)))
    params, slow_params = stop((params, slow_params))

    def head(module: Any, head_params: Params) -> dict[str, jax.Array]:
        """{name: [H, N, size]} at states 0..H-1, over one axis of rows: weight gradients over two are slow on a CPU."""
        outputs = apply(module, head_params, features.reshape((-1, features.shape[-1])))
        return jax.tree.map(lambda x: x.reshape((*features.shape[:-1], x.shape[-1])), outputs)

    def prediction(module: Any, head_params: Params, mean: Callable, outputs: dict[str, jax.Array] | None = None) -> jax.Array:
        """f32[H+1, N] at all states, without gradient. The last state is apart: to add it to the others would copy them."""
        head_params = stop(head_params)
        first, final = stop(outputs) or head(module, head_params), apply(module, head_params, last)
        return jnp.concatenate([mean(first), mean(final)[None]])

    value = head(nets.critic, critic_params)
    return ActorCriticInputs(
        policy=policy_distribution(head(nets.actor, actor_params), config),
        action=trajectory.action,
        reward=prediction(nets.reward, params["reward"], two_hot_value),
        continue_=prediction(nets.continue_, params["continue"], continue_probability),
        value=prediction(nets.critic, critic_params, two_hot_value, value),
        value_logits=value["logits"],
        slow_value=two_hot_value(head(nets.critic, slow_params)),
    )


def two_hot_value(outputs: dict[str, jax.Array]) -> jax.Array:
    """Expected value f32[..] of the reward head or the critic."""
    return distributions.two_hot_mean(outputs["logits"])


def continue_probability(outputs: dict[str, jax.Array]) -> jax.Array:
    """Probability f32[..] of the continue head; the discount is in it."""
    return jax.nn.sigmoid(outputs["logit"][..., 0].astype(jnp.float32))
