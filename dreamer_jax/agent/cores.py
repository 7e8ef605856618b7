"""Recurrent cores h' = f(h, z, a): `model.core`. deter [.., D], stoch [.., S], action [.., A] -> deter [.., D]."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.agent.layers import MLP, BlockLinear, Linear, NormAct, Style
from dreamer_jax.core.algorithm import ModelConfig


class BlockGRU(nn.Module):
    """V3's recurrent core, h' = f(h, z, a): a block-diagonal GRU with norms."""

    config: ModelConfig
    style: Style

    @nn.compact
    def __call__(self, deter: jax.Array, stoch: jax.Array, action: jax.Array) -> jax.Array:
        """The three gates are split inside each block. The layout says up to how many rows all blocks are computed at once."""
        c, dtype = self.config, self.style.dtype
        action = action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))
        parts = {"deter_in": deter, "stoch_in": stoch, "action_in": action}
        inputs = jnp.concatenate([MLP(1, c.hidden, self.style, name=name)(x) for name, x in parts.items()], -1)  # [.., 3U]
        deter = deter.astype(dtype)
        x, shared = deter, inputs  # the first layer alone sees the inputs
        for i in range(c.recurrent_layers):
            x = BlockLinear(c.deter, c.blocks, dtype, name=f"recurrent_{i}")(x, shared)
            x, shared = NormAct(self.style, name=f"recurrent_act_{i}")(x), None  # [.., D]
        gates = BlockLinear(3 * c.deter, c.blocks, dtype, name="gates")
        if deter.size // c.deter > self.style.layout.joint_gates_max_rows:
            pairs = zip(gates.by_block(x), jnp.split(deter, c.blocks, axis=-1), strict=True)
            return jnp.concatenate([_gate(*pair) for pair in pairs], -1)
        blocks = (*deter.shape[:-1], c.blocks, -1)
        return _gate(gates(x).reshape(blocks), deter.reshape(blocks)).reshape(deter.shape)


class LayerNormGRU(nn.Module):
    """V2's recurrent core: one dense layer on inputs and h, a LayerNorm over all three gates."""

    config: ModelConfig
    style: Style

    @nn.compact
    def __call__(self, deter: jax.Array, stoch: jax.Array, action: jax.Array) -> jax.Array:
        c, dtype = self.config, self.style.dtype
        deter = deter.astype(dtype)
        x = jnp.concatenate([stoch.astype(dtype), action.astype(dtype)], -1)
        x = jnp.concatenate([MLP(1, c.hidden, self.style, name="inputs")(x), deter], -1)
        gates = Linear(3 * c.deter, dtype=dtype, name="gates")(x)
        gates = nn.LayerNorm(epsilon=1e-3, dtype=dtype, name="norm")(gates)
        return _gate(gates, deter)


class GRU(nn.Module):
    """The recurrent core of PlaNet and V1: a hidden layer, then a standard GRU."""

    config: ModelConfig
    style: Style

    @nn.compact
    def __call__(self, deter: jax.Array, stoch: jax.Array, action: jax.Array) -> jax.Array:
        c, dtype = self.config, self.style.dtype
        x = jnp.concatenate([stoch.astype(dtype), action.astype(dtype)], -1)
        x = MLP(1, c.hidden, self.style, name="inputs")(x)
        new, _ = nn.GRUCell(c.deter, dtype=dtype, name="gru")(deter.astype(dtype), x)
        return new


class Feedforward(nn.Module):
    """No memory: a hidden layer on the previous latent and action. The simplest model of what comes next."""

    config: ModelConfig
    style: Style

    @nn.compact
    def __call__(self, deter: jax.Array, stoch: jax.Array, action: jax.Array) -> jax.Array:
        x = jnp.concatenate([stoch.astype(self.style.dtype), action.astype(self.style.dtype)], -1)
        return MLP(1, deter.shape[-1], self.style, name="inputs")(x)


def _gate(gates: jax.Array, old: jax.Array) -> jax.Array:
    """V2's and V3's GRU from its three gates [.., 3D] and the old state [.., D] -> [.., D].

    The reset gate multiplies the candidate's pre-activation; the update gate has a bias of -1.
    """
    reset, candidate, update = jnp.split(gates, 3, axis=-1)
    candidate = jnp.tanh(nn.sigmoid(reset) * candidate)
    update = nn.sigmoid(update - 1)
    return update * candidate + (1 - update) * old


CORES = {"block_gru": BlockGRU, "layer_norm_gru": LayerNormGRU, "gru": GRU, "feedforward": Feedforward}
