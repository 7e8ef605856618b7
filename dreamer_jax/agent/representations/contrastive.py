"""Contrastive learning by InfoNCE (van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding").

The form is that of R2-Dreamer's program: inner products of latent and embedding, without temperature and normalisation.
"""

import jax
import jax.numpy as jnp

from dreamer_jax.agent.parts import Plan
from dreamer_jax.agent.representations.projected import ProjectedRepresentation
from dreamer_jax.core.extensions import register
from dreamer_jax.core.section import Section


def contrastive_loss(projected: jax.Array, embed: jax.Array) -> jax.Array:
    """InfoNCE over all rows of a batch: mean cross-entropy of finding embedding i for row i among all N embeddings.

    Args:
      projected: f32[N, E], the latents, projected to the size of an embedding.
      embed: f32[N, E], the embeddings, without gradient.

    Returns:
      f32[] in nats.
    """
    log_probs = jax.nn.log_softmax(projected @ embed.T)  # [N, N]
    return -jnp.diagonal(log_probs).mean()


@register("contrastive")
class Contrastive(ProjectedRepresentation):
    """`contrastive_loss` of projected latents and embeddings."""

    def __init__(self, options: Section, plan: Plan) -> None:
        super().__init__(options, plan, plan.config.loss.contrastive, contrastive_loss)
