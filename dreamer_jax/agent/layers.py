"""Layers that all networks are built from: linear ones, norms, MLPs, and what their parameters begin as.

Parameters are float32; a style's dtype is the compute dtype of matmuls and activations. Norms reduce in float32.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.agent.layout import ACCELERATOR, Layout

Dtype = Any

ACTIVATIONS = {"silu": nn.silu, "elu": nn.elu, "relu": nn.relu}


@dataclass(frozen=True)
class Style:
    """What the hidden layers have in common: norm, activation, compute dtype and layout.

    The defaults are V3's norm and activation, and the layout that computes everything at once.
    """

    norm: str = "rms"
    activation: str = "silu"
    dtype: Dtype = jnp.float32
    layout: Layout = ACCELERATOR


def kernel_init(scale: float = 1.0, in_axis: int | tuple[int, ...] = -2) -> nn.initializers.Initializer:
    """Truncated normal on [-2, 2] deviations with standard deviation scale / sqrt(fan_in); zeros for scale 0."""
    if scale == 0:
        return nn.initializers.zeros_init()
    return nn.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal", in_axis=in_axis)


class Linear(nn.Module):
    """x [.., in] -> [.., features], with bias."""

    features: int
    scale: float = 1.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", kernel_init(self.scale), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


class BlockLinear(nn.Module):
    """x [.., blocks * in], shared [.., C] -> [.., features]: one matrix [in + C, out] a block, one bias vector over all.

    Each block sees its own slice of x and all of `shared`. The fan-in of the initialisation is the input size of all blocks,
    as in the author's code.
    """

    features: int
    blocks: int
    dtype: Dtype = jnp.float32

    def __call__(self, x: jax.Array, shared: jax.Array | None = None) -> jax.Array:
        products, offset = self._products(x, shared)
        return jnp.concatenate(products, -1) + offset

    def by_block(self, x: jax.Array) -> list[jax.Array]:
        """The output of each block, [.., features / blocks], for what works inside a block."""
        products, offset = self._products(x, None)
        return [product + own for product, own in zip(products, jnp.split(offset, self.blocks), strict=True)]

    @nn.compact
    def _products(self, x: jax.Array, shared: jax.Array | None) -> tuple[list[jax.Array], jax.Array]:
        """Each block's product with its own slice, and what is to be added over all blocks."""
        size_own, size_out = x.shape[-1] // self.blocks, self.features // self.blocks
        size_shared = 0 if shared is None else shared.shape[-1]
        kernel = self.param("kernel", kernel_init(in_axis=(0, 1)), (self.blocks, size_own + size_shared, size_out))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, offset = x.astype(self.dtype), kernel.astype(self.dtype), bias.astype(self.dtype)
        if shared is not None:
            # One product for all blocks, where a copy of `shared` beside each slice would take as many.
            common = kernel[:, size_own:].swapaxes(0, 1).reshape(size_shared, self.features)
            offset = shared.astype(self.dtype) @ common + offset
        return [part @ kernel[i, :size_own] for i, part in enumerate(jnp.split(x, self.blocks, axis=-1))], offset


class NormAct(nn.Module):
    """RMSNorm over the last axis (float32, epsilon 1e-4 inside the root) where the style has a norm, then the activation."""

    style: Style = Style()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.style.norm == "rms":
            x = nn.RMSNorm(epsilon=1e-4, dtype=self.style.dtype, name="norm")(x)
        return ACTIVATIONS[self.style.activation](x)


class MLP(nn.Module):
    """`layers` times Linear -> norm -> activation."""

    layers: int
    units: int
    style: Style = Style()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.layers):
            x = Linear(self.units, dtype=self.style.dtype, name=f"linear{i}")(x)
            x = NormAct(self.style, name=f"act{i}")(x)
        return x


def flatten_stoch(deter: jax.Array, stoch: jax.Array) -> jax.Array:
    """stoch [.., S, K] or [.., S] of a state -> [.., S*K] or [.., S]."""
    return stoch.reshape((*deter.shape[:-1], -1))
