"""Facts about the distributions, swept over shapes, bins and seeds."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from scipy import stats

from dreamer_jax.agent import distributions

quick = hypothesis.settings(max_examples=25, deadline=None)
BINS = (3, 4, 21, 254, 255)


def _normal(seed: int, *shape: int, scale: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(np.float64(logits) - np.float64(logits).max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def _hat(targets: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Two-hot weights as hat functions: weight i is what linear interpolation of the i-th unit vector gives."""
    bins = np.float64(bins)
    return np.stack([np.interp(np.float64(targets), bins, unit) for unit in np.eye(bins.size)], -1)


@quick
@hypothesis.given(st.floats(-1e8, 1e8, width=32))
def test_symexp_inverts_symlog(x):
    """symexp(symlog(x)) is x, and symlog is sign(x) log(1 + |x|)."""
    y = distributions.symlog(jnp.float32(x))
    chex.assert_trees_all_close(y, np.float32(np.sign(x) * np.log1p(abs(x))), rtol=1e-5, atol=1e-30)
    chex.assert_trees_all_close(distributions.symexp(y), np.float32(x), rtol=1e-4, atol=1e-30)


@pytest.mark.parametrize("count", BINS)
def test_bins_are_symexp_of_an_even_grid_and_mirrored_exactly(count):
    """Bins ascend from symexp(-20) to symexp(20), and reversing them negates them bit by bit."""
    bins = np.asarray(distributions.two_hot_bins(count))
    chex.assert_shape(bins, (count,))
    np.testing.assert_array_equal(bins, -bins[::-1])
    half = np.linspace(-20, 0, (count + 1) // 2)
    chex.assert_trees_all_close(bins[: half.size], np.float32(-np.expm1(-half)), rtol=1e-4, atol=1e-6)
    assert (np.diff(bins) >= 0).all()


@pytest.mark.parametrize("count", BINS)
@pytest.mark.parametrize("shape", [(), (7,), (2, 3)])
def test_two_hot_weights(count, shape):
    """Weights are at least 0, sum to 1, and only two neighbours are non-zero."""
    weights = np.asarray(distributions.two_hot(jnp.asarray(_normal(count, *shape, scale=1e4)), count))
    chex.assert_shape(weights, (*shape, count))
    assert (weights >= 0).all()
    chex.assert_trees_all_close(weights.sum(-1), np.ones(shape, np.float32), atol=1e-6)
    for row in weights.reshape(-1, count):
        used = np.flatnonzero(row)
        assert used.size <= 2
        assert used[-1] - used[0] <= 1


@pytest.mark.parametrize("count", [3, 21, 255])
def test_two_hot_interpolates_in_raw_units(count):
    """The weights are hat functions over the bins, also on a bin and beyond the last one."""
    bins = np.asarray(distributions.two_hot_bins(count))
    targets = np.concatenate([_normal(0, 20), _normal(1, 20, scale=1e5), bins, [1e9, -1e9]]).astype(np.float32)
    chex.assert_trees_all_close(
        np.asarray(distributions.two_hot(jnp.asarray(targets), count)), np.float32(_hat(targets, bins)), atol=1e-5
    )


@quick
@hypothesis.given(st.floats(-1e8, 1e8, width=32), st.sampled_from([21, 255]))
def test_mean_inverts_two_hot(target, count):
    """A distribution with the two-hot weights of y has the mean y."""
    weights = distributions.two_hot(jnp.float32(target), count)
    mean = distributions.two_hot_mean(jnp.log(weights))
    chex.assert_trees_all_close(mean, np.float32(target), rtol=1e-5, atol=1e-5)


class Uniform(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(count=BINS, constant=(0.0, -7.0))
    def test_uniform_logits_have_mean_exactly_zero(self, count, constant):
        """Equal logits give 0.0 to the last bit, though the end bins are near 5e8."""
        mean = self.variant(distributions.two_hot_mean)(jnp.full((2, count), constant))
        np.testing.assert_array_equal(mean, np.zeros(2))


@pytest.mark.parametrize("count", [21, 255])
def test_two_hot_mean(count):
    """The mean is the sum of probability times bin."""
    logits = _normal(3, 4, count)
    bins = np.float64(distributions.two_hot_bins(count))
    expected = (_softmax(logits) * bins).sum(-1)
    # The terms are as large as the largest bin, so rounding is in its units.
    chex.assert_trees_all_close(
        np.float64(distributions.two_hot_mean(logits)) / bins[-1], expected / bins[-1], atol=1e-7, rtol=1e-5
    )


class TwoHotLoss(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters((21, (), 0), (21, (2, 3), 1), (255, (4,), 2))
    def test_value_and_gradient_are_those_of_the_formula(self, count, shape, seed):
        """The loss is -sum(two_hot * log_softmax), its gradient softmax - two_hot; the target gets none."""
        logits, target, cotangent = _normal(seed, *shape, count), _normal(seed + 1, *shape, scale=20), _normal(seed + 2, *shape)
        weights, probs = _hat(target, distributions.two_hot_bins(count)), _softmax(logits)

        def loss_and_gradients(logits, target):
            loss, pullback = jax.vjp(distributions.two_hot_loss, logits, target)
            return loss, *pullback(jnp.asarray(cotangent))

        loss, to_logits, to_target = self.variant(loss_and_gradients)(logits, target)
        chex.assert_trees_all_close(loss, np.float32(-(weights * np.log(probs)).sum(-1)), rtol=1e-4, atol=1e-5)
        chex.assert_trees_all_close(to_logits, np.float32((probs - weights) * cotangent[..., None]), atol=1e-5)
        np.testing.assert_array_equal(to_target, np.zeros(shape))


@pytest.mark.parametrize("shape", [(3,), (4, 5), (2, 3, 6)])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_kl(shape, scale):
    """KL is the sum of p log(p / q), never below 0, and 0 between equal distributions."""
    logits = _normal(0, 2, *shape, scale=scale)
    p, q = distributions.unimix_logits(jnp.asarray(logits), 0.01)
    kl = distributions.categorical_kl(p, q)
    probs = 0.99 * _softmax(logits) + 0.01 / shape[-1]
    chex.assert_trees_all_close(kl, np.float32((probs[0] * np.log(probs[0] / probs[1])).sum(-1)), rtol=1e-3, atol=1e-5)
    assert (kl > 0).all()
    np.testing.assert_array_equal(distributions.categorical_kl(p, p), np.zeros(shape[:-1]))


@quick
@hypothesis.given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=6), st.sampled_from([0.01, 0.1, 0.5]))
def test_unimix_keeps_every_class_possible(logits, unimix):
    """Mixed probabilities are (1 - u) softmax + u / K: they sum to 1 and none is below u / K."""
    logits = np.array(logits, np.float32)
    probs = np.exp(distributions.unimix_logits(jnp.asarray(logits), unimix))
    chex.assert_trees_all_close(probs, np.float32((1 - unimix) * _softmax(logits) + unimix / logits.size), rtol=1e-4)
    assert (probs >= unimix / logits.size * (1 - 1e-5)).all()
    chex.assert_trees_all_close(probs.sum(), np.float32(1), atol=1e-5)


def test_no_unimix_is_the_plain_softmax():
    """A share of 0 leaves log_softmax, also where the probability underflows."""
    logits = jnp.array([0.0, -500.0, 2.0])
    chex.assert_trees_all_close(distributions.unimix_logits(logits, 0.0), jax.nn.log_softmax(logits))


def test_one_hot_draws_have_their_probabilities():
    """20,000 draws: within five standard deviations, and no category of probability 0."""
    probs, count = np.array([0.5, 0.0, 0.05, 0.45], np.float32), 20_000
    dist = distributions.OneHot(jnp.broadcast_to(probs, (count, 4)))
    draws = np.asarray(dist.sample(seed=distributions.uniform(jax.random.key(0), (count,))))
    np.testing.assert_array_equal(np.unique(draws), [0, 1])
    np.testing.assert_array_equal(draws.sum(-1), 1)
    assert np.abs(draws.mean(0) - probs).max() < 5 * 0.5 / np.sqrt(count)
    assert draws[:, 1].sum() == 0
    np.testing.assert_array_equal(dist.mode()[0], [1, 0, 0, 0])


class StraightThrough(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(((3,), 0), ((50, 4), 1), ((10, 5, 16), 2))
    def test_one_hot_forwards_and_probabilities_backwards(self, shape, seed):
        """The value is the sample, one-hot to the last bit; the gradient is that of the probabilities."""
        logits, weight = jnp.asarray(_normal(seed, *shape)), _normal(seed + 1, *shape)
        index = np.random.default_rng(seed).integers(shape[-1], size=shape[:-1])
        value = np.eye(shape[-1], dtype=np.float32)[index]

        def draw(logits):
            return distributions.straight_through(value, jax.nn.softmax(logits))

        np.testing.assert_array_equal(self.variant(draw)(logits), value)
        gradient = self.variant(jax.grad(lambda x: (draw(x) * weight).sum()))(logits)
        expected = jax.grad(lambda x: (jax.nn.softmax(x) * weight).sum())(logits)
        chex.assert_trees_all_close(gradient, expected, rtol=1e-5, atol=1e-6)
        assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("target", [0.0, 0.25, 0.997, 1.0])
def test_binary_loss(target):
    """Cross-entropy -(c log p + (1 - c) log(1 - p)) with p the logistic function of the logit; finite far out."""
    logits = np.array([-5.0, -0.5, 0.0, 2.0, 8.0])
    p = 1 / (1 + np.exp(-logits))
    expected = -(target * np.log(p) + (1 - target) * np.log(1 - p))
    chex.assert_trees_all_close(distributions.binary_loss(jnp.float32(logits), target), np.float32(expected), rtol=1e-4)
    chex.assert_tree_all_finite(distributions.binary_loss(jnp.array([-1e4, 1e4]), target))


def test_bounded_normal_squashes_the_mean_only():
    """Mode tanh(m), deviation between the bounds; samples leave [-1, 1]; log-probabilities are summed over the vector."""
    mean, std = np.array([0.0, 5.0]), np.array([-40.0, 40.0])
    dist = distributions.bounded_normal(jnp.float32(mean), jnp.float32(std), 0.1, 1.0)
    chex.assert_trees_all_close(dist.mode(), np.float32(np.tanh(mean)), atol=1e-6)
    chex.assert_trees_all_close(dist.stddev(), jnp.array([0.1, 1.0]), atol=1e-5)
    draws = np.asarray(dist.sample(seed=jax.random.key(0), sample_shape=(200,)))
    assert (np.abs(draws[:, 1]) > 1).any()
    x, scale = draws[0], np.array([0.1, 1.0])
    expected = (-0.5 * ((x - np.tanh(mean)) / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))).sum()
    chex.assert_trees_all_close(dist.log_prob(x), np.float32(expected), rtol=1e-4)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (0.5, -3.0), (2.0, 1.0), (-4.0, -9.0)])
def test_truncated_normal_draws_as_scipy_says(mean, std):
    """Quantiles of 200,000 draws; their error is about 1e-3 of the interval."""
    loc, scale = np.tanh(mean), 2 / (1 + np.exp(-std / 2)) + 0.1
    dist = distributions.truncated_normal(jnp.full((200_000, 1), mean), jnp.full((200_000, 1), std))
    drawn = np.asarray(distributions.sample(jax.random.key(0), dist))
    truth = stats.truncnorm((-1 - loc) / scale, (1 - loc) / scale, loc, scale)
    shares = np.array([0.01, 0.1, 0.5, 0.9, 0.99])
    np.testing.assert_allclose(np.quantile(drawn, shares), truth.ppf(shares), atol=0.01)
    assert np.abs(drawn).max() < 1


@pytest.mark.parametrize("mean", [-6.0, 0.0, 6.0])
@pytest.mark.parametrize("share", [0.0, 0.5, 1 - 2**-24])
def test_every_draw_of_a_truncated_normal_has_a_gradient(monkeypatch, mean, share):
    """Also of the smallest and of the largest uniform number, which come once in 8 million draws."""
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape=(), *rest, **more: jnp.full(shape, share, jnp.float32))

    def draw(mean, std):
        return distributions.sample(jax.random.key(0), distributions.truncated_normal(mean[None], std[None]))[0]

    gradients = jax.grad(draw, argnums=(0, 1))(jnp.float32(mean), jnp.float32(-10))
    assert np.isfinite(gradients).all()
