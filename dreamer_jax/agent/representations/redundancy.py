"""Redundancy reduction (R2-Dreamer: Morihira et al. 2026, "R2-Dreamer: Redundancy-Reduced World Models without Decoders or
Augmentation", after Barlow Twins: Zbontar et al. 2021).
"""

import jax
import jax.numpy as jnp

from dreamer_jax.agent.parts import Plan
from dreamer_jax.agent.representations.projected import ProjectedRepresentation
from dreamer_jax.core.extensions import register
from dreamer_jax.core.section import Section

REDUNDANCY_WEIGHT = 5e-4  # weight of the correlations off the diagonal, as in R2-Dreamer's program


def redundancy_loss(projected: jax.Array, embed: jax.Array) -> jax.Array:
    """Draws each number's correlation with its own counterpart to 1, and its correlations with all others to 0.

    loss = sum_i (C_ii - 1)^2 + REDUNDANCY_WEIGHT sum_{i != j} C_ij^2, with the correlations C over the N rows.

    Args:
      projected: f32[N, E], the latents, projected to the size of an embedding.
      embed: f32[N, E], the embeddings, without gradient.

    Returns:
      f32[].
    """

    def standardise(x: jax.Array) -> jax.Array:
        return (x - x.mean(0)) / (x.std(0, ddof=1) + 1e-8)

    correlation = standardise(projected).T @ standardise(embed) / projected.shape[0]  # [E, E]
    diagonal = jnp.diagonal(correlation)
    invariance = jnp.square(diagonal - 1).sum()
    redundancy = jnp.square(correlation).sum() - jnp.square(diagonal).sum()
    return invariance + REDUNDANCY_WEIGHT * redundancy


@register("redundancy")
class RedundancyReduction(ProjectedRepresentation):
    """`redundancy_loss` of projected latents and embeddings."""

    def __init__(self, options: Section, plan: Plan) -> None:
        super().__init__(options, plan, plan.config.loss.redundancy, redundancy_loss)
