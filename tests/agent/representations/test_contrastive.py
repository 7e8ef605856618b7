"""InfoNCE against golden arrays of R2-Dreamer's program, and by hand."""

import golden_data as golden
import jax
import numpy as np
from golden_data import assert_close

from dreamer_jax.agent.representations.contrastive import contrastive_loss

DATA = golden.load("14_representation_losses_official_torch")


def test_loss_and_its_gradients():
    """Against the golden loss over the rows of a batch [3, 5]; the projection is a matrix."""
    embed = DATA["embed"].reshape(-1, 6)

    def of_features(features, kernel):
        return contrastive_loss(features.reshape(-1, 7) @ kernel, embed)

    value, gradients = jax.value_and_grad(of_features, argnums=(0, 1))(DATA["feat"], DATA["proj_kernel"])
    assert_close(value, DATA["infonce_loss"])
    assert_close(gradients[0], DATA["infonce_grad_feat"])
    assert_close(gradients[1], DATA["infonce_grad_proj_kernel"])


def test_equal_embeddings_cannot_be_told_apart():
    """With N equal embeddings every row guesses: log N."""
    projected = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert_close(contrastive_loss(projected, np.ones((5, 3), np.float32)), np.log(5))
