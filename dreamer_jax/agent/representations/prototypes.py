"""Prototypes (DreamerPro: Deng et al. 2022, "DreamerPro: Reconstruction-Free Model-Based Reinforcement Learning with
Prototypical Representations", after SwAV: Caron et al. 2020).

Each sequence has two views, which shift its images at random; both are encoded and filtered. A slow copy of the encoder says
how strongly each view belongs to each of the prototypes, balanced over the batch: the assignments. The embedding of one view is
trained to predict the assignment of the other view, and the latent to predict that of its own view.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.agent import rssm
from dreamer_jax.agent.layers import Dtype, Linear
from dreamer_jax.agent.networks import Networks, apply
from dreamer_jax.agent.parts import Example, Plan, Representation, Seen
from dreamer_jax.agent.types import Batch, Params
from dreamer_jax.core.extensions import register
from dreamer_jax.core.section import Section

PROTOTYPE_SIZE = 32
TEMPERATURE = 0.1
SINKHORN_EPS, SINKHORN_ROUNDS = 0.05, 3
SLOW_RATE = 0.05  # share of the way that the slow copy goes at an update
WARM_UP = 1  # timesteps at the start of a sequence that are not assigned


@register("prototypes")
class PrototypeRepresentation(Representation):
    """Learned prototypes, and a slow copy of encoder and projections as the part's state: {"encoder", "prototypes"}."""

    Options = Section

    def __init__(self, options: Section, plan: Plan) -> None:
        super().__init__(options, plan, plan.config.loss.prototypes)
        self.config = plan.config.model
        self.module = Prototypes(self.config.prototypes, plan.style.dtype)

    def init_params(self, key: jax.Array, example: Example) -> dict[str, Params]:
        """The prototypes and the two projections."""
        return {"prototypes": self.module.init(key, example.embed, example.features)["params"]}

    def init_state(self, params: dict[str, Params]) -> dict[str, Params]:
        """The slow copy."""
        return {name: jax.tree.map(jnp.copy, params[name]) for name in ("encoder", "prototypes")}

    def losses(
        self, nets: Networks, params: dict[str, Params], state: dict[str, Params], key: jax.Array, seen: Seen
    ) -> dict[str, jax.Array]:
        """{"prototypes/swav", "prototypes/temp", "prototypes/norm": f32[]} of two random views of the batch."""
        losses = prototype_losses(nets, self.module, self.config.prototype_shift, params, state, key, seen.batch)
        return {f"prototypes/{name}": loss for name, loss in losses.items()}

    def before_update(
        self, params: dict[str, Params], state: dict[str, Params], step: jax.Array
    ) -> tuple[dict[str, Params], dict[str, Params]]:
        """Scales the prototypes back to length 1 and moves the slow copy towards the world model."""
        held = params["prototypes"]
        params = params | {"prototypes": held | {"table": _unit(held["table"])}}
        followed = {name: params[name] for name in state}
        return params, jax.tree.map(lambda slow, new: (1 - SLOW_RATE) * slow + SLOW_RATE * new, state, followed)

    def gradients(self, gradients: dict[str, Params], step: jax.Array) -> dict[str, Params]:
        """Holds the prototypes still during the first `prototype_freeze` updates."""
        # One update fewer than the number says, as in the author's program, which counts before it asks.
        table = jnp.where(step + 1 < self.config.prototype_freeze, 0.0, gradients["prototypes"]["table"])
        return gradients | {"prototypes": gradients["prototypes"] | {"table": table}}


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


def prototype_losses(
    nets: Networks,
    module: Prototypes,
    shift: int,
    params: dict[str, Params],
    slow: dict[str, Params],
    key: jax.Array,
    batch: Batch,
) -> dict[str, jax.Array]:
    """The `assignment_losses` of two random views of a batch.

    Args:
      shift: largest shift of the images [pixels].
      params: the world model's.
      slow: encoder and projections whose assignments are the targets.
    """
    shift_key, observe_key = jax.random.split(key)
    views = jax.tree.map(lambda x: jnp.concatenate([x, x]), batch)  # [2B, T, ...]
    images = {name: views.obs[name] for name, spec in nets.obs_specs.items() if spec.kind == "image"}
    shifts = jax.random.randint(shift_key, (views.reward.shape[0], 2), 0, 2 * shift + 1)
    obs = views.obs | {name: shift_images(image, shifts, shift) for name, image in images.items()}

    embed = apply(nets.encoder, params["encoder"], obs)
    prev_action = views.prev_action.astype(nets.dtype)
    _, states, _, _ = rssm.observe(nets, params, observe_key, views.start, prev_action, embed, views.is_first)
    observed, predicted, table = apply(module, params["prototypes"], embed, rssm.features(states))
    slow_embed = apply(nets.encoder, slow["encoder"], obs)
    targets = apply(module, slow["prototypes"], slow_embed, method="project_embed")
    return assignment_losses(*(x.astype(jnp.float32) for x in (table, observed, predicted, targets)))


def assignment_losses(table: jax.Array, observed: jax.Array, predicted: jax.Array, slow: jax.Array) -> dict[str, jax.Array]:
    """The three losses of projections [2B, T, P]. Their first half is one view, their second half the other.

    Args:
      table: prototypes f32[K, P].
      observed: projected embeddings f32[2B, T, P].
      predicted: projected latents f32[2B, T, P].
      slow: projected embeddings of the slow copy f32[2B, T, P].

    Returns:
      {"swav": embeddings predict the assignments of the other view, "temp": latents predict the assignments of their own view,
      "norm": projections have length 1}, f32[] each.
    """
    half, table = observed.shape[0] // 2, _unit(table)

    def scores(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(_unit(x)[:, WARM_UP:] @ table.T, -1, 0)  # [K, 2B, T - 1]

    def cross_entropy(targets: jax.Array, scores: jax.Array) -> jax.Array:
        return -(targets * jax.nn.log_softmax(scores / TEMPERATURE, 0)).sum(0).mean()

    of_slow, of_observed = jax.lax.stop_gradient(scores(slow)), scores(observed)
    one, other = sinkhorn(of_slow[:, :half]), sinkhorn(of_slow[:, half:])
    return {
        "swav": 0.5 * cross_entropy(other, of_observed[:, :half]) + 0.5 * cross_entropy(one, of_observed[:, half:]),
        "temp": cross_entropy(jnp.concatenate([one, other], 1), scores(predicted)),
        "norm": sum((jnp.square(jnp.linalg.norm(x, axis=-1) - 1).mean() for x in (observed, predicted)), jnp.float32(0)),
    }


def sinkhorn(scores: jax.Array) -> jax.Array:
    """Turns scores f32[K, ...] of K prototypes for each sample into assignments of the same shape.

    The assignments of a sample sum to 1, and those of every prototype sum to about the same number (Sinkhorn-Knopp).
    """
    count, samples = scores.shape[0], math.prod(scores.shape[1:])
    log = jax.nn.log_softmax(scores.reshape(-1) / SINKHORN_EPS).reshape((count, samples))
    for _ in range(SINKHORN_ROUNDS):
        log -= jax.nn.logsumexp(log, 1, keepdims=True) + math.log(count)
        log -= jax.nn.logsumexp(log, 0, keepdims=True) + math.log(samples)
    return jnp.exp(log + math.log(samples)).reshape(scores.shape)


def shift_images(images: jax.Array, corner: jax.Array, limit: int) -> jax.Array:
    """Images [B, T, H, W, C] padded by `limit` repeated pixels and cropped again at corner i32[B, 2] in 0..2 limit.

    All steps of a sequence are shifted alike.
    """
    around = (limit, limit)
    padded = jnp.pad(images, ((0, 0), (0, 0), around, around, (0, 0)), mode="edge")
    zero = jnp.int32(0)

    def crop(sequence: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(sequence, (zero, corner[0], corner[1], zero), images.shape[1:])

    return jax.vmap(crop)(padded, corner)


def _unit(x: jax.Array) -> jax.Array:
    """Vectors [.., P] scaled to length 1."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
