"""Value estimates and the return normaliser against Python loops and hand arithmetic."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from dreamer_jax.agent.returns import estimate_value, lambda_return, n_step_return, reward_return, update_return_norm
from dreamer_jax.agent.types import ReturnNorm
from dreamer_jax.core.algorithm import BehaviorConfig

SHAPES = ((1,), (6,), (5, 2), (4, 2, 3))


def _draw(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """reward [H, ...], value [H+1, ...], discount [H, ...], lam [H, ...]; some discounts and lams are 0."""
    rng = np.random.default_rng(seed)
    value = rng.normal(size=(shape[0] + 1, *shape[1:]))
    discount, lam = (rng.uniform(0.5, 1, shape) * (rng.random(shape) > 0.2) for _ in range(2))
    return tuple(np.float32(x) for x in (rng.normal(size=shape), value, discount, lam))


def _loop(reward, value, discount, lam) -> np.ndarray:
    """The lambda-return, written as its recursion."""
    following, returns = value[-1], np.zeros_like(reward)
    for t in reversed(range(len(reward))):
        following = reward[t] + discount[t] * ((1 - lam[t]) * value[t + 1] + lam[t] * following)
        returns[t] = following
    return returns


class LambdaReturn(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(shape=SHAPES, scalar=(True, False))
    def test_equals_a_loop(self, shape, scalar):
        """The scan equals the recursion in a Python loop, for one lam or one a step."""
        reward, value, discount, lam = _draw(len(shape), shape)
        given = 0.95 if scalar else lam
        actual = self.variant(lambda_return)(reward, value, discount, given)
        chex.assert_trees_all_close(actual, _loop(reward, value, discount, np.broadcast_to(given, shape)), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_lam_0_is_the_one_step_target(shape):
    """lam = 0: R_t = r_t + discount_t v_{t+1}."""
    reward, value, discount, _ = _draw(0, shape)
    chex.assert_trees_all_close(lambda_return(reward, value, discount, 0.0), reward + discount * value[1:], atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_n_step_return_equals_the_papers_sum(shape, steps):
    """V_N of V1's paper: rewards of the next steps and the value at min(t + steps, H), discounts multiplied up."""
    reward, value, discount, _ = _draw(2, shape)
    expected, horizon = np.zeros(shape, np.float32), shape[0]
    for t in range(horizon):
        end, product = min(t + steps, horizon), 1.0
        for n in range(t, end):
            expected[t] += product * reward[n]
            product = product * discount[n]
        expected[t] += product * value[end]
    chex.assert_trees_all_close(n_step_return(reward, value, discount, steps), expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_lam_1_is_the_discounted_sum(shape):
    """lam = 1: the Monte-Carlo return, with the last value standing for what comes after the horizon."""
    reward, value, discount, _ = _draw(1, shape)
    expected = np.zeros(shape, np.float32)
    for t in range(shape[0]):
        factor = np.ones(shape[1:])
        for k in range(t, shape[0]):
            expected[t] += factor * reward[k]
            factor = factor * discount[k]
        expected[t] += factor * value[-1]
    chex.assert_trees_all_close(lambda_return(reward, value, discount, 1.0), expected, atol=1e-5)


def test_hand_arithmetic():
    """rewards 1, 2; values 10, 20, 30; discount 1/2; lam 1/2: R_1 = 2 + 30/2 = 17, R_0 = 1 + (20/2 + 17/2)/2 = 10.25."""
    half = jnp.array([0.5, 0.5])
    returns = lambda_return(jnp.array([1.0, 2.0]), jnp.array([10.0, 20.0, 30.0]), half, 0.5)
    np.testing.assert_array_equal(returns, [10.25, 17.0])


def test_lam_0_at_a_step_cuts_there():
    """With lam_t = 0 the return at t and before ignores everything after value_{t+1}."""
    reward, value, discount, _ = _draw(2, (6,))
    discount = np.full(6, 0.9, np.float32)
    lam = np.array([0.9, 0.9, 0.0, 0.9, 0.9, 0.9], np.float32)
    other_reward, other_value = reward.copy(), value.copy()
    other_reward[3:] += 100
    other_value[4:] += 100
    one, other = lambda_return(reward, value, discount, lam), lambda_return(other_reward, other_value, discount, lam)
    chex.assert_trees_all_equal(one[:3], other[:3])
    assert (np.abs(one[3:] - other[3:]) > 1).all()
    chex.assert_trees_all_close(one[2], reward[2] + discount[2] * value[3], atol=1e-6)


def test_reward_return_by_hand():
    """Rewards 1, 2, 3 and 4 at the horizon; the episode goes on with probability 1, 1/2, 1: 3 + 4, 2 + 7 / 2, 1 + 5.5."""
    returns = reward_return(jnp.array([1.0, 2.0, 3.0]), jnp.float32(4), jnp.array([1.0, 0.5, 1.0]))
    np.testing.assert_array_equal(returns, [6.5, 5.5, 7.0])


@pytest.mark.parametrize("estimator", ["lambda", "n_step", "reward"])
def test_the_configuration_names_the_estimate(estimator):
    """Each estimate has its own settings; the sum of rewards takes the constant discount out of the continues."""
    config = BehaviorConfig(estimator=estimator, lam=0.7, n_step=2, discount_horizon=10)
    reward, value, discount, _ = _draw(3, (5, 2))
    last = np.float32([1.0, 2.0])
    expected = {
        "lambda": lambda_return(reward, value, discount, 0.7),
        "n_step": n_step_return(reward, value, discount, 2),
        "reward": reward_return(reward, last, discount / 0.9),
    }[estimator]
    chex.assert_trees_all_close(estimate_value(reward, last, value, discount, config), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (3, 10), (2, 3, 4)])
@pytest.mark.parametrize("spread", [0.1, 30.0])
def test_return_norm(shape, spread):
    """From 0, percentiles 5 and 95 move in by 1 % an update; the scale is their updated distance, at least 1."""
    rng = np.random.default_rng(0)
    norm, low, high = ReturnNorm(jnp.float32(0), jnp.float32(0)), 0.0, 0.0
    update = jax.jit(lambda norm, returns: update_return_norm(norm, returns, BehaviorConfig()))
    for _ in range(4):
        returns = rng.normal(50, spread, shape).astype(np.float32)
        norm, scale = update(norm, returns)
        low = 0.99 * low + 0.01 * np.percentile(returns, 5)
        high = 0.99 * high + 0.01 * np.percentile(returns, 95)
        chex.assert_trees_all_close((norm.low, norm.high), (np.float32(low), np.float32(high)), rtol=1e-4)
        chex.assert_trees_all_close(scale, np.float32(max(1.0, high - low)), rtol=1e-4)
    assert (scale > 1) == (spread > 1)
