"""The decoder's losses against NumPy."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.agent.representations.reconstruction import decoder_losses
from dreamer_jax.core.spaces import ObsSpec


@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
def test_vectors_are_reconstructed_in_symlog_space(shape):
    """Squared error to symlog(x), summed over the key's numbers, without a half and without a mean."""
    rng = np.random.default_rng(0)
    x, prediction = rng.normal(0, 50, (2, 3, *shape)), rng.normal(size=(2, 3, *shape))
    expected = np.zeros((2, 3))
    for index in np.ndindex(2, 3, *shape):
        expected[index[:2]] += (prediction[index] - np.sign(x[index]) * np.log(1 + abs(x[index]))) ** 2
    losses = decoder_losses({"x": ObsSpec("vector", shape)}, {"x": jnp.float32(prediction)}, {"x": jnp.float32(x)})
    chex.assert_trees_all_close(losses, {"decoder/x": np.float32(expected)}, rtol=1e-4)


def test_indices_are_reconstructed_by_cross_entropy():
    """-log softmax at the observed index."""
    rng = np.random.default_rng(0)
    index, logits = rng.integers(4, size=(2, 3)), rng.normal(0, 3, (2, 3, 4))
    losses = decoder_losses({"x": ObsSpec("discrete", (), 4)}, {"x": jnp.float32(logits)}, {"x": jnp.asarray(index)})
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [[-np.log(probs[b, t, index[b, t]]) for t in range(3)] for b in range(2)]
    chex.assert_trees_all_close(losses, {"decoder/x": np.float32(expected)}, rtol=1e-4)
