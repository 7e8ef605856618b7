"""Linen layers: encoder, RSSM, decoder and heads. Parameters and layers only: no scans, no losses.

Parameters are float32; a style's dtype is the compute dtype of matmuls and activations. Norms reduce in float32.
"""

import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.config import ConfigError, ModelConfig
from dreamer_jax.distributions import symlog
from dreamer_jax.latents import Latent, make_latent
from dreamer_jax.spaces import ActionSpec, ObsSpec, ObsSpecs
from dreamer_jax.types import Params

Dtype = Any
Specs = tuple[tuple[str, ObsSpec], ...]  # (key, what it holds), sorted

IMAGE_MULTS = (2, 3, 4, 4)  # V3: channels of the four levels of encoder and decoder, in units of `depth`
IMAGE_FACTOR = 2 ** len(IMAGE_MULTS)
DECODER_BLOCKS = 8
PROTOTYPE_SIZE = 32
CPU_IMAGES = 64  # that a CPU convolves at once
STRIDED_MULTS = (1, 2, 4, 8)  # V1 and V2: channels of the four strided convolutions
STRIDED_KERNELS = (5, 5, 6, 6)  # and the kernels of the four transposed ones, which give 64x64

ACTIVATIONS = {"silu": nn.silu, "elu": nn.elu, "relu": nn.relu}


@dataclass(frozen=True)
class Style:
    """What the hidden layers have in common: norm, activation and compute dtype. V3's by default."""

    norm: str = "rms"
    activation: str = "silu"
    dtype: Dtype = jnp.float32


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

    @nn.compact
    def __call__(self, x: jax.Array, shared: jax.Array | None = None) -> list[jax.Array]:
        """Returns the output of each block, [.., features / blocks]: what follows works inside a block."""
        size_own, size_out = x.shape[-1] // self.blocks, self.features // self.blocks
        size_shared = 0 if shared is None else shared.shape[-1]
        kernel = self.param("kernel", kernel_init(in_axis=(0, 1)), (self.blocks, size_own + size_shared, size_out))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, offset = x.astype(self.dtype), kernel.astype(self.dtype), bias.astype(self.dtype)
        if shared is not None:
            # One product for all blocks, where a copy of `shared` beside each slice would take as many.
            common = kernel[:, size_own:].swapaxes(0, 1).reshape(size_shared, self.features)
            offset = shared.astype(self.dtype) @ common + offset
        parts, offsets = jnp.split(x, self.blocks, axis=-1), jnp.split(offset, self.blocks, axis=-1)
        return [part @ kernel[i, :size_own] + offsets[i] for i, part in enumerate(parts)]


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


class BlockGRU(nn.Module):
    """V3's recurrent core, h' = f(h, z, a): a block-diagonal GRU with norms."""

    config: ModelConfig
    style: Style

    @nn.compact
    def __call__(self, deter: jax.Array, stoch: jax.Array, action: jax.Array) -> jax.Array:
        """The three gates are split inside each block, and the reset gate multiplies the candidate's pre-activation."""
        c, dtype = self.config, self.style.dtype
        action = action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))
        parts = {"deter_in": deter, "stoch_in": stoch, "action_in": action}
        inputs = jnp.concatenate([MLP(1, c.hidden, self.style, name=name)(x) for name, x in parts.items()], -1)  # [.., 3U]
        deter = deter.astype(dtype)
        x, shared = deter, inputs  # the first layer alone sees the inputs
        for i in range(c.recurrent_layers):
            x = BlockLinear(c.deter, c.blocks, dtype, name=f"recurrent_{i}")(x, shared)
            x, shared = NormAct(self.style, name=f"recurrent_act_{i}")(jnp.concatenate(x, -1)), None  # [.., D]
        new = []
        for gates, old in zip(
            BlockLinear(3 * c.deter, c.blocks, dtype, name="gates")(x), jnp.split(deter, c.blocks, axis=-1), strict=True
        ):
            reset, candidate, update = jnp.split(gates, 3, axis=-1)
            candidate = jnp.tanh(nn.sigmoid(reset) * candidate)
            update = nn.sigmoid(update - 1)
            new.append(update * candidate + (1 - update) * old)
        return jnp.concatenate(new, -1)


class LayerNormGRU(nn.Module):
    """V2's recurrent core: one dense layer on inputs and h, a LayerNorm over all three gates, update bias -1."""

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
        reset, candidate, update = jnp.split(gates, 3, axis=-1)
        candidate = jnp.tanh(nn.sigmoid(reset) * candidate)
        update = nn.sigmoid(update - 1)
        return update * candidate + (1 - update) * deter


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


CORES = {"block_gru": BlockGRU, "layer_norm_gru": LayerNormGRU, "gru": GRU, "feedforward": Feedforward}


class RSSM(nn.Module):
    """Recurrent state-space model: a deterministic core, and a prior and a posterior over the latent."""

    config: ModelConfig
    outputs: int  # of prior and posterior, see latents.py
    style: Style

    def setup(self) -> None:
        c, style = self.config, self.style
        self.cell = CORES[c.core](c, style)
        self.prior_mlp = MLP(c.prior_layers, c.hidden, style)
        self.prior_out = Linear(self.outputs, dtype=style.dtype)
        self.posterior_mlp = MLP(c.posterior_layers, c.hidden, style)
        self.posterior_out = Linear(self.outputs, dtype=style.dtype)

    def core(self, deter: jax.Array, stoch: jax.Array, action: jax.Array) -> jax.Array:
        """h' = f(h, z, a): deter [.., D], stoch [.., S, K] or [.., S], action [.., A] -> deter [.., D]."""
        return self.cell(deter, flatten_stoch(deter, stoch), action)

    def prior(self, deter: jax.Array) -> jax.Array:
        """deter [.., D] -> the prior's outputs [.., O]."""
        return self.prior_out(self.prior_mlp(deter))

    def posterior(self, deter: jax.Array, embed: jax.Array) -> jax.Array:
        """deter [.., D], embed [.., E] -> the posterior's outputs [.., O]. It does not see the prior.

        Without memory (the feedforward core) it sees the embedding alone.
        """
        x = embed.astype(self.style.dtype)
        if self.config.core != "feedforward":
            x = jnp.concatenate([deter.astype(self.style.dtype), x], -1)
        return self.posterior_out(self.posterior_mlp(x))

    def __call__(self, deter: jax.Array, stoch: jax.Array, action: jax.Array, embed: jax.Array) -> None:
        """Touches every parameter; for `init`."""
        deter = self.core(deter, stoch, action)
        self.prior(deter)
        self.posterior(deter, embed)


class ImageEncoder(nn.Module):
    """Images uint8 [.., H, W, C] -> [.., E]: four times convolution -> 2x2 max-pool -> norm -> activation (V3).

    Sizes that are no multiple of 16 are padded by repeating the edge.
    """

    depth: int
    style: Style = Style()

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        batch, (height, width, channels) = images.shape[:-3], images.shape[-3:]
        x = images.reshape((-1, height, width, channels)).astype(self.style.dtype) / 255 - 0.5
        x = jnp.pad(x, ((0, 0), (0, -height % IMAGE_FACTOR), (0, -width % IMAGE_FACTOR), (0, 0)), mode="edge")
        for i, mult in enumerate(IMAGE_MULTS):
            x = ImageConv(self.depth * mult, False, self.style.dtype, name=f"conv{i}")(x)
            rows, height, width, channels = x.shape
            x = x.reshape((rows, height // 2, 2, width // 2, 2, channels)).max((2, 4))
            x = NormAct(self.style, name=f"act{i}")(x)
        return x.reshape((*batch, -1))  # in (H, W, C) order


class ImageDecoder(nn.Module):
    """deter [.., D], stoch of the same state -> images [.., H, W, C] in [0, 1] (V3).

    The smallest map comes from both parts of the latent: a block-diagonal layer on deter, whose blocks become groups of
    channels, plus an MLP on stoch. Then four times nearest-neighbour doubling and a convolution.
    """

    shape: tuple[int, int, int]
    depth: int
    units: int
    style: Style = Style()

    @nn.compact
    def __call__(self, deter: jax.Array, stoch: jax.Array) -> jax.Array:
        height, width, channels = self.shape
        rows, columns = -(-height // IMAGE_FACTOR), -(-width // IMAGE_FACTOR)
        maps, dtype, batch = self.depth * IMAGE_MULTS[-1], self.style.dtype, deter.shape[:-1]
        stoch = flatten_stoch(deter, stoch)
        deter, stoch = deter.reshape((-1, deter.shape[-1])), stoch.reshape((-1, stoch.shape[-1]))

        blocks = BlockLinear(rows * columns * maps, DECODER_BLOCKS, dtype, name="deter_map")(deter)
        x = jnp.concatenate([block.reshape((-1, rows, columns, maps // DECODER_BLOCKS)) for block in blocks], -1)
        y = MLP(1, 2 * self.units, self.style, name="stoch_mlp")(stoch)
        x += Linear(rows * columns * maps, dtype=dtype, name="stoch_map")(y).reshape(x.shape)
        x = NormAct(self.style, name="map_act")(x)
        for i, mult in reversed(tuple(enumerate(IMAGE_MULTS[:-1]))):
            x = ImageConv(self.depth * mult, True, dtype, name=f"conv{i}")(x)
            x = NormAct(self.style, name=f"act{i}")(x)
        x = nn.sigmoid(ImageConv(channels, True, dtype, name="image")(x))
        return x[:, :height, :width].reshape((*batch, *self.shape))


class StridedImageEncoder(nn.Module):
    """Images uint8 [.., 64, 64, C] -> [.., 32 * depth]: four 4x4 convolutions, stride 2, no padding (PlaNet, V1, V2)."""

    depth: int
    style: Style

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.reshape((-1, *images.shape[-3:])).astype(self.style.dtype) / 255 - 0.5
        for i, mult in enumerate(STRIDED_MULTS):
            x = nn.Conv(
                self.depth * mult,
                (4, 4),
                2,
                padding="VALID",
                dtype=self.style.dtype,
                kernel_init=kernel_init(),
                name=f"conv{i}",
            )(x)
            x = NormAct(self.style, name=f"act{i}")(x)
        return x.reshape((*images.shape[:-3], -1))


class StridedImageDecoder(nn.Module):
    """deter [.., D], stoch of the same state -> images [.., 64, 64, C], not bounded to [0, 1] (PlaNet, V1, V2).

    One dense layer makes a 1x1 map; four transposed convolutions with stride 2 and no padding make the image.
    """

    channels: int
    depth: int
    style: Style

    @nn.compact
    def __call__(self, deter: jax.Array, stoch: jax.Array) -> jax.Array:
        dtype = self.style.dtype
        x = jnp.concatenate([deter.astype(dtype), flatten_stoch(deter, stoch).astype(dtype)], -1)
        x = Linear(32 * self.depth, dtype=dtype, name="map")(x).reshape((-1, 1, 1, 32 * self.depth))
        layers = (*(self.depth * mult for mult in reversed(STRIDED_MULTS[:-1])), self.channels)
        for i, (channels, size) in enumerate(zip(layers, STRIDED_KERNELS, strict=True)):
            x = nn.ConvTranspose(
                channels,
                (size, size),
                (2, 2),
                padding="VALID",
                dtype=dtype,
                kernel_init=kernel_init(in_axis=-1),
                transpose_kernel=True,
                name=f"conv{i}",
            )(x)
            if i + 1 < len(layers):
                x = NormAct(self.style, name=f"act{i}")(x)
        return (x + 0.5).reshape((*deter.shape[:-1], *x.shape[-3:]))


class ImageConv(nn.Module):
    """V3's 5x5 convolution, stride 1, SAME padding, with bias: x [N, H, W, C] -> [N, H, W, channels].

    `doubled` convolves the nearest-neighbour doubling of x instead -> [N, 2H, 2W, channels]. It is never made: under each of
    the four pixels that come from one lie 3x3 pixels of x, so four 3x3 kernels on x give the same with a third of the products.
    """

    channels: int
    doubled: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", kernel_init(), (5, 5, x.shape[-1], self.channels)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.channels,)).astype(self.dtype)
        x = x.astype(self.dtype)
        if not self.doubled:
            return convolve(x, kernel) + bias
        # [2, 3, 5]: which of the 3 pixels of x lies under each of the kernel's 5, seen from the even and the odd pixel.
        under = np.array([[[(parity + tap - 2) // 2 + 1 == i for tap in range(5)] for i in range(3)] for parity in range(2)])
        under = under.astype(self.dtype)
        kernels = jnp.einsum("piy,qjx,yxco->ijcpqo", under, under, kernel).reshape((3, 3, x.shape[-1], -1))
        rows, height, width, _ = x.shape
        pixels = convolve(x, kernels).reshape((rows, height, width, 2, 2, self.channels))
        return pixels.swapaxes(2, 3).reshape((rows, 2 * height, 2 * width, self.channels)) + bias


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """SAME convolution with stride 1 of x [N, H, W, C] with a kernel [h, w, C, O].

    On a CPU some images at a time: XLA's gradient of the kernel takes up to four times as long on a thousand at once.
    """

    def at_once(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def in_parts(x: jax.Array, kernel: jax.Array) -> jax.Array:
        parts = jnp.split(x, list(range(CPU_IMAGES, x.shape[0], CPU_IMAGES)))
        return jnp.concatenate([at_once(part, kernel) for part in parts])

    return jax.lax.platform_dependent(x, kernel, cpu=in_parts, default=at_once)


def image_groups(specs: Specs) -> dict[tuple[int, int], list[str]]:
    """Image keys by (height, width): those of one size are stacked on channels, in sorted order."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name, spec in specs:
        if spec.kind == "image":
            groups.setdefault((spec.shape[0], spec.shape[1]), []).append(name)
    return groups


class Encoder(nn.Module):
    """Observations {name: [.., *shape]} -> tokens [.., E].

    Vectors (through symlog where the model uses it) and indices (one-hot) together go through an MLP, images through a CNN for
    each size.
    """

    specs: Specs
    config: ModelConfig
    style: Style
    image_style: Style

    @nn.compact
    def __call__(self, obs: dict[str, jax.Array]) -> jax.Array:
        c, vectors, tokens = self.config, [], []
        for name, spec in self.specs:
            if spec.kind == "discrete":
                vectors.append(nn.one_hot(obs[name], spec.classes))
            elif spec.kind == "vector":
                batch = obs[name].shape[: obs[name].ndim - len(spec.shape)]
                vector = obs[name].astype(jnp.float32)
                vectors.append((symlog(vector) if c.symlog else vector).reshape((*batch, -1)))
        if vectors:
            tokens.append(MLP(c.encoder_layers, c.units, self.style, name="mlp")(jnp.concatenate(vectors, -1)))
        layer = StridedImageEncoder if c.cnn == "strided" else ImageEncoder
        for (height, width), names in image_groups(self.specs).items():
            images = jnp.concatenate([obs[name] for name in names], -1)
            tokens.append(layer(c.depth, self.image_style, name=f"cnn_{height}x{width}")(images))
        return jnp.concatenate(tokens, -1)


class Decoder(nn.Module):
    """deter [.., D], stoch of the same state -> {name: prediction}: vectors (in symlog space where the model uses it) and
    images [.., *shape], index logits.

    The input order of the MLP is stoch, deter: the opposite of the heads' (as in the author's code).
    """

    specs: Specs
    config: ModelConfig
    style: Style
    image_style: Style

    @nn.compact
    def __call__(self, deter: jax.Array, stoch: jax.Array) -> dict[str, jax.Array]:
        c, dtype, predictions = self.config, self.style.dtype, {}
        flat = {name: spec for name, spec in self.specs if spec.kind != "image"}
        if flat:
            x = jnp.concatenate([flatten_stoch(deter, stoch).astype(dtype), deter.astype(dtype)], -1)
            x = MLP(c.decoder_layers, c.units, self.style, name="mlp")(x)
            for name, spec in flat.items():
                size = spec.classes if spec.kind == "discrete" else math.prod(spec.shape)
                shape = (size,) if spec.kind == "discrete" else spec.shape
                predictions[name] = Linear(size, dtype=dtype, name=name)(x).reshape((*x.shape[:-1], *shape))
        channels = {name: spec.shape[-1] for name, spec in self.specs if spec.kind == "image"}
        for (height, width), names in image_groups(self.specs).items():
            name, total = f"cnn_{height}x{width}", sum(channels[name] for name in names)
            if c.cnn == "strided":
                layer = StridedImageDecoder(total, c.depth, self.image_style, name=name)
            else:
                layer = ImageDecoder((height, width, total), c.depth, c.units, self.image_style, name=name)
            ends = list(itertools.accumulate(channels[name] for name in names))[:-1]
            predictions |= dict(zip(names, jnp.split(layer(deter, stoch), ends, -1), strict=True))
        return predictions


class Head(nn.Module):
    """Features [.., F] -> {output name: [.., size]}: an MLP and one Linear an output."""

    outputs: tuple[tuple[str, int], ...]
    layers: int
    units: int
    scale: float
    style: Style

    @nn.compact
    def __call__(self, features: jax.Array) -> dict[str, jax.Array]:
        x = MLP(self.layers, self.units, self.style, name="mlp")(features)
        return {name: Linear(size, self.scale, self.style.dtype, name=name)(x) for name, size in self.outputs}


class Projection(nn.Module):
    """Features [.., F] -> [.., E], as many numbers as the embedding [.., E] has; no bias."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, embed: jax.Array) -> jax.Array:
        kernel = self.param("kernel", kernel_init(), (features.shape[-1], embed.shape[-1]))
        return features.astype(self.dtype) @ kernel.astype(self.dtype)


class Prototypes(nn.Module):
    """K prototypes of P numbers, and linear projections of embeddings and features to as many."""

    count: int
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        self.table = self.param("table", nn.initializers.normal(1.0), (self.count, PROTOTYPE_SIZE))
        self.observed = Linear(PROTOTYPE_SIZE, dtype=self.dtype)
        self.predicted = Linear(PROTOTYPE_SIZE, dtype=self.dtype)

    def __call__(self, embed: jax.Array, features: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Embedding [.., E], features [.., F] -> projections [.., P] of both, and the prototypes [K, P]."""
        return self.observed(embed), self.predicted(features), self.table

    def project_embed(self, embed: jax.Array) -> jax.Array:
        """[.., E] -> [.., P]"""
        return self.observed(embed)


@dataclass(frozen=True)
class Networks:
    """Every module of an agent. Built once; holds no parameters.

    `obs_specs` has the keys that the encoder or the decoder uses: what the replay has to hold. `continue_` is None where the
    discount is constant, `decoder`, `projection` and `prototypes` where the representation does without, `actor` and `critic`
    where a planner acts.
    """

    encoder: Encoder
    rssm: RSSM
    latent: Latent
    decoder: Decoder | None
    projection: Projection | None
    prototypes: Prototypes | None
    reward: Head
    continue_: Head | None
    actor: Head | None
    critic: Head | None
    obs_specs: ObsSpecs
    action_spec: ActionSpec
    dtype: Dtype


def build_networks(config: ModelConfig, obs_specs: ObsSpecs, action_spec: ActionSpec, dtype: Dtype) -> Networks:
    """Builds the modules for an environment's spaces; keys are used in sorted order.

    Raises:
      ConfigError: `encoder_keys` or `decoder_keys` takes no key, an image does not fit the layers, or images are decoded from a
        `deter` that is no multiple of 8.
    """
    encoded = _select(config, obs_specs, config.encoder_keys, "encoder")
    reconstructs = config.representation == "reconstruction"
    decoded = _select(config, obs_specs, config.decoder_keys, "decoder") if reconstructs else ()
    if config.cnn == "pooled" and image_groups(decoded) and config.deter % DECODER_BLOCKS:
        raise ConfigError(f"model.deter={config.deter} is not a multiple of {DECODER_BLOCKS}, which decoding images needs")
    style = Style(config.norm, config.activation, dtype)
    image_style = Style(config.norm, config.cnn_activation, dtype)
    # Two-hot heads begin at zero; the author's other heads do not.
    scalar, scale = ((("logits", config.bins),), 0.0) if config.scalar_heads == "two_hot" else ((("mean", 1),), 1.0)
    size = action_spec.size
    policy = (("logits", size),) if action_spec.discrete else (("mean", size), ("std", size))
    latent = make_latent(config)
    return Networks(
        encoder=Encoder(encoded, config, style, image_style),
        rssm=RSSM(config, latent.outputs, style),
        latent=latent,
        decoder=Decoder(decoded, config, style, image_style) if reconstructs else None,
        projection=Projection(dtype) if config.representation in ("contrastive", "redundancy") else None,
        prototypes=Prototypes(config.prototypes, dtype) if config.representation == "prototypes" else None,
        reward=Head(scalar, config.reward_layers, config.units, scale, style),
        continue_=Head((("logit", 1),), config.continue_layers, config.units, 1.0, style) if config.continue_head else None,
        actor=Head(policy, config.actor_layers, config.units, config.actor_scale, style) if config.actor_critic else None,
        critic=Head(scalar, config.critic_layers, config.units, scale, style) if config.actor_critic else None,
        obs_specs=dict(sorted({**dict(encoded), **dict(decoded)}.items())),
        action_spec=action_spec,
        dtype=dtype,
    )


def _select(config: ModelConfig, obs_specs: ObsSpecs, pattern: str, part: str) -> Specs:
    """The keys that a part of the world model works on."""
    chosen = tuple((name, spec) for name, spec in sorted(obs_specs.items()) if re.fullmatch(pattern, name))
    if obs_specs and not chosen:
        raise ConfigError(f"model.{part}_keys={pattern!r} takes none of the observation keys {', '.join(sorted(obs_specs))}")
    for name, spec in chosen:
        if spec.kind == "image" and min(spec.shape[:2]) < IMAGE_FACTOR:
            raise ConfigError(
                f"observation key {name!r} is an image of {spec.shape[0]}x{spec.shape[1]} pixels; at least "
                f"{IMAGE_FACTOR}x{IMAGE_FACTOR} are needed. Enlarge it with gymnasium.wrappers.ResizeObservation, or leave it "
                f"out with --model.encoder_keys and --model.decoder_keys"
            )
        if spec.kind == "image" and config.cnn == "strided" and spec.shape[:2] != (64, 64):
            raise ConfigError(
                f"observation key {name!r} is an image of {spec.shape[0]}x{spec.shape[1]} pixels; model.cnn=strided takes "
                "64x64. Resize it with gymnasium.wrappers.ResizeObservation, or choose --model.cnn pooled"
            )
    return chosen


def key_layers(nets: Networks) -> dict[str, tuple[str, str]]:
    """{observation key: (its layers in the encoder, its layers in the decoder)}, "-" where it is not used."""

    def layers(specs: Specs, name: str) -> str:
        spec = dict(specs).get(name)
        if spec is None:
            return "-"
        return f"cnn {spec.shape[0]}x{spec.shape[1]}" if spec.kind == "image" else "mlp"

    decoded = nets.decoder.specs if nets.decoder else ()
    return {name: (layers(nets.encoder.specs, name), layers(decoded, name)) for name in nets.obs_specs}


def apply(module: nn.Module | None, params: Params, *inputs: Any, method: str | None = None) -> Any:
    """Runs a module, or one of its methods, with a parameter tree; the caller knows that an optional one is there."""
    assert module is not None
    return module.apply({"params": params}, *inputs, method=method)


def flatten_stoch(deter: jax.Array, stoch: jax.Array) -> jax.Array:
    """stoch [.., S, K] or [.., S] of a state -> [.., S*K] or [.., S]."""
    return stoch.reshape((*deter.shape[:-1], -1))
