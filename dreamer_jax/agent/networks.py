"""The networks of an agent: encoder, RSSM and heads. Parameters and layers only: no scans, no losses."""

import re
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.agent.convolutions import IMAGE_FACTOR, ImageEncoder, StridedImageEncoder
from dreamer_jax.agent.cores import CORES
from dreamer_jax.agent.distributions import symlog
from dreamer_jax.agent.latents import Latent, make_latent
from dreamer_jax.agent.layers import MLP, Dtype, Linear, Style, flatten_stoch
from dreamer_jax.agent.layout import Layout
from dreamer_jax.agent.parts import ExplorationBonus, Part, Plan, Representation, Specs
from dreamer_jax.agent.types import Params
from dreamer_jax.core.advice import box, transform_line
from dreamer_jax.core.algorithm import ModelConfig
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.extensions import DOORS
from dreamer_jax.core.spaces import ActionSpec, ObsSpec, ObsSpecs


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
    each size, and each observation of an imported kind through a module of its own, {key: module}.
    """

    specs: Specs
    config: ModelConfig
    style: Style
    image_style: Style
    own: tuple[tuple[str, nn.Module], ...] = ()

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
            high = tuple(value for name in names for value in dict(self.specs)[name].channel_highs)
            tokens.append(layer(c.depth, self.image_style, high, name=f"cnn_{height}x{width}")(images))
        for name, module in self.own:
            tokens.append(module.clone(parent=self, name=name)(obs[name]))
        return jnp.concatenate(tokens, -1)


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


@dataclass(frozen=True)
class Networks:
    """Every module of an agent, and how its programs are laid out. Built once; holds no parameters.

    `obs_specs` has the keys that the encoder or a part uses: what the replay has to hold. `continue_` is None where the
    discount is constant, `actor` and `critic` where a planner acts. `terms` and `bonuses` are what imported modules add.
    `layout` is that of the device on which the programs will run; the modules have it too.
    """

    encoder: Encoder
    rssm: RSSM
    latent: Latent
    representation: Representation
    terms: tuple[Part, ...]
    bonuses: tuple[ExplorationBonus, ...]
    reward: Head
    continue_: Head | None
    actor: Head | None
    critic: Head | None
    obs_specs: ObsSpecs
    action_spec: ActionSpec
    dtype: Dtype
    layout: Layout

    @property
    def parts(self) -> tuple[Part, ...]:
        """Representation, loss terms and bonuses, in this order."""
        return (self.representation, *self.terms, *self.bonuses)


def build_networks(config: Config, obs_specs: ObsSpecs, action_spec: ActionSpec, dtype: Dtype, layout: Layout) -> Networks:
    """Builds the modules for an environment's spaces; keys are used in sorted order.

    Args:
      dtype: the compute dtype; parameters are float32.
      layout: that of the device on which the programs will run; see `layout_of`.

    Raises:
      ConfigError: `encoder_keys` or `decoder_keys` takes no key, an image does not fit the layers, images are decoded from a
        `deter` that is no multiple of 8, or the configuration names an extension that is not registered.
    """
    c = config.model
    encoded = select_keys(c, obs_specs, c.encoder_keys, "encoder")
    style = Style(c.norm, c.activation, dtype, layout)
    image_style = Style(c.norm, c.cnn_activation, dtype, layout)
    kinds = {name: _extension("observation", name, config) for name in config.env.kinds}
    plan = Plan(config, obs_specs, action_spec, style, image_style, kinds)
    representation = _extension("representation", c.representation, config, plan)
    terms = tuple(_extension("loss", name, config, plan) for name in config.loss.terms)
    bonuses = tuple(_extension("bonus", name, config, plan) for name in config.behavior.bonuses)
    if bonuses and not c.actor_critic:
        raise ConfigError(
            f"behavior.bonuses={','.join(config.behavior.bonuses)} are for an actor, and model.actor_critic is false: a "
            "planner acts on predicted rewards alone. Set model.actor_critic to true, or leave them out"
        )
    # Two-hot heads begin at zero; the author's other heads do not.
    scalar, scale = ((("logits", c.bins),), 0.0) if c.scalar_heads == "two_hot" else ((("mean", 1),), 1.0)
    size = action_spec.size
    policy = (("logits", size),) if action_spec.discrete else (("mean", size), ("std", size))
    latent = make_latent(c)
    used = [encoded, *(part.specs for part in (representation, *terms, *bonuses))]
    own = tuple((name, kinds[spec.kind].encoder(spec, style)) for name, spec in encoded if spec.kind in kinds)
    return Networks(
        encoder=Encoder(encoded, c, style, image_style, own),
        rssm=RSSM(c, latent.outputs, style),
        latent=latent,
        representation=representation,
        terms=terms,
        bonuses=bonuses,
        reward=Head(scalar, c.reward_layers, c.units, scale, style),
        continue_=Head((("logit", 1),), c.continue_layers, c.units, 1.0, style) if c.continue_head else None,
        actor=Head(policy, c.actor_layers, c.units, c.actor_scale, style) if c.actor_critic else None,
        critic=Head(scalar, c.critic_layers, c.units, scale, style) if c.actor_critic else None,
        obs_specs=dict(sorted(item for specs in used for item in specs)),
        action_spec=action_spec,
        dtype=dtype,
        layout=layout,
    )


def _extension(door: str, name: str, config: Config, *arguments: Any) -> Any:
    """An object of a registered extension, with its options."""
    extension = DOORS[door].get(name)
    return extension(config.options_of(extension), *arguments)


def select_keys(config: ModelConfig, obs_specs: ObsSpecs, pattern: str, part: str) -> Specs:
    """The observations that a part of the world model, "encoder" or "decoder", works on.

    Raises:
      ConfigError: the pattern takes no key, or an image does not fit the layers.
    """
    chosen = tuple((name, spec) for name, spec in sorted(obs_specs.items()) if re.fullmatch(pattern, name))
    if obs_specs and not chosen:
        raise ConfigError(f"model.{part}_keys={pattern!r} takes none of the observation keys {', '.join(sorted(obs_specs))}")
    for name, spec in chosen:
        if spec.kind == "image" and min(spec.shape[:2]) < IMAGE_FACTOR:
            raise ConfigError(
                f"observation key {name!r} is an image of {spec.shape[0]}x{spec.shape[1]} pixels; at least "
                f"{IMAGE_FACTOR}x{IMAGE_FACTOR} are needed. Enlarge it: {_enlarge_line(name, spec)}; or leave it out with "
                "--model.encoder_keys and --model.decoder_keys"
            )
        if spec.kind == "image" and config.cnn == "strided" and spec.shape[:2] != (64, 64):
            raise ConfigError(
                f"observation key {name!r} is an image of {spec.shape[0]}x{spec.shape[1]} pixels; model.cnn=strided takes "
                "64x64. Choose --model.cnn pooled, or have the environment draw 64x64 pixels"
            )
    return chosen


def _enlarge_line(name: str, spec: ObsSpec) -> str:
    """The line that enlarges an image by repeating its pixels, which is right for planes and object numbers as well."""
    factor = -(-IMAGE_FACTOR // min(spec.shape[:2]))
    shape = (factor * spec.shape[0], factor * spec.shape[1], spec.shape[2])
    path = [] if name == "observation" else name.split("/")
    high = spec.high if isinstance(spec.high, int) else f"numpy.full({shape}, {list(spec.high)}, numpy.uint8)"
    larger = f"{{x}}.repeat({factor}, 0).repeat({factor}, 1).astype(numpy.uint8)"
    return transform_line(path, larger, box(0, high, shape, "uint8"))


def key_layers(nets: Networks) -> dict[str, tuple[str, str]]:
    """{observation key: (its layers in the encoder, its layers in the decoder)}, "-" where it is not used."""

    def layers(specs: Specs, name: str) -> str:
        spec = dict(specs).get(name)
        if spec is None:
            return "-"
        if spec.kind == "image":
            return f"cnn {spec.shape[0]}x{spec.shape[1]}"
        return "mlp" if spec.kind in ("vector", "discrete") else spec.kind

    decoded = nets.representation.decoded
    return {name: (layers(nets.encoder.specs, name), layers(decoded, name)) for name in nets.obs_specs}


def apply(module: nn.Module | None, params: Params, *inputs: Any, method: str | None = None) -> Any:
    """Runs a module, or one of its methods, with a parameter tree; the caller knows that an optional one is there."""
    assert module is not None
    return module.apply({"params": params}, *inputs, method=method)
