"""The networks of an agent: encoder, RSSM, decoder and heads. Parameters and layers only: no scans, no losses."""

import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.agent.convolutions import (
    DECODER_BLOCKS,
    IMAGE_FACTOR,
    ImageDecoder,
    ImageEncoder,
    StridedImageDecoder,
    StridedImageEncoder,
)
from dreamer_jax.agent.cores import CORES
from dreamer_jax.agent.distributions import symlog
from dreamer_jax.agent.latents import Latent, make_latent
from dreamer_jax.agent.layers import MLP, Dtype, Linear, Style, flatten_stoch, kernel_init
from dreamer_jax.agent.layout import Layout
from dreamer_jax.agent.types import Params
from dreamer_jax.core.algorithm import ModelConfig
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.spaces import ActionSpec, ObsSpec, ObsSpecs

Specs = tuple[tuple[str, ObsSpec], ...]  # (key, what it holds), sorted

PROTOTYPE_SIZE = 32


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
    """Every module of an agent, and how its programs are laid out. Built once; holds no parameters.

    `obs_specs` has the keys that the encoder or the decoder uses: what the replay has to hold. `continue_` is None where the
    discount is constant, `decoder`, `projection` and `prototypes` where the representation does without, `actor` and `critic`
    where a planner acts. `layout` is that of the device on which the programs will run; the modules have it too.
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
    layout: Layout


def build_networks(config: ModelConfig, obs_specs: ObsSpecs, action_spec: ActionSpec, dtype: Dtype, layout: Layout) -> Networks:
    """Builds the modules for an environment's spaces; keys are used in sorted order.

    Args:
      dtype: the compute dtype; parameters are float32.
      layout: that of the device on which the programs will run; see `layout_of`.

    Raises:
      ConfigError: `encoder_keys` or `decoder_keys` takes no key, an image does not fit the layers, or images are decoded from a
        `deter` that is no multiple of 8.
    """
    encoded = _select(config, obs_specs, config.encoder_keys, "encoder")
    reconstructs = config.representation == "reconstruction"
    decoded = _select(config, obs_specs, config.decoder_keys, "decoder") if reconstructs else ()
    if config.cnn == "pooled" and image_groups(decoded) and config.deter % DECODER_BLOCKS:
        raise ConfigError(f"model.deter={config.deter} is not a multiple of {DECODER_BLOCKS}, which decoding images needs")
    style = Style(config.norm, config.activation, dtype, layout)
    image_style = Style(config.norm, config.cnn_activation, dtype, layout)
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
        layout=layout,
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
