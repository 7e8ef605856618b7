"""Linen layers: encoder, RSSM cell, decoder and heads (V3). Parameters and layers only: no scans, no losses.

Parameters are float32; `dtype` is the compute dtype of matmuls and activations. Norms reduce in float32.
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
from dreamer_jax.spaces import ActionSpec, ObsSpec, ObsSpecs
from dreamer_jax.types import Params

Dtype = Any
Specs = tuple[tuple[str, ObsSpec], ...]  # (key, what it holds), sorted

IMAGE_MULTS = (2, 3, 4, 4)  # channels of the four levels of encoder and decoder, in units of `depth`
IMAGE_FACTOR = 2 ** len(IMAGE_MULTS)
DECODER_BLOCKS = 8
CPU_IMAGES = 64  # that a CPU convolves at once


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
    """RMSNorm over the last axis (float32, epsilon 1e-4 inside the root), then SiLU."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.silu(nn.RMSNorm(epsilon=1e-4, dtype=self.dtype, name="norm")(x))


class MLP(nn.Module):
    """`layers` times Linear -> RMSNorm -> SiLU."""

    layers: int
    units: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.layers):
            x = Linear(self.units, dtype=self.dtype, name=f"linear{i}")(x)
            x = NormAct(self.dtype, name=f"act{i}")(x)
        return x


class RSSM(nn.Module):
    """Recurrent state-space model with a block-diagonal GRU (V3): sizes as in `ModelConfig`."""

    config: ModelConfig
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        c, dtype = self.config, self.dtype
        self.deter_in = MLP(1, c.hidden, dtype)
        self.stoch_in = MLP(1, c.hidden, dtype)
        self.action_in = MLP(1, c.hidden, dtype)
        self.recurrent = [BlockLinear(c.deter, c.blocks, dtype) for _ in range(c.recurrent_layers)]
        self.recurrent_act = [NormAct(dtype) for _ in range(c.recurrent_layers)]
        self.gates = BlockLinear(3 * c.deter, c.blocks, dtype)
        self.prior_mlp = MLP(c.prior_layers, c.hidden, dtype)
        self.prior_logits = Linear(c.stoch * c.classes, dtype=dtype)
        self.posterior_mlp = MLP(c.posterior_layers, c.hidden, dtype)
        self.posterior_logits = Linear(c.stoch * c.classes, dtype=dtype)

    def core(self, deter: jax.Array, stoch: jax.Array, action: jax.Array) -> jax.Array:
        """h' = f(h, z, a): deter [.., D], stoch [.., S, K], action [.., A] -> deter [.., D].

        The three gates are split inside each block, and the reset gate multiplies the candidate's pre-activation.
        """
        action = action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))
        inputs = jnp.concatenate(
            [self.deter_in(deter), self.stoch_in(flatten_stoch(stoch)), self.action_in(action)], -1
        )  # [.., 3U]
        deter = deter.astype(self.dtype)
        x, shared = deter, inputs  # the first layer alone sees the inputs
        for linear, act in zip(self.recurrent, self.recurrent_act, strict=True):
            x, shared = act(jnp.concatenate(linear(x, shared), -1)), None  # [.., D]
        new = []
        for gates, old in zip(self.gates(x), jnp.split(deter, self.config.blocks, axis=-1), strict=True):
            reset, candidate, update = jnp.split(gates, 3, axis=-1)
            candidate = jnp.tanh(nn.sigmoid(reset) * candidate)
            update = nn.sigmoid(update - 1)
            new.append(update * candidate + (1 - update) * old)
        return jnp.concatenate(new, -1)

    def prior(self, deter: jax.Array) -> jax.Array:
        """deter [.., D] -> prior logits [.., S, K]."""
        return self._to_logits(self.prior_logits(self.prior_mlp(deter)))

    def posterior(self, deter: jax.Array, embed: jax.Array) -> jax.Array:
        """deter [.., D], embed [.., E] -> posterior logits [.., S, K]. It does not see the prior."""
        x = jnp.concatenate([deter.astype(self.dtype), embed.astype(self.dtype)], -1)
        return self._to_logits(self.posterior_logits(self.posterior_mlp(x)))

    def _to_logits(self, x: jax.Array) -> jax.Array:
        return x.reshape((*x.shape[:-1], self.config.stoch, self.config.classes))

    def __call__(self, deter: jax.Array, stoch: jax.Array, action: jax.Array, embed: jax.Array) -> None:
        """Touches every parameter; for `init`."""
        deter = self.core(deter, stoch, action)
        self.prior(deter)
        self.posterior(deter, embed)


class ImageEncoder(nn.Module):
    """Images uint8 [.., H, W, C] -> [.., E]: four times convolution -> 2x2 max-pool -> RMSNorm -> SiLU.

    Sizes that are no multiple of 16 are padded by repeating the edge.
    """

    depth: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        batch, (height, width, channels) = images.shape[:-3], images.shape[-3:]
        x = images.reshape((-1, height, width, channels)).astype(self.dtype) / 255 - 0.5
        x = jnp.pad(x, ((0, 0), (0, -height % IMAGE_FACTOR), (0, -width % IMAGE_FACTOR), (0, 0)), mode="edge")
        for i, mult in enumerate(IMAGE_MULTS):
            x = ImageConv(self.depth * mult, False, self.dtype, name=f"conv{i}")(x)
            rows, height, width, channels = x.shape
            x = x.reshape((rows, height // 2, 2, width // 2, 2, channels)).max((2, 4))
            x = NormAct(self.dtype, name=f"act{i}")(x)
        return x.reshape((*batch, -1))  # in (H, W, C) order


class ImageDecoder(nn.Module):
    """deter [.., D], stoch [.., S, K] -> images [.., H, W, C] in [0, 1].

    The smallest map comes from both parts of the latent: a block-diagonal layer on deter, whose blocks become groups of
    channels, plus an MLP on stoch. Then four times nearest-neighbour doubling and a convolution.
    """

    shape: tuple[int, int, int]
    depth: int
    units: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, deter: jax.Array, stoch: jax.Array) -> jax.Array:
        height, width, channels = self.shape
        rows, columns = -(-height // IMAGE_FACTOR), -(-width // IMAGE_FACTOR)
        maps = self.depth * IMAGE_MULTS[-1]
        deter = deter.reshape((-1, deter.shape[-1]))
        flat = flatten_stoch(stoch).reshape((deter.shape[0], -1))

        blocks = BlockLinear(rows * columns * maps, DECODER_BLOCKS, self.dtype, name="deter_map")(deter)
        x = jnp.concatenate([block.reshape((-1, rows, columns, maps // DECODER_BLOCKS)) for block in blocks], -1)
        y = MLP(1, 2 * self.units, self.dtype, name="stoch_mlp")(flat)
        x += Linear(rows * columns * maps, dtype=self.dtype, name="stoch_map")(y).reshape(x.shape)
        x = NormAct(self.dtype, name="map_act")(x)
        for i, mult in reversed(tuple(enumerate(IMAGE_MULTS[:-1]))):
            x = ImageConv(self.depth * mult, True, self.dtype, name=f"conv{i}")(x)
            x = NormAct(self.dtype, name=f"act{i}")(x)
        x = nn.sigmoid(ImageConv(channels, True, self.dtype, name="image")(x))
        return x[:, :height, :width].reshape((*stoch.shape[:-2], *self.shape))


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

    Vectors (symlog) and indices (one-hot) together go through an MLP, images through a CNN for each size.
    """

    specs: Specs
    config: ModelConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, obs: dict[str, jax.Array]) -> jax.Array:
        vectors, tokens = [], []
        for name, spec in self.specs:
            if spec.kind == "discrete":
                vectors.append(nn.one_hot(obs[name], spec.classes))
            elif spec.kind == "vector":
                batch = obs[name].shape[: obs[name].ndim - len(spec.shape)]
                vectors.append(symlog(obs[name].astype(jnp.float32)).reshape((*batch, -1)))
        if vectors:
            x = jnp.concatenate(vectors, -1)
            tokens.append(MLP(self.config.encoder_layers, self.config.units, self.dtype, name="mlp")(x))
        for (height, width), names in image_groups(self.specs).items():
            images = jnp.concatenate([obs[name] for name in names], -1)
            tokens.append(ImageEncoder(self.config.depth, self.dtype, name=f"cnn_{height}x{width}")(images))
        return jnp.concatenate(tokens, -1)


class Decoder(nn.Module):
    """Latent [.., D], [.., S, K] -> {name: prediction}: symlog vectors and images in [0, 1] [.., *shape], index logits.

    The input order of the MLP is stoch, deter: the opposite of the heads' (as in the author's code).
    """

    specs: Specs
    config: ModelConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, deter: jax.Array, stoch: jax.Array) -> dict[str, jax.Array]:
        c, predictions = self.config, {}
        flat = {name: spec for name, spec in self.specs if spec.kind != "image"}
        if flat:
            x = jnp.concatenate([flatten_stoch(stoch).astype(self.dtype), deter.astype(self.dtype)], -1)
            x = MLP(c.decoder_layers, c.units, self.dtype, name="mlp")(x)
            for name, spec in flat.items():
                size = spec.classes if spec.kind == "discrete" else math.prod(spec.shape)
                shape = (size,) if spec.kind == "discrete" else spec.shape
                predictions[name] = Linear(size, dtype=self.dtype, name=name)(x).reshape((*x.shape[:-1], *shape))
        channels = {name: spec.shape[-1] for name, spec in self.specs if spec.kind == "image"}
        for (height, width), names in image_groups(self.specs).items():
            shape = (height, width, sum(channels[name] for name in names))
            images = ImageDecoder(shape, c.depth, c.units, self.dtype, name=f"cnn_{height}x{width}")(deter, stoch)
            ends = list(itertools.accumulate(channels[name] for name in names))[:-1]
            predictions |= dict(zip(names, jnp.split(images, ends, -1), strict=True))
        return predictions


class Head(nn.Module):
    """Features [.., F] -> {output name: [.., size]}: an MLP and one Linear an output."""

    outputs: tuple[tuple[str, int], ...]
    layers: int
    units: int
    scale: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> dict[str, jax.Array]:
        x = MLP(self.layers, self.units, self.dtype, name="mlp")(features)
        return {name: Linear(size, self.scale, self.dtype, name=name)(x) for name, size in self.outputs}


@dataclass(frozen=True)
class Networks:
    """Every module of an agent. Built once; holds no parameters.

    `obs_specs` has the keys that the encoder or the decoder uses: what the replay has to hold.
    """

    encoder: Encoder
    rssm: RSSM
    decoder: Decoder
    reward: Head
    continue_: Head
    actor: Head
    critic: Head
    obs_specs: ObsSpecs
    action_spec: ActionSpec
    dtype: Dtype


def build_networks(config: ModelConfig, obs_specs: ObsSpecs, action_spec: ActionSpec, dtype: Dtype) -> Networks:
    """Builds the modules for an environment's spaces; keys are used in sorted order.

    Raises:
      ConfigError: `encoder_keys` or `decoder_keys` takes no key, an image is too small for the layers, or images are decoded
        from a `deter` that is no multiple of 8.
    """
    encoded = _select(obs_specs, config.encoder_keys, "encoder")
    decoded = _select(obs_specs, config.decoder_keys, "decoder")
    if image_groups(decoded) and config.deter % DECODER_BLOCKS:
        raise ConfigError(f"model.deter={config.deter} is not a multiple of {DECODER_BLOCKS}, which decoding images needs")
    two_hot = (("logits", config.bins),)
    size = action_spec.size
    policy = (("logits", size),) if action_spec.discrete else (("mean", size), ("std", size))
    return Networks(
        encoder=Encoder(encoded, config, dtype),
        rssm=RSSM(config, dtype),
        decoder=Decoder(decoded, config, dtype),
        reward=Head(two_hot, config.reward_layers, config.units, 0.0, dtype),
        continue_=Head((("logit", 1),), config.continue_layers, config.units, 1.0, dtype),
        actor=Head(policy, config.actor_layers, config.units, 0.01, dtype),
        critic=Head(two_hot, config.critic_layers, config.units, 0.0, dtype),
        obs_specs=dict(sorted({**dict(encoded), **dict(decoded)}.items())),
        action_spec=action_spec,
        dtype=dtype,
    )


def _select(obs_specs: ObsSpecs, pattern: str, part: str) -> Specs:
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
    return chosen


def key_layers(nets: Networks) -> dict[str, tuple[str, str]]:
    """{observation key: (its layers in the encoder, its layers in the decoder)}, "-" where it is not used."""

    def layers(specs: Specs, name: str) -> str:
        spec = dict(specs).get(name)
        if spec is None:
            return "-"
        return f"cnn {spec.shape[0]}x{spec.shape[1]}" if spec.kind == "image" else "mlp"

    return {name: (layers(nets.encoder.specs, name), layers(nets.decoder.specs, name)) for name in nets.obs_specs}


def apply(module: nn.Module, params: Params, *inputs: Any, method: str | None = None) -> Any:
    """Runs a module, or one of its methods, with a parameter tree."""
    return module.apply({"params": params}, *inputs, method=method)


def flatten_stoch(stoch: jax.Array) -> jax.Array:
    """[.., S, K] -> [.., S*K]."""
    return stoch.reshape((*stoch.shape[:-2], -1))
