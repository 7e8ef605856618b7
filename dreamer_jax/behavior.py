"""Actor and critic: returns, their normaliser, and the losses on imagined and replayed states (V3)."""

from typing import Any, NamedTuple

import chex
import distrax
import jax
import jax.numpy as jnp

from dreamer_jax import distributions, rssm
from dreamer_jax.config import BehaviorConfig
from dreamer_jax.networks import Networks, apply
from dreamer_jax.steps import map_steps, mean_over_steps
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


class Predictions(NamedTuple):
    """What the heads say about imagined states 0..H, without gradient: f32[H+1, N] each. The discount is inside continue_."""

    reward: jax.Array
    continue_: jax.Array
    value: jax.Array
    slow_value: jax.Array


class Targets(NamedTuple):
    """What actor and critic learn at imagined states 0..H-1: f32[H, N] each."""

    returns: jax.Array
    slow_value: jax.Array
    advantage: jax.Array
    weight: jax.Array


def imagined_targets(predictions: Predictions, norm: ReturnNorm, config: BehaviorConfig) -> tuple[Targets, ReturnNorm, Metrics]:
    """Returns, scaled advantages and weights (V3 eq. 6 to 8).

        index      0      1      2    ...    H
        state     s_0    s_1    s_2   ...   s_H
        action    a_0    a_1    a_2   ...
        return    R_0    R_1    R_2   ...          R_k uses reward_{k+1}, continue_{k+1}, value_{k+1}
        weight   c_0   c_0 c_1    ...              product of continues up to and including index k

    Returns:
      the targets, the updated normaliser, metrics.
    """
    reward, continue_, value, slow_value = stop(predictions)
    returns = lambda_return(reward[1:], value, continue_[1:], config.lam)
    # The start's own continue counts, so terminal starts weigh nothing. The discount is inside continue_ already.
    weights = jnp.cumprod(continue_, 0)  # [H+1, N]
    norm, scale = update_return_norm(norm, returns, config)
    advantage = (returns - value[:-1]) / scale
    metrics = {
        "imagined_reward": reward.mean(),
        "imagined_continue": continue_.mean(),
        "imagined_return": returns.mean(),
        "imagined_value": value.mean(),
        "imagined_weight": weights.mean(),
        "advantage": advantage.mean(),
        "advantage_magnitude": jnp.abs(advantage).mean(),
        "return_scale": scale,
    }
    return Targets(returns, slow_value[:-1], advantage, weights[:-1]), norm, metrics


def policy_loss(
    policy: distrax.Distribution, action: jax.Array, targets: Targets, config: BehaviorConfig
) -> tuple[jax.Array, jax.Array]:
    """REINFORCE with an entropy bonus (V3 eq. 6): policy over actions [.., A], action f32[.., A] -> loss, entropy f32[..]."""
    entropy = jnp.asarray(policy.entropy())
    log_prob = policy.log_prob(stop(action))
    return -targets.weight * (log_prob * targets.advantage + config.entropy * entropy), entropy


def value_loss(logits: jax.Array, targets: Targets, config: BehaviorConfig) -> jax.Array:
    """Two-hot loss of the critic's logits f[.., bins] towards the return and the slow critic (V3 eq. 8) -> f32[..]."""
    loss = distributions.two_hot_loss(logits, targets.returns)
    return targets.weight * (loss + config.slow_weight * distributions.two_hot_loss(logits, targets.slow_value))


def replay_value_loss(
    value_logits: jax.Array,
    slow_value: jax.Array,
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
      value_logits: f[B, T, bins], which keep their gradient, into the world model too; slow_value: f32[B, T].
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
    loss = distributions.two_hot_loss(value_logits[:, :-1], returns)
    loss += config.slow_weight * distributions.two_hot_loss(value_logits[:, :-1], stop(slow_value)[:, :-1])
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


def predict(nets: Networks, params: Params, critic_params: Params, slow_params: Params, trajectory: Trajectory) -> Predictions:
    """Reward, continue and both critics at every imagined state."""
    params, critic_params, slow_params, trajectory = stop((params, critic_params, slow_params, trajectory))

    def heads(features: jax.Array) -> Predictions:
        def two_hot_mean(module: Any, head_params: Params) -> jax.Array:
            return distributions.two_hot_mean(apply(module, head_params, features)["logits"])

        continue_logit = apply(nets.continue_, params["continue"], features)["logit"][..., 0]
        return Predictions(
            reward=two_hot_mean(nets.reward, params["reward"]),
            continue_=jax.nn.sigmoid(continue_logit.astype(jnp.float32)),
            value=two_hot_mean(nets.critic, critic_params),
            slow_value=two_hot_mean(nets.critic, slow_params),
        )

    first, last = map_steps(heads, trajectory.features), heads(rssm.features(trajectory.last))
    return jax.tree.map(lambda first, last: jnp.concatenate([first, last[None]]), first, last)


def actor_critic_losses(
    nets: Networks,
    config: BehaviorConfig,
    actor_params: Params,
    critic_params: Params,
    trajectory: Trajectory,
    targets: Targets,
) -> tuple[dict[str, jax.Array], Metrics]:
    """Mean losses {"policy", "value": f32[]} over the imagined states 0..H-1, and the policy's entropy.

    Their gradients reach the actor's and the critic's parameters, and nothing else.
    """

    def of_rows(params: dict[str, Params], rows: tuple) -> tuple[dict[str, jax.Array], Metrics]:
        features, action, targets = rows
        policy = policy_distribution(apply(nets.actor, params["policy"], features), config)
        loss, entropy = policy_loss(policy, action, targets, config)
        values = value_loss(apply(nets.critic, params["value"], features)["logits"], targets, config)
        return {"policy": loss.mean(), "value": values.mean()}, {"policy_entropy": entropy.mean()}

    steps = stop((trajectory.features, trajectory.action, targets))
    return mean_over_steps(of_rows, {"policy": actor_params, "value": critic_params}, steps)
