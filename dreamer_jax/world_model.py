"""The world model's loss: reconstruction, reward, continue and the two KL terms (V3 eq. 4 and 5)."""

import chex
import jax
import jax.numpy as jnp

from dreamer_jax import distributions, rssm
from dreamer_jax.config import Config
from dreamer_jax.networks import Networks, apply
from dreamer_jax.spaces import ObsSpecs
from dreamer_jax.types import Batch, LatentState, Metrics, Params


def world_model_loss(
    nets: Networks, config: Config, params: Params, key: jax.Array, batch: Batch
) -> tuple[dict[str, jax.Array], LatentState, Metrics]:
    """Loss terms of a batch before weighting and averaging.

    Returns:
      {name: f32[B, T]} with names "decoder/<key>", "reward", "continue", "dyn", "rep"; posterior states [B, T] with their
      gradient; metrics.
    """
    chex.assert_equal_shape([batch.reward, batch.is_first, batch.is_last, batch.is_terminal])
    chex.assert_equal_shape_prefix([batch.reward, batch.prev_action], 2)

    embed = apply(nets.encoder, params["encoder"], batch.obs)  # [B, T, E]
    prev_action = batch.prev_action.astype(nets.dtype)
    _, states, posterior, prior = rssm.observe(nets, params, key, batch.start, prev_action, embed, batch.is_first)

    reconstruction = apply(nets.decoder, params["decoder"], states.deter, states.stoch)
    features = rssm.features(states)
    reward_logits = apply(nets.reward, params["reward"], features)["logits"]
    continue_logit = apply(nets.continue_, params["continue"], features)["logit"][..., 0]
    dyn, rep = rssm.kl_loss(posterior, prior, config.model.unimix)

    losses = decoder_losses(nets.obs_specs, reconstruction, batch.obs)
    losses["reward"] = distributions.two_hot_loss(reward_logits, batch.reward)
    # The discount is folded into the target, so the imagined continue probability already contains it.
    alive = 1.0 - batch.is_terminal.astype(jnp.float32)
    losses["continue"] = distributions.binary_loss(continue_logit, alive * config.behavior.discount)
    # Free nats: clipped for each step, after the sum over variables and before any mean.
    losses["dyn"] = jnp.maximum(dyn, config.loss.free_nats)
    losses["rep"] = jnp.maximum(rep, config.loss.free_nats)

    unimixed = distributions.unimix_logits(posterior.logits, config.model.unimix)
    metrics = {"kl": dyn.mean(), "posterior_entropy": distributions.categorical_entropy(unimixed).sum(-1).mean()}
    return losses, states, metrics


def decoder_losses(specs: ObsSpecs, predictions: dict[str, jax.Array], obs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """{"decoder/<key>": f32[B, T]}, summed over the key: squared error without a half, of vectors in symlog space and of images
    in [0, 1]; cross-entropy for indices.
    """
    losses = {}
    for name, prediction in predictions.items():
        prediction = prediction.astype(jnp.float32)
        if specs[name].kind == "discrete":
            log_probs = jax.nn.log_softmax(prediction)
            losses[f"decoder/{name}"] = -jnp.take_along_axis(log_probs, obs[name][..., None], -1)[..., 0]
            continue
        target = obs[name].astype(jnp.float32)
        target = target / 255 if specs[name].kind == "image" else distributions.symlog(target)
        error = jnp.square(prediction - target)
        losses[f"decoder/{name}"] = error.sum(tuple(range(2, error.ndim)))
    return losses
