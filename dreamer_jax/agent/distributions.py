"""Distributions and the scalar transforms around them, in float32, on distrax.

Every random draw of the agent goes through `sample`, so that a test can replace it by the mode.
"""

import math
from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp
from jax.lax import erf_inv
from jax.nn import log_softmax, one_hot, sigmoid, softmax
from jax.scipy.special import erf
from tensorflow_probability.substrates.jax import distributions as tfd


def symlog(x: jax.Array) -> jax.Array:
    """sign(x) log(1 + |x|) (V3 eq. 9), any shape."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: jax.Array) -> jax.Array:
    """sign(x) (exp|x| - 1), the inverse of `symlog`, any shape."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def sample(seed: jax.Array, dist: "distrax.Distribution | OneHot") -> jax.Array:
    """Draws once from `dist`, with a key, or with uniform numbers for a OneHot; the only place where the agent draws."""
    return dist.sample(seed=seed)


def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The random numbers f32[*shape] in [0, 1) from which a OneHot is drawn."""
    return jax.random.uniform(key, shape)


@jax.custom_jvp
def straight_through(value: jax.Array, probs: jax.Array) -> jax.Array:
    """The one-hot `value` forwards, the gradient of `probs` backwards (V2 algorithm 1).

    The usual value + probs - stop_gradient(probs), without rounding, and without `probs` where nobody asks for a gradient.
    """
    del probs
    return value


@straight_through.defjvp
def _straight_through_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    return primals[0], tangents[1]


def unimix_probs(logits: jax.Array, unimix: float) -> jax.Array:
    """Probabilities f32[.., K] of a categorical with a share `unimix` of the uniform mixed in (V3)."""
    return (1 - unimix) * softmax(logits.astype(jnp.float32)) + unimix / logits.shape[-1]


def unimix_logits(logits: jax.Array, unimix: float) -> jax.Array:
    """The logarithm of `unimix_probs`."""
    return jnp.log(unimix_probs(logits, unimix)) if unimix else log_softmax(logits.astype(jnp.float32))


class OneHot(NamedTuple):
    """A one-hot categorical from probabilities f32[.., K]: what latents are drawn from, many at every imagined step."""

    probs: jax.Array

    def sample(self, *, seed: jax.Array) -> jax.Array:
        """Draws f32[.., K]: the class in whose share of [0, 1) the uniform number `seed` f32[..] falls."""
        # One number a variable, where Gumbel-max takes K. The last class takes what rounding leaves of the interval.
        index = (self.probs.cumsum(-1)[..., :-1] <= seed[..., None]).sum(-1)
        return one_hot(index, self.probs.shape[-1])

    def mode(self) -> jax.Array:
        """The likeliest f32[.., K]."""
        return one_hot(self.probs.argmax(-1), self.probs.shape[-1])


def one_hot_categorical(logits: jax.Array) -> distrax.OneHotCategorical:
    """One-hot categorical over the last axis in float32."""
    return distrax.OneHotCategorical(logits=logits.astype(jnp.float32), dtype=jnp.float32)


def categorical_kl(p_log_probs: jax.Array, q_log_probs: jax.Array) -> jax.Array:
    """KL(p || q) over the last axis: log-probabilities [.., K] -> [..]. Never negative beyond rounding."""
    return (jnp.exp(p_log_probs) * (p_log_probs - q_log_probs)).sum(-1)


def categorical_entropy(log_probs: jax.Array) -> jax.Array:
    """Entropy in nats: log-probabilities [.., K] -> [..]."""
    return -(jnp.exp(log_probs) * log_probs).sum(-1)


def bounded_normal(mean: jax.Array, std: jax.Array, min_std: float, max_std: float) -> distrax.Distribution:
    """V3's continuous policy: Normal(tanh(mean), (max-min) sigmoid(std + 2) + min), summed over the last axis.

    Only the mean is squashed: samples are not, and log-probabilities are of the unclipped sample.
    """
    mean, std = mean.astype(jnp.float32), std.astype(jnp.float32)
    scale = (max_std - min_std) * sigmoid(std + 2.0) + min_std
    return distrax.Independent(distrax.Normal(jnp.tanh(mean), scale), 1)


def tanh_normal(mean: jax.Array, std: jax.Array) -> distrax.Distribution:
    """V1's continuous policy: tanh of Normal(5 tanh(mean / 5), softplus(std + log(e^5 - 1)) + 1e-4), summed over the last axis.

    It has no entropy in closed form; its mode is taken to be the tanh of the normal's mean.
    """
    mean, std = mean.astype(jnp.float32), std.astype(jnp.float32)
    scale = jax.nn.softplus(std + jnp.log(jnp.expm1(5.0))) + 1e-4
    return TanhNormal(5 * jnp.tanh(mean / 5), scale)


class TanhNormal(distrax.Independent):
    """tanh of a diagonal normal. At -1 and 1, where log-probabilities are infinite, those of values 1e-6 inside stand."""

    def __init__(self, mean: jax.Array, scale: jax.Array) -> None:
        self.normal = distrax.Normal(mean, scale)
        super().__init__(distrax.Transformed(self.normal, distrax.Tanh()), 1)

    def log_prob(self, value: jax.Array) -> jax.Array:
        return jnp.asarray(super().log_prob(jnp.clip(value, -1 + 1e-6, 1 - 1e-6)))

    def mode(self) -> jax.Array:
        return jnp.tanh(self.normal.loc)


class TruncatedNormal(tfd.TruncatedNormal):
    """A normal truncated to [-1, 1], whose draws lie 1e-6 inside and always have a gradient.

    The library's draws a bound once in some million times; its gradient there is NaN, and a single one ends a run.
    """

    def _sample_n(self, n: int, seed: jax.Array) -> jax.Array:
        """n draws f32[n, ..] for loc and scale f32[..]: the inverse of the cumulative distribution at uniform numbers."""
        loc, width = jnp.asarray(self.loc), jnp.asarray(self.scale) * math.sqrt(2)
        low, high = erf((-1 - loc) / width), erf((1 - loc) / width)
        place = low + jax.random.uniform(seed, (n, *loc.shape)) * (high - low)
        x = loc + width * erf_inv(jnp.clip(place, -1 + 1e-6, 1 - 1e-6))
        return x + jax.lax.stop_gradient(jnp.clip(x, -1 + 1e-6, 1 - 1e-6) - x)


def truncated_normal(mean: jax.Array, std: jax.Array) -> distrax.Distribution:
    """V2's continuous policy: Normal(tanh(mean), 2 sigmoid(std / 2) + 0.1) truncated to [-1, 1], summed over the last axis."""
    loc, scale = jnp.tanh(mean.astype(jnp.float32)), 2 * sigmoid(std.astype(jnp.float32) / 2) + 0.1
    return distrax.Independent(distrax.as_distribution(TruncatedNormal(loc, scale, -1.0, 1.0)), 1)


def scalar_mean(outputs: dict[str, jax.Array]) -> jax.Array:
    """What reward head and critic predict, from their outputs, two-hot or normal: f32[..]."""
    return two_hot_mean(outputs["logits"]) if "logits" in outputs else outputs["mean"][..., 0].astype(jnp.float32)


def scalar_loss(outputs: dict[str, jax.Array], target: jax.Array) -> jax.Array:
    """Loss of reward head and critic for targets [..] -> f32[..]: two-hot (V3 eq. 11), or half the squared error (V1, V2).

    No gradient to the target.
    """
    if "logits" in outputs:
        return two_hot_loss(outputs["logits"], target)
    return 0.5 * jnp.square(scalar_mean(outputs) - jax.lax.stop_gradient(target))


def binary_loss(logit: jax.Array, target: jax.Array) -> jax.Array:
    """Cross-entropy of a Bernoulli with a soft target in [0, 1], any shape (V3's continue head)."""
    logit = logit.astype(jnp.float32)
    return -(target * jax.nn.log_sigmoid(logit) + (1 - target) * jax.nn.log_sigmoid(-logit))


def two_hot_bins(count: int) -> jax.Array:
    """Bin positions f32[count] of the symexp two-hot: symexp(linspace(-20, 20)), mirrored exactly around 0."""
    if count % 2:
        half = symexp(jnp.linspace(-20.0, 0.0, count // 2 + 1, dtype=jnp.float32))
        return jnp.concatenate([half, -half[:-1][::-1]])
    half = symexp(jnp.linspace(-20.0, 0.0, count // 2, dtype=jnp.float32))
    return jnp.concatenate([half, -half[::-1]])


def two_hot(target: jax.Array, count: int) -> jax.Array:
    """Two-hot encoding [..] -> f32[.., count] (V3 eq. 10), linear in raw units between neighbouring bins.

    Targets beyond the last bin take that bin alone.
    """
    bins = two_hot_bins(count)
    target = jnp.clip(target.astype(jnp.float32), bins[0], bins[-1])
    # Every bin is compared: a search would be a loop over all targets, slower and longer to compile.
    below = jnp.clip((bins <= target[..., None]).sum(-1) - 1, 0, count - 1)
    above = jnp.minimum(below + 1, count - 1)
    width = jnp.where(above == below, 1.0, bins[above] - bins[below])
    upper = (target - bins[below]) / width
    return one_hot(below, count) * (1 - upper)[..., None] + one_hot(above, count) * upper[..., None]


def two_hot_loss(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Cross-entropy of logits [.., bins] with the two-hot target [..] -> f32[..] (V3 eq. 11). No gradient to the target."""
    encoded = two_hot(jax.lax.stop_gradient(target), logits.shape[-1])
    return -(encoded * log_softmax(logits.astype(jnp.float32))).sum(-1)


def two_hot_mean(logits: jax.Array) -> jax.Array:
    """Expected value: logits [.., bins] -> f32[..]. Uniform logits give exactly 0, whatever the compiler does."""
    count = logits.shape[-1]
    probs = softmax(logits.astype(jnp.float32))
    half = count // 2
    # Mirrored bins are paired and their probabilities subtracted before the product. The sum of the two products would not
    # cancel: XLA contracts it to a fused multiply-add, which rounds one of them only (-0.17 instead of 0, on CPU).
    difference = probs[..., :half] - probs[..., count - half :][..., ::-1]
    return (difference * two_hot_bins(count)[:half]).sum(-1)
