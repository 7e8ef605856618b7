"""Redundancy reduction against golden arrays of R2-Dreamer's program, and by hand."""

import golden_data as golden
import jax
import numpy as np
from golden_data import assert_close

from dreamer_jax.agent.representations.redundancy import REDUNDANCY_WEIGHT, redundancy_loss

DATA = golden.load("14_representation_losses_official_torch")


def test_loss_and_its_gradients():
    """Against the golden loss over the rows of a batch [3, 5]; the projection is a matrix."""
    embed = DATA["embed"].reshape(-1, 6)

    def of_features(features, kernel):
        return redundancy_loss(features.reshape(-1, 7) @ kernel, embed)

    value, gradients = jax.value_and_grad(of_features, argnums=(0, 1))(DATA["feat"], DATA["proj_kernel"])
    assert_close(value, DATA["r2_loss"])
    assert_close(gradients[0], DATA["r2_grad_feat"])
    assert_close(gradients[1], DATA["r2_grad_proj_kernel"])


def test_parts_of_the_redundancy_loss():
    """The golden invariance, and the golden redundancy times its weight."""
    projected, embed = (DATA["feat"] @ DATA["proj_kernel"]).reshape(-1, 6), DATA["embed"].reshape(-1, 6)
    expected = DATA["r2_invariance"] + REDUNDANCY_WEIGHT * DATA["r2_redundancy"]
    assert_close(redundancy_loss(projected, embed), expected)


def test_equal_rows_have_no_redundancy_loss_on_the_diagonal():
    """Numbers that are uncorrelated, and equal on both sides: the loss is that of (N - 1) / N on the diagonal."""
    rows = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], np.float32)
    assert_close(redundancy_loss(rows, rows), 2 * (3 / 4 - 1) ** 2)
