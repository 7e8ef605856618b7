"""What shapes the latent beside reward and dynamics: the axis `model.representation`.

Reconstruction decodes observations (PlaNet, V1 to V3). The others do without a decoder: contrastive learning (InfoNCE) and
redundancy reduction (R2-Dreamer) compare a linear projection of the latent with the encoder's embedding, which gets no gradient
from it: the encoder learns through the posterior. Prototypes have a file of their own. Reward-only adds nothing.
"""

import jax
import jax.numpy as jnp

from dreamer_jax.agent import distributions, rssm
from dreamer_jax.agent.networks import Networks, apply
from dreamer_jax.agent.prototypes import prototype_losses
from dreamer_jax.agent.types import Batch, LatentState, Params
from dreamer_jax.core.algorithm import ModelConfig
from dreamer_jax.core.spaces import ObsSpecs

REDUNDANCY_WEIGHT = 5e-4  # of the correlations beside the diagonal


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
    """Loss terms that shape the latents: {"decoder/<key>": f32[B, T]}, {"contrastive": f32[]}, {"redundancy": f32[]},
    {"prototypes/<part>": f32[]} or none.

    Args:
      embed: f[B, T, E], what the encoder made of the batch; states: posterior [B, T] with gradient.
      slow_encoder, key: for prototypes.
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


def contrastive_loss(projected: jax.Array, embed: jax.Array) -> jax.Array:
    """InfoNCE over all rows of a batch: projected [N, E], embed [N, E] -> f32[]. Row i is to find embedding i among all."""
    log_probs = jax.nn.log_softmax(projected @ embed.T)
    return -jnp.diagonal(log_probs).mean()


def redundancy_loss(projected: jax.Array, embed: jax.Array) -> jax.Array:
    """Redundancy reduction (Barlow Twins, as in R2-Dreamer): projected [N, E], embed [N, E] -> f32[].

    The correlation of each number with its own counterpart is drawn to 1, with the others to 0.
    """

    def standardise(x: jax.Array) -> jax.Array:
        return (x - x.mean(0)) / (x.std(0, ddof=1) + 1e-8)

    correlation = standardise(projected).T @ standardise(embed) / projected.shape[0]
    diagonal = jnp.diagonal(correlation)
    invariance = jnp.square(diagonal - 1).sum()
    redundancy = jnp.square(correlation).sum() - jnp.square(diagonal).sum()
    return invariance + REDUNDANCY_WEIGHT * redundancy


def decoder_losses(
    specs: ObsSpecs, predictions: dict[str, jax.Array], obs: dict[str, jax.Array], symlog: bool = True
) -> dict[str, jax.Array]:
    """{"decoder/<key>": f32[B, T]}, summed over the key: squared error without a half, of vectors (in symlog space where the
    model uses it) and of images in [0, 1]; cross-entropy for indices.
    """
    losses = {}
    for name, prediction in predictions.items():
        prediction = prediction.astype(jnp.float32)
        if specs[name].kind == "discrete":
            log_probs = jax.nn.log_softmax(prediction)
            losses[f"decoder/{name}"] = -jnp.take_along_axis(log_probs, obs[name][..., None], -1)[..., 0]
            continue
        target = obs[name].astype(jnp.float32)
        if specs[name].kind == "image":
            target /= 255
        elif symlog:
            target = distributions.symlog(target)
        error = jnp.square(prediction - target)
        losses[f"decoder/{name}"] = error.sum(tuple(range(2, error.ndim)))
    return losses
