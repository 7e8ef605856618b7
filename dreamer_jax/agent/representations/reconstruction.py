"""Reconstruction: a decoder predicts the observation from the latent (PlaNet: Hafner et al. 2019; Dreamer V1 to V3).

It is the first term of V3's prediction loss (eq. 5).
"""

import jax
import jax.numpy as jnp

from dreamer_jax.agent import distributions
from dreamer_jax.core.spaces import ObsSpecs


def decoder_losses(
    specs: ObsSpecs, predictions: dict[str, jax.Array], obs: dict[str, jax.Array], symlog: bool = True
) -> dict[str, jax.Array]:
    """Loss of every decoded observation key, summed over the key's own axes.

    Vectors and images have the squared error, without a factor of 1/2; indices have the cross-entropy in nats.

    Args:
      predictions: {name: f[B, T, ...]} as `networks.Decoder` returns them: images in [0, 1], logits of indices.
      obs: {name: [B, T, ...]} of the batch: images u8 in 0..255.
      symlog: vectors are compared in symlog space.

    Returns:
      {"decoder/<key>": f32[B, T]}.
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
