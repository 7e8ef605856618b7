"""The optimiser as one optax chain: V3's LaProp with adaptive gradient clipping, or the Adam of V1 and V2."""

from functools import cache

import jax
import jax.numpy as jnp
import optax

from dreamer_jax.agent.devices import on_cpu
from dreamer_jax.core.algorithm import OptimizerConfig

ROWS = 8


def clip_by_tensor_norm(ratio: float, min_norm: float) -> optax.GradientTransformation:
    """AGC over whole tensors: g * min(1, ratio * max(min_norm, |parameter|) / |g|), biases and scales too.

    (`optax.adaptive_grad_clip` clips by unit, which is another algorithm.)
    """

    def update(updates, state, params=None):
        def clip(gradient, parameter):
            limit = ratio * jnp.maximum(min_norm, tensor_norm(parameter))
            return gradient * jnp.minimum(1.0, limit / tensor_norm(gradient))

        return jax.tree.map(clip, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def tensor_norm(x: jax.Array) -> jax.Array:
    """Euclidean norm f32[] of all elements."""
    return jnp.sqrt(squared_norm(x))


def squared_norm(x: jax.Array) -> jax.Array:
    """Sum f32[] of the squares of all elements.

    On a CPU by a product of eight rows with themselves where there are as many: it is a library's, and needs no compiling.
    """
    if not on_cpu() or x.size % ROWS:
        return jnp.vdot(x, x, precision="highest")
    rows = x.reshape((ROWS, -1))
    return jnp.trace(rows @ rows.T)


@cache  # it is part of a TrainState's structure: with another of the same settings, compiled functions would be traced again
def make_optimizer(config: OptimizerConfig, own_rate: float | None = None) -> optax.GradientTransformation:
    """Clipping -> LaProp or Adam -> learning rate -> weight decay.

    LaProp is RMS scaling, then momentum; in Adam they are independent. All averages are bias-corrected. The very first update
    has learning rate 0 when there is a warm-up.

    Args:
      own_rate: the learning rate of one of world model, actor and critic, in the place of the common one.
    """
    peak = own_rate or config.learning_rate
    rate = optax.linear_schedule(0.0, peak, config.warmup) if config.warmup else optax.constant_schedule(peak)
    steps = []
    if config.agc:
        steps.append(clip_by_tensor_norm(config.agc, config.agc_min))
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
