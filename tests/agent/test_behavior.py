"""The actor and critic losses against Python loops and hand arithmetic."""

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.agent import behavior, distributions, rssm
from dreamer_jax.agent.behavior import Predictions, Targets, replay_value_loss
from dreamer_jax.agent.returns import lambda_return
from dreamer_jax.agent.types import ReturnNorm
from dreamer_jax.core.algorithm import BehaviorConfig

CONFIG = BehaviorConfig()


@pytest.mark.parametrize("returns", ["next_reward", "own_reward"])
def test_reward_return_adds_up_rewards_to_the_horizon(returns):
    """V_R of V1's paper: no value and no discount; the last reward counts where values begin with the state's own."""
    config = BehaviorConfig(returns=returns, estimator="reward", return_norm=False, discount_horizon=100)
    reward = jnp.arange(1.0, 5.0)[:, None]  # of states 0 to 3
    alive, huge = jnp.full((4, 1), 0.99), jnp.full((4, 1), 1e6)
    targets, _, _ = behavior.imagined_targets(Predictions(reward, alive, huge, huge), ReturnNorm(0.0, 0.0), config)
    expected = [2 + 3 + 4, 3 + 4, 4] if returns == "next_reward" else [1 + 2 + 3 + 4, 2 + 3 + 4, 3 + 4]
    np.testing.assert_allclose(targets.returns[:, 0], expected, rtol=1e-6)


def _replay(seed: int, batch: int = 2, length: int = 6, bins: int = 21):
    """Random logits, slow values, rewards, no flags, and bootstrap values of a replayed batch."""
    rng = np.random.default_rng(seed)
    draw = [rng.normal(size=shape) for shape in [(batch, length, bins)] + [(batch, length)] * 3]
    value_logits, slow_value, reward, bootstrap = (jnp.asarray(x, jnp.float32) for x in draw)
    flags = np.zeros((batch, length), bool)
    return value_logits, slow_value, reward, flags, flags.copy(), bootstrap


def test_replay_returns_bootstrap_at_a_time_limit_and_not_at_a_termination():
    """Before a cut the return is r + discount * bootstrap; before a termination it is r alone; both end there."""
    value_logits, slow_value, reward, is_last, is_terminal, bootstrap = _replay(0)
    is_last[:, 3] = True
    is_terminal[1, 3] = True
    _, returns = replay_value_loss({"logits": value_logits}, slow_value, reward, is_last, is_terminal, bootstrap, CONFIG)
    gamma = 1 - 1 / 333
    chex.assert_trees_all_close(returns[0, 2], reward[0, 3] + gamma * bootstrap[0, 3], atol=1e-6)
    chex.assert_trees_all_close(returns[1, 2], reward[1, 3], atol=1e-6)
    for row, end in enumerate((returns[0, 2], returns[1, 2])):
        step = reward[row, 2] + gamma * (0.05 * bootstrap[row, 2] + 0.95 * end)
        chex.assert_trees_all_close(returns[row, 1], step, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_replay_value_loss_equals_a_loop(seed):
    """Returns and losses are those of a loop over rows and steps; a last step has no loss, the final index neither."""
    rng = np.random.default_rng(seed)
    value_logits, slow_value, reward, is_last, is_terminal, bootstrap = _replay(seed)
    is_last[:] = rng.random(is_last.shape) < 0.4
    is_terminal[:] = is_last & (rng.random(is_last.shape) < 0.5)
    loss, returns = replay_value_loss({"logits": value_logits}, slow_value, reward, is_last, is_terminal, bootstrap, CONFIG)
    batch, length = reward.shape
    chex.assert_shape((loss, returns), (batch, length - 1))
    for b in range(batch):
        following = bootstrap[b, -1]
        for t in reversed(range(length - 1)):
            # Reward, flags and bootstrap are those of the step that follows.
            discount = 0.0 if is_terminal[b, t + 1] else 1 - 1 / 333
            lam = 0.0 if is_last[b, t + 1] else 0.95
            following = reward[b, t + 1] + discount * ((1 - lam) * bootstrap[b, t + 1] + lam * following)
            chex.assert_trees_all_close(returns[b, t], following, atol=1e-5)
            terms = [distributions.two_hot_loss(value_logits[b, t], target) for target in (following, slow_value[b, t])]
            chex.assert_trees_all_close(loss[b, t], 0.0 if is_last[b, t] else sum(terms), atol=1e-4)


def test_replay_value_loss_reaches_the_value_logits_only():
    """Neither the slow critic nor the bootstrap gets a gradient, nor does the value at a last step."""
    value_logits, slow_value, reward, is_last, is_terminal, bootstrap = _replay(3)
    is_last[0, 1] = True

    def loss(value_logits, slow_value, bootstrap):
        return replay_value_loss({"logits": value_logits}, slow_value, reward, is_last, is_terminal, bootstrap, CONFIG)[0].sum()

    to_value, to_slow, to_bootstrap = jax.grad(loss, argnums=(0, 1, 2))(value_logits, slow_value, bootstrap)
    assert not to_slow.any()
    assert not to_bootstrap.any()
    used = np.asarray(to_value != 0).any(-1)
    expected = np.ones_like(used)
    expected[0, 1] = expected[:, -1] = False
    np.testing.assert_array_equal(used, expected)


def _imagined(seed: int, horizon: int = 3, rows: int = 4, actions: int = 3, bins: int = 21):
    """Random predictions, policy logits, actions and critic logits [H, N, ...]; trajectory 0 starts at a termination."""
    rng = np.random.default_rng(seed)
    continue_ = rng.uniform(0.5, 1, (horizon + 1, rows))
    continue_[0, 0] = 0
    reward, value, slow_value = rng.normal(0, 5, (3, horizon + 1, rows))
    predictions = Predictions(*(jnp.asarray(x, jnp.float32) for x in (reward, continue_, value, slow_value)))
    logits = rng.normal(size=(horizon, rows, actions)).astype(np.float32)
    action = np.eye(actions, dtype=np.float32)[rng.integers(actions, size=(horizon, rows))]
    return predictions, logits, action, rng.normal(size=(horizon, rows, bins)).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1])
def test_actor_critic_losses_equal_a_loop(seed):
    """REINFORCE with the scaled advantage and the entropy, and both critic terms, weighted by the product of continues."""
    predictions, logits, action, value_logits = _imagined(seed)
    norm = ReturnNorm(jnp.float32(-200.0), jnp.float32(300.0))
    targets, new_norm, _ = behavior.imagined_targets(predictions, norm, CONFIG)
    policy = distributions.one_hot_categorical(jnp.asarray(logits))
    policy_loss, policy_entropy = behavior.policy_loss(policy, action, targets, CONFIG)
    value_loss = behavior.value_loss({"logits": value_logits}, targets, CONFIG)

    returns, value, slow = targets.returns, np.asarray(predictions.value), np.asarray(predictions.slow_value)
    # Reward and continue of index k + 1 belong to the return at k; the discount is inside the continue.
    reward, continue_ = np.asarray(predictions.reward), np.asarray(predictions.continue_)
    expected = np.asarray(lambda_return(reward[1:], value, continue_[1:], 0.95))
    # The normaliser moves before it is used.
    low, high = (0.99 * old + 0.01 * np.percentile(expected, q) for old, q in ((-200, 5), (300, 95)))
    scale = high - low
    chex.assert_trees_all_close((new_norm.low, new_norm.high), (np.float32(low), np.float32(high)), rtol=1e-5)
    chex.assert_trees_all_close(returns, expected, rtol=1e-4, atol=1e-3)
    assert scale > 100
    for n in range(returns.shape[1]):
        weight = 1.0
        for k in range(returns.shape[0]):
            weight *= float(continue_[k, n])
            log_probs = logits[k, n] - np.log(np.exp(logits[k, n]).sum())
            log_prob, entropy = (log_probs * action[k, n]).sum(), -(np.exp(log_probs) * log_probs).sum()
            advantage = (returns[k, n] - value[k, n]) / scale
            chex.assert_trees_all_close(
                policy_loss[k, n], jnp.float32(-weight * (log_prob * advantage + 3e-4 * entropy)), rtol=1e-3, atol=1e-4
            )
            chex.assert_trees_all_close(policy_entropy[k, n], entropy, rtol=1e-5)
            terms = [distributions.two_hot_loss(value_logits[k, n], y) for y in (returns[k, n], slow[k, n])]
            chex.assert_trees_all_close(value_loss[k, n], jnp.float32(weight * sum(terms)), rtol=1e-3, atol=1e-4)
    # Trajectory 0 starts at a termination: it weighs nothing.
    np.testing.assert_array_equal(policy_loss[:, 0], np.zeros(len(returns)))
    np.testing.assert_array_equal(value_loss[:, 0], np.zeros(len(returns)))


def test_a_better_action_becomes_more_likely():
    """Descending the policy loss raises the probability of an action whose return exceeds the value."""

    def loss(logits):
        policy = distributions.one_hot_categorical(logits)
        zero, one, ten = jnp.float32(0), jnp.float32(1), jnp.float32(10)
        targets = Targets(returns=ten, slow_value=zero, weight=one, outcome=ten, advantage=ten, policy_weight=one)
        return behavior.policy_loss(policy, jnp.array([0.0, 1.0, 0.0]), targets, CONFIG)[0]

    # Return 10, value 0, scale 1: the gradient of -10 log p_1 at p = 1/3.
    chex.assert_trees_all_close(jax.grad(loss)(jnp.zeros(3)), 10 * jnp.array([1, -2, 1]) / 3, rtol=1e-4)


def test_every_posterior_state_starts_a_trajectory():
    """Trajectory b T + t starts at state (b, t), so returns reshape back to [B, T]; nothing in it carries a gradient."""
    nets, (world_model, actor, _) = helpers.tiny_networks(), helpers.tiny_params()
    states = helpers.random_state(nets, 0, (2, 5))

    def imagine(params, states):
        return behavior.imagine_from_posterior(nets, helpers.CONFIG.behavior, *params, jax.random.key(0), states)

    def objective(params, states):
        trajectory = imagine(params, states)
        return sum(x.sum() for x in jax.tree.leaves(trajectory)), trajectory

    gradients, trajectory = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))((world_model, actor), states)
    chex.assert_shape(trajectory.action, (helpers.HORIZON, 10, 3))
    expected = rssm.features(states)  # [B, T, F]
    for b in range(2):
        for t in range(5):
            chex.assert_trees_all_equal(trajectory.features[0, b * 5 + t], expected[b, t])
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients))


def test_imagined_actions_keep_their_precision_under_bfloat16():
    """The actor's log-probability belongs to the number that was drawn, not to its bfloat16 neighbour."""
    nets, (world_model, actor, _) = helpers.tiny_networks(False, jnp.bfloat16), helpers.tiny_params(False)
    states = helpers.random_state(nets, 0, (2, 5))
    trajectory = behavior.imagine_from_posterior(nets, helpers.CONFIG.behavior, world_model, actor, jax.random.key(0), states)
    chex.assert_type(trajectory.action, jnp.float32)
    chex.assert_type(trajectory.features, jnp.bfloat16)
    assert (trajectory.action != trajectory.action.astype(jnp.bfloat16).astype(jnp.float32)).mean() > 0.9
