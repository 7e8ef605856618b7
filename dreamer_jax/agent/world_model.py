"""The world model's loss: its parts, reward, continue and the two KL terms (V3 eq. 4 and 5, and before)."""

import chex
import jax
import jax.numpy as jnp

from dreamer_jax.agent import distributions, rssm
from dreamer_jax.agent.networks import Networks, apply
from dreamer_jax.agent.parts import PartStates, Seen, part_losses
from dreamer_jax.agent.types import Batch, LatentState, Metrics, Params
from dreamer_jax.core.algorithm import LossConfig
from dreamer_jax.core.config import Config


def world_model_loss(
    nets: Networks, config: Config, params: Params, key: jax.Array, batch: Batch, states_of_parts: PartStates
) -> tuple[dict[str, jax.Array], LatentState, Metrics]:
    """Loss terms of a batch before weighting and averaging.

    Returns:
      {name: f32[B, T]} with names "reward", "continue", "dyn", "rep" (f32[] where the mean is clipped) and those of the parts;
      posterior states [B, T] with their gradient; metrics.
    """
    chex.assert_equal_shape([batch.reward, batch.is_first, batch.is_last, batch.is_terminal])
    chex.assert_equal_shape_prefix([batch.reward, batch.prev_action], 2)

    embed = apply(nets.encoder, params["encoder"], batch.obs)  # [B, T, E]
    prev_action = batch.prev_action.astype(nets.dtype)
    _, states, posterior, prior = rssm.observe(nets, params, key, batch.start, prev_action, embed, batch.is_first)

    features = rssm.features(states)
    seen = Seen(batch, embed, states, posterior, prior)
    losses = part_losses(nets.parts, nets, params, states_of_parts, key, seen)
    reward = jnp.tanh(batch.reward) if config.behavior.reward == "tanh" else batch.reward
    losses["reward"] = distributions.scalar_loss(apply(nets.reward, params["reward"], features), reward)
    if nets.continue_:
        logit = apply(nets.continue_, params["continue"], features)["logit"][..., 0]
        # The discount is folded into the target, so the imagined continue probability already contains it.
        alive = 1.0 - batch.is_terminal.astype(jnp.float32)
        losses["continue"] = distributions.binary_loss(logit, alive * config.behavior.discount)
    dyn, rep = rssm.kl_loss(nets.latent, posterior, prior)
    losses["dyn"], losses["rep"] = clip_nats(dyn, config.loss), clip_nats(rep, config.loss)

    metrics = {"kl": dyn.mean(), "posterior_entropy": nets.latent.entropy(posterior).mean()}
    return losses, states, metrics


def clip_nats(kl: jax.Array, config: LossConfig) -> jax.Array:
    """Free nats: KL [B, T], summed over variables, clipped for each step -> [B, T] (V3), or its mean -> [] (PlaNet, V1, V2)."""
    return jnp.maximum(kl.mean() if config.free_nats_of == "mean" else kl, config.free_nats)
