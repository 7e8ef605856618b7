"""Actor and critic: what they learn from imagined states, and the losses on imagined and replayed ones."""

from typing import Any, NamedTuple, cast

import chex
import distrax
import jax
import jax.numpy as jnp

from dreamer_jax.agent import distributions, rssm
from dreamer_jax.agent.heads import outcomes, policy_distribution, sample_action
from dreamer_jax.agent.layout import map_steps, mean_over_steps
from dreamer_jax.agent.networks import Networks, apply
from dreamer_jax.agent.parts import PartStates, call_for_pair
from dreamer_jax.agent.returns import estimate_value, lambda_return, update_return_norm
from dreamer_jax.agent.types import LatentState, Metrics, Params, ReturnNorm, Trajectory
from dreamer_jax.core.algorithm import BehaviorConfig
from dreamer_jax.core.errors import ConfigError

stop = jax.lax.stop_gradient


class Predictions(NamedTuple):
    """What the heads say about imagined states 0..H: f32[H+1, N] each. The discount is inside continue_.

    They carry a gradient to the actor where the trajectory does.
    """

    reward: jax.Array
    continue_: jax.Array
    value: jax.Array
    slow_value: jax.Array


class Targets(NamedTuple):
    """What actor and critic learn at imagined states 0..H-1: f32[H, N] each, without gradient but for `outcome`.

    outcome is the return that follows the action taken in a state, advantage how much more it is than expected.
    """

    returns: jax.Array
    slow_value: jax.Array
    weight: jax.Array
    outcome: jax.Array
    advantage: jax.Array
    policy_weight: jax.Array


def imagined_targets(predictions: Predictions, norm: ReturnNorm, config: BehaviorConfig) -> tuple[Targets, ReturnNorm, Metrics]:
    """Returns, scaled advantages and weights, in one of three alignments (`config.returns`).

    next_reward (V3 eq. 6 to 8): a value begins with the next state's reward.

        index      0      1      2    ...    H
        state     s_0    s_1    s_2   ...   s_H
        action    a_0    a_1    a_2   ...
        return    R_0    R_1    R_2   ...          R_k uses reward_{k+1}, continue_{k+1}, value_{k+1}
        outcome   R_0    R_1    R_2
        weight   c_0   c_0 c_1    ...              product of continues up to and including index k

    own_reward (V2): a value begins with the state's own reward, so an action's outcome is the return of the state after it.
    own_reward_after_start (V1): the same without the start, whose weight is 0, and without its continue.

        return    R_0    R_1    R_2   ...          R_k uses reward_k, continue_k, value_{k+1}
        outcome   R_1    R_2    ...   R_{H-1}  0   the last action's is unknown and weighs nothing
        weight     1     c_0  c_0 c_1 ...          product of continues before index k; V1: 0, 1, c_1, c_1 c_2, ...

    Weights are scaled so that the mean over all H states is that over the states which count.

    Returns:
      the targets, the updated normaliser, metrics.
    """
    reward, continue_, value, slow_value = predictions
    horizon = reward.shape[0] - 1
    if config.bootstrap == "slow_critic":
        value = slow_value
    if config.returns == "next_reward":
        returns = estimate_value(reward[1:], jnp.zeros_like(reward[0]), value, continue_[1:], config)
        outcome = returns
        # The start's own continue counts, so terminal starts weigh nothing. The discount is inside continue_ already.
        weights = jnp.cumprod(continue_, 0)  # [H+1, N]
        weight = policy_weight = weights[:-1]
    else:
        returns = estimate_value(reward[:-1], reward[-1], value, continue_[:-1], config)
        outcome = jnp.concatenate([returns[1:], jnp.zeros_like(returns[:1])])
        one = jnp.ones_like(continue_[:1])
        if config.returns == "own_reward":
            weight = jnp.cumprod(jnp.concatenate([one, continue_[:-2]]), 0)
            policy_weight = weight
        else:
            after = jnp.cumprod(jnp.concatenate([one, continue_[1:-2]]), 0)  # of states 1..H-1
            weight = jnp.concatenate([jnp.zeros_like(one), after]) * horizon / (horizon - 1)
            policy_weight = jnp.concatenate([after, jnp.zeros_like(one)])
        policy_weight = policy_weight.at[-1].set(0) * horizon / (horizon - 1)
        weights = weight
    norm, scale = update_return_norm(norm, returns, config) if config.return_norm else (norm, jnp.float32(1))
    advantage = stop(outcome - value[:-1]) / scale
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
    targets = Targets(stop(returns), stop(slow_value[:-1]), stop(weight), outcome, advantage, stop(policy_weight))
    return targets, norm, stop(metrics)


def policy_loss(
    policy: distrax.Distribution, action: jax.Array, targets: Targets, config: BehaviorConfig
) -> tuple[jax.Array, jax.Array]:
    """REINFORCE's share of the actor's loss, with an entropy bonus (V3 eq. 6, V2 eq. 6): policy over actions [.., A], action
    f32[.., A] -> loss, entropy f32[..].

    A tanh-normal has no entropy in closed form; the action's own negative log-probability is reported in its place.
    """
    log_prob = jnp.asarray(policy.log_prob(stop(action)))
    entropy = stop(-log_prob) if isinstance(policy, distributions.TanhNormal) else jnp.asarray(policy.entropy())
    reinforce = (1 - config.dynamics_share) * log_prob * targets.advantage
    return -targets.policy_weight * (reinforce + config.entropy * entropy), entropy


def dynamics_loss(targets: Targets) -> jax.Array:
    """The gradient through the dynamics (V1 eq. 7): minus the outcomes of the actions, f32[H, N]."""
    return -targets.policy_weight * targets.outcome


def value_loss(outputs: dict[str, jax.Array], targets: Targets, config: BehaviorConfig) -> jax.Array:
    """Loss of the critic's outputs [.., n] towards the return, and towards the slow critic (V3 eq. 8) -> f32[..]."""
    loss = distributions.scalar_loss(outputs, targets.returns)
    if config.slow_weight:
        loss += config.slow_weight * distributions.scalar_loss(outputs, targets.slow_value)
    return targets.weight * loss


def replay_value_loss(
    outputs: dict[str, jax.Array],
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
      outputs: the critic's, [B, T, n], which keep their gradient, into the world model too; slow_value: f32[B, T].
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
    outputs = {name: values[:, :-1] for name, values in outputs.items()}
    loss = distributions.scalar_loss(outputs, returns)
    loss += config.slow_weight * distributions.scalar_loss(outputs, stop(slow_value)[:, :-1])
    return (1 - last[:, :-1]) * loss, returns


def imagine_from_posterior(
    nets: Networks, config: BehaviorConfig, params: Params, actor_params: Params, key: jax.Array, states: LatentState
) -> Trajectory:
    """Imagines from every posterior state [B, T] -> Trajectory over N = B*T.

    It carries a gradient only where a share of the actor's comes through the dynamics, and then to the actor's parameters
    alone, through its actions: what the actor sees has none (V1, V2).
    """
    params, states = stop((params, states))
    if not config.dynamics_share:
        actor_params = stop(actor_params)
    start = jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), states)  # [N, ...]

    def act(action_key, features):
        return sample_action(action_key, policy_distribution(apply(nets.actor, actor_params, stop(features)), config))

    return rssm.imagine(nets, params, act, key, start, config.imagination_horizon)


def predict(
    nets: Networks,
    config: BehaviorConfig,
    params: Params,
    critic_params: Params,
    slow_params: Params,
    trajectory: Trajectory,
    is_terminal: jax.Array,
) -> Predictions:
    """Reward, continue and both critics' values at every imagined state.

    Where a value begins with the state's own reward, what is known about the start replaces its predicted continue (V2).

    Args:
      is_terminal: bool[N], which of the starts ended their episode.
    """
    params, critic_params, slow_params = stop((params, critic_params, slow_params))

    @jax.jit  # traced once for all steps and the last
    def heads(features: jax.Array) -> Predictions:
        def scalar(module: Any, head_params: Params) -> jax.Array:
            return distributions.scalar_mean(apply(module, head_params, features))

        value, slow_value = scalar(nets.critic, critic_params), scalar(nets.critic, slow_params)
        return Predictions(*outcomes(nets, config, params, features), value, slow_value)

    first, last = map_steps(heads, trajectory.features, nets.layout), heads(rssm.features(trajectory.last))
    predictions = jax.tree.map(lambda first, last: jnp.concatenate([first, last[None]]), first, last)
    if nets.continue_ and config.returns != "next_reward":
        start = jnp.where(is_terminal, 0.0, config.discount)
        predictions = predictions._replace(continue_=predictions.continue_.at[0].set(start))
    return predictions


def add_bonuses(
    nets: Networks, params: dict[str, Params], parts: PartStates, trajectory: Trajectory, predictions: Predictions
) -> tuple[Predictions, PartStates, Metrics]:
    """Adds the exploration bonuses, weighted, to the predicted rewards.

    Args:
      params: the world model's, which get no gradient.
      parts: the states of all parts.

    Returns:
      the predictions, the states of the parts after it, and {"bonus/<name>": f32[], the mean before weighting}.
    """
    if not nets.bonuses:
        return predictions, parts, {}
    reward, metrics, parts = predictions.reward, {}, dict(parts)
    features = jnp.concatenate([trajectory.features, rssm.features(trajectory.last)[None]])  # [H+1, N, F]
    for bonus in nets.bonuses:
        state = parts.get(bonus.name, {})
        own, state = call_for_pair(bonus, "reward", nets, stop(params), state, features, trajectory.action)
        if own.shape != reward.shape:
            raise ConfigError(
                f"{bonus.name}.reward returned rewards of shape {list(own.shape)}; {list(reward.shape)}, one for each imagined "
                "state, was expected"
            )
        reward += bonus.weight * own
        metrics[f"bonus/{bonus.name}"] = stop(own[1:].mean())
        if bonus.name in parts:
            parts[bonus.name] = stop(state)
    return predictions._replace(reward=reward), parts, metrics


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
        values = value_loss(apply(nets.critic, params["value"], features), targets, config)
        return {"policy": loss.mean(), "value": values.mean()}, {"policy_entropy": entropy.mean()}

    steps = stop((trajectory.features, trajectory.action, targets))
    params = {"policy": actor_params, "value": critic_params}
    losses, metrics = cast(tuple, mean_over_steps(of_rows, params, steps, nets.layout))
    if config.dynamics_share:
        losses["policy"] += config.dynamics_share * dynamics_loss(targets).mean()
    return losses, metrics
