"""What shapes the latent beside reward and dynamics, a file for each value of `model.representation`.

"reconstruction" decodes observations. The others do without a decoder: "contrastive" and "redundancy" compare a linear
projection of the latent with the encoder's embedding. The embedding gets no gradient from them, so the encoder learns through
the posterior. "prototypes" assigns two views of each image to learned prototypes. "reward_only" adds nothing.
"""

import jax
import jax.numpy as jnp

from dreamer_jax.agent import rssm
from dreamer_jax.agent.networks import Networks, apply
from dreamer_jax.agent.representations.contrastive import contrastive_loss
from dreamer_jax.agent.representations.prototypes import prototype_losses
from dreamer_jax.agent.representations.reconstruction import decoder_losses
from dreamer_jax.agent.representations.redundancy import redundancy_loss
from dreamer_jax.agent.types import Batch, LatentState, Params
from dreamer_jax.core.algorithm import ModelConfig


def representation_losses(
    nets: Networks,
    config: ModelConfig,
    params: Params,
    slow_encoder: Params,
    key: jax.Array,
    batch: Batch,
    embed: jax.Array,
    states: LatentState,
) -> dict[str, jax.Array]:
    """The loss terms of the configured representation, before weighting.

    Args:
      params: the world model's.
      slow_encoder: the slow copy of encoder and projections; used by prototypes alone.
      key: for the random views of prototypes.
      embed: f[B, T, E], the encoder's output for the batch.
      states: the posterior LatentState[B, T] with its gradient.

    Returns:
      {"decoder/<key>": f32[B, T]}, {"contrastive": f32[]}, {"redundancy": f32[]}, {"prototypes/<part>": f32[]}, or {}.
    """
    if nets.decoder:
        predictions = apply(nets.decoder, params["decoder"], states.deter, states.stoch)
        return decoder_losses(nets.obs_specs, predictions, batch.obs, config.symlog)
    if nets.prototypes:
        return prototype_losses(nets, config, params, slow_encoder, key, batch)
    if not nets.projection:
        return {}
    projected = apply(nets.projection, params["projection"], rssm.features(states), embed).astype(jnp.float32)
    rows, targets = (x.reshape((-1, x.shape[-1])) for x in (projected, jax.lax.stop_gradient(embed).astype(jnp.float32)))
    if config.representation == "contrastive":
        return {"contrastive": contrastive_loss(rows, targets)}
    return {"redundancy": redundancy_loss(rows, targets)}
