"""The optimiser as one optax chain: V3's LaProp with adaptive gradient clipping, or the Adam of V1 and V2."""

from functools import cache

import jax
import jax.numpy as jnp
import optax

from dreamer_jax.agent.layout import Layout
from dreamer_jax.core.algorithm import OptimizerConfig

ROWS = 8  # of a product that stands for a sum of squares


def clip_by_tensor_norm(ratio: float, min_norm: float, layout: Layout) -> optax.GradientTransformation:
    """Adaptive gradient clipping (AGC) over whole tensors, biases and scales too.

    A gradient g becomes g * min(1, ratio * max(min_norm, |parameter|) / |g|). `optax.adaptive_grad_clip` clips by unit, which
    is another algorithm.
    """

    def update(updates, state, params=None):
        def clip(gradient, parameter):
            limit = ratio * jnp.maximum(min_norm, tensor_norm(parameter, layout))
            return gradient * jnp.minimum(1.0, limit / tensor_norm(gradient, layout))

        return jax.tree.map(clip, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def tensor_norm(x: jax.Array, layout: Layout) -> jax.Array:
    """Euclidean norm f32[] of all elements."""
    return jnp.sqrt(squared_norm(x, layout))


def squared_norm(x: jax.Array, layout: Layout) -> jax.Array:
    """Sum f32[] of the squares of all elements.

    `layout.norms_by_product` asks for the product of eight rows with themselves. A tensor whose size is no multiple of eight
    has a dot product in all layouts.
    """
    if not layout.norms_by_product or x.size % ROWS:
        return jnp.vdot(x, x, precision="highest")
    rows = x.reshape((ROWS, -1))
    return jnp.trace(rows @ rows.T)


# Cached because an optimiser is part of a TrainState's structure: an equal but rebuilt one would make compiled functions be
# traced again.
@cache
def make_optimizer(config: OptimizerConfig, layout: Layout, own_rate: float | None = None) -> optax.GradientTransformation:
    """Builds the chain of clipping, LaProp or Adam, learning rate, and weight decay.

    LaProp is RMS scaling, then momentum; in Adam they are independent. All averages are bias-corrected. The very first update
    has learning rate 0 when there is a warm-up.

    Args:
      layout: how the norms of clipping are computed.
      own_rate: a learning rate for world model, actor or critic alone, which replaces the common one.
    """
    peak = own_rate or config.learning_rate
    rate = optax.linear_schedule(0.0, peak, config.warmup) if config.warmup else optax.constant_schedule(peak)
    steps = []
    if config.agc:
        steps.append(clip_by_tensor_norm(config.agc, config.agc_min, layout))
    if config.clip:
        steps.append(optax.clip_by_global_norm(config.clip))
    if config.algorithm == "laprop":
        steps.append(optax.scale_by_rms(decay=config.beta2, eps=config.eps, eps_in_sqrt=False, bias_correction=True))
        steps.append(optax.ema(config.beta1, debias=True))
    else:
        steps.append(optax.scale_by_adam(config.beta1, config.beta2, config.eps))
    steps.append(optax.scale_by_learning_rate(rate))
    if config.decay:
        steps.append(optax.add_decayed_weights(-config.decay))  # not times the learning rate (V2)
    return optax.chain(*steps)
