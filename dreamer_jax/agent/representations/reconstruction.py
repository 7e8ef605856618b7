"""Reconstruction: a decoder predicts the observation from the latent (PlaNet: Hafner et al. 2019; Dreamer V1 to V3).

It is the first term of V3's prediction loss (eq. 5).
"""

import itertools
import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.agent import distributions
from dreamer_jax.agent.convolutions import DECODER_BLOCKS, ImageDecoder, StridedImageDecoder, unit_images
from dreamer_jax.agent.layers import MLP, Linear, Style, flatten_stoch
from dreamer_jax.agent.networks import Networks, apply, image_groups, select_keys
from dreamer_jax.agent.parts import Example, Plan, Representation, Seen, Specs
from dreamer_jax.agent.types import LatentState, Params
from dreamer_jax.core.algorithm import ModelConfig
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.extensions import ObservationNetwork, register
from dreamer_jax.core.section import Section
from dreamer_jax.core.spaces import ObsSpecs


@register("reconstruction")
class Reconstruction(Representation):
    """A decoder, and its losses for each observation key that `model.decoder_keys` takes."""

    Options = Section

    def __init__(self, options: Section, plan: Plan) -> None:
        super().__init__(options, plan, plan.config.loss.decoder)
        c = plan.config.model
        self.term = "decoder"
        self.specs = self.decoded = select_keys(c, plan.obs_specs, c.decoder_keys, "decoder")
        if c.cnn == "pooled" and image_groups(self.decoded) and c.deter % DECODER_BLOCKS:
            raise ConfigError(f"model.deter={c.deter} is not a multiple of {DECODER_BLOCKS}, which decoding images needs")
        own = {name: plan.kinds[spec.kind].decoder(spec, plan.style) for name, spec in self.decoded if spec.kind in plan.kinds}
        self.decoded = tuple((name, spec) for name, spec in self.decoded if own.get(name, spec) is not None)
        modules = tuple((name, module) for name, module in own.items() if module is not None)
        self.decoder = Decoder(self.decoded, c, plan.style, plan.image_style, modules)

    def init_params(self, key: jax.Array, example: Example) -> dict[str, Params]:
        """The decoder's."""
        return {"decoder": self.decoder.init(key, example.state.deter, example.state.stoch).get("params", {})}

    def losses(
        self, nets: Networks, params: dict[str, Params], state: object, key: jax.Array, seen: Seen
    ) -> dict[str, jax.Array]:
        """{"decoder/<key>": f32[B, T]}."""
        predictions = self.decode(params, seen.states)
        return decoder_losses(nets.obs_specs, predictions, seen.batch.obs, self.plan.config.model.symlog, self.plan.kinds)

    def decode(self, params: dict[str, Params], state: LatentState) -> dict[str, jax.Array]:
        """{observation key: prediction f[.., *shape]} of states [..], as `Decoder` returns them."""
        return apply(self.decoder, params["decoder"], state.deter, state.stoch)


class Decoder(nn.Module):
    """deter [.., D], stoch of the same state -> {name: prediction}: vectors (in symlog space where the model uses it) and
    images [.., *shape], index logits, and what the modules of imported kinds of observation predict, {key: module}.

    The input order of the MLP is stoch, deter: the opposite of the heads' (as in the author's code).
    """

    specs: Specs
    config: ModelConfig
    style: Style
    image_style: Style
    own: tuple[tuple[str, nn.Module], ...] = ()

    @nn.compact
    def __call__(self, deter: jax.Array, stoch: jax.Array) -> dict[str, jax.Array]:
        c, dtype, predictions = self.config, self.style.dtype, {}
        flat = {name: spec for name, spec in self.specs if spec.kind in ("vector", "discrete")}
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
        for name, module in self.own:
            predictions[name] = module.clone(parent=self, name=name)(deter, stoch)
        return predictions


def decoder_losses(
    specs: ObsSpecs,
    predictions: dict[str, jax.Array],
    obs: dict[str, jax.Array],
    symlog: bool = True,
    kinds: Mapping[str, ObservationNetwork] | None = None,
) -> dict[str, jax.Array]:
    """Loss of every decoded observation key, summed over the key's own axes.

    Vectors and images have the squared error, without a factor of 1/2; indices have the cross-entropy in nats; observations of
    an imported kind have its own loss.

    Args:
      predictions: {name: f[B, T, ...]} as `Decoder` returns them: images in [0, 1], logits of indices.
      obs: {name: [B, T, ...]} of the batch: images u8 of values from 0 to their `high`.
      symlog: vectors are compared in symlog space.
      kinds: the imported kinds.

    Returns:
      {"decoder/<key>": f32[B, T]}.
    """
    losses = {}
    for name, prediction in predictions.items():
        if kinds and specs[name].kind in kinds:
            losses[f"decoder/{name}"] = kinds[specs[name].kind].loss(specs[name], prediction, obs[name])
            continue
        prediction = prediction.astype(jnp.float32)
        if specs[name].kind == "discrete":
            log_probs = jax.nn.log_softmax(prediction)
            losses[f"decoder/{name}"] = -jnp.take_along_axis(log_probs, obs[name][..., None], -1)[..., 0]
            continue
        target = obs[name].astype(jnp.float32)
        if specs[name].kind == "image":
            target = unit_images(target, specs[name].channel_highs, jnp.float32)
        elif symlog:
            target = distributions.symlog(target)
        error = jnp.square(prediction - target)
        losses[f"decoder/{name}"] = error.sum(tuple(range(2, error.ndim)))
    return losses
