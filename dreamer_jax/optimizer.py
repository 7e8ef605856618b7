"""V3's optimiser as one optax chain: adaptive gradient clipping, then LaProp with a linear warm-up."""

import jax
import jax.numpy as jnp
import optax

from dreamer_jax.config import OptimizerConfig


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
    return jnp.sqrt(jnp.vdot(x, x, precision="highest"))


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """AGC -> RMS scaling -> momentum -> learning rate (LaProp: momentum comes after the RMS scaling).

    Both averages are bias-corrected. The very first update has learning rate 0 when there is a warm-up.
    """
    if config.warmup:
        rate = optax.linear_schedule(0.0, config.learning_rate, config.warmup)
    else:
        rate = optax.constant_schedule(config.learning_rate)
    return optax.chain(
        clip_by_tensor_norm(config.agc, config.agc_min),
        optax.scale_by_rms(decay=config.beta2, eps=config.eps, eps_in_sqrt=False, bias_correction=True),
        optax.ema(config.beta1, debias=True),
        optax.scale_by_learning_rate(rate),
    )
