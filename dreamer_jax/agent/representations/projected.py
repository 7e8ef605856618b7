"""What the representations have in common that compare a projected latent with the embedding."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.agent.layers import Dtype, kernel_init
from dreamer_jax.agent.networks import Networks, apply
from dreamer_jax.agent.parts import Example, Plan, Representation, Seen
from dreamer_jax.agent.types import Params
from dreamer_jax.core.section import Section


class Projection(nn.Module):
    """Features [.., F] -> [.., E], as many numbers as the embedding [.., E] has; no bias."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, embed: jax.Array) -> jax.Array:
        kernel = self.param("kernel", kernel_init(), (features.shape[-1], embed.shape[-1]))
        return features.astype(self.dtype) @ kernel.astype(self.dtype)


class ProjectedRepresentation(Representation):
    """A loss of two tables over the rows of a batch: projected latents f32[N, E], and embeddings f32[N, E] without gradient."""

    Options = Section

    def __init__(self, options: Section, plan: Plan, weight: float, loss: Callable[[jax.Array, jax.Array], jax.Array]) -> None:
        super().__init__(options, plan, weight)
        self._module, self._loss = Projection(plan.style.dtype), loss

    def init_params(self, key: jax.Array, example: Example) -> dict[str, Params]:
        """The projection's kernel [F, E]."""
        return {"projection": self._module.init(key, example.features, example.embed)["params"]}

    def losses(
        self, nets: Networks, params: dict[str, Params], state: object, key: jax.Array, seen: Seen
    ) -> dict[str, jax.Array]:
        """{name: f32[]} over all N = B*T records."""
        projected = apply(self._module, params["projection"], seen.features, seen.embed).astype(jnp.float32)
        embed = jax.lax.stop_gradient(seen.embed).astype(jnp.float32)
        rows, targets = (x.reshape((-1, x.shape[-1])) for x in (projected, embed))
        return {self.term: self._loss(rows, targets)}
