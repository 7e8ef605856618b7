"""What shapes the latent: losses against golden arrays of R2-Dreamer's program, and decoder-free world models."""

import golden_data as golden
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_data import assert_close

from dreamer_jax.networks import build_networks
from dreamer_jax.representation import REDUNDANCY_WEIGHT, contrastive_loss, redundancy_loss
from dreamer_jax.spaces import ActionSpec
from dreamer_jax.train_step import count_params, init_params, total_loss
from dreamer_jax.types import ReturnNorm

DATA = golden.load("14_representation_losses_official_torch")
DECODER_FREE = ("contrastive", "redundancy", "reward_only")


@pytest.mark.parametrize(("loss", "name"), [(redundancy_loss, "r2"), (contrastive_loss, "infonce")])
def test_losses_and_their_gradients(loss, name):
    """Against the golden losses, over the rows of a batch [3, 5]; the projection is a matrix."""
    embed = DATA["embed"].reshape(-1, 6)

    def of_features(features, kernel):
        return loss(features.reshape(-1, 7) @ kernel, embed)

    value, gradients = jax.value_and_grad(of_features, argnums=(0, 1))(DATA["feat"], DATA["proj_kernel"])
    assert_close(value, DATA[f"{name}_loss"])
    assert_close(gradients[0], DATA[f"{name}_grad_feat"])
    assert_close(gradients[1], DATA[f"{name}_grad_proj_kernel"])


def test_parts_of_the_redundancy_loss():
    assert_close(redundancy_loss(*_rows()), DATA["r2_invariance"] + REDUNDANCY_WEIGHT * DATA["r2_redundancy"])


def _rows() -> tuple[np.ndarray, np.ndarray]:
    return (DATA["feat"] @ DATA["proj_kernel"]).reshape(-1, 6), DATA["embed"].reshape(-1, 6)


def test_equal_rows_have_no_redundancy_loss_on_the_diagonal():
    """Numbers that are uncorrelated, and equal on both sides: the loss is that of (N - 1) / N on the diagonal."""
    rows = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], np.float32)
    assert_close(redundancy_loss(rows, rows), 2 * (3 / 4 - 1) ** 2)


def networks(kind: str, config=helpers.CONFIG):
    model = config.model.model_copy(update={"representation": kind})
    return build_networks(model, helpers.OBS_SPECS, ActionSpec(True, 3), jnp.float32)


@pytest.mark.parametrize("kind", DECODER_FREE)
@pytest.mark.parametrize("version", ["v3", "v2"])
def test_no_decoder_is_built_and_the_encoder_learns(kind, version):
    """Neither modules nor parameters nor losses of a decoder; posterior and encoder get a gradient, and nothing is NaN."""
    config = {"v3": helpers.CONFIG, "v2": helpers.V2}[version]
    config = config.model_copy(update={"model": config.model.model_copy(update={"representation": kind})})
    nets = networks(kind, config)
    assert nets.decoder is None
    assert "decoder" not in count_params(nets)
    assert ("projection" in count_params(nets)) == (kind != "reward_only")
    params = init_params(nets, jax.random.key(0))
    batch = helpers.random_batch(nets, 0)

    def objective(params):
        norm = ReturnNorm(jnp.float32(0), jnp.float32(0))
        total, (losses, *_) = total_loss(nets, config, params, params[2], norm, jax.random.key(0), batch)
        return total, losses

    (_, losses), grads = jax.jit(jax.value_and_grad(objective, has_aux=True), compiler_options=helpers.QUICK)(params)
    assert set(losses) - {"reward", "continue", "dyn", "rep", "policy", "value", "replay_value"} == {kind} - {"reward_only"}
    for leaf in jax.tree.leaves(grads):
        assert np.isfinite(leaf).all()
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads[0]["encoder"]))
