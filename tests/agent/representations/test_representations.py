"""World models without a decoder: what is built, which losses there are, and that the encoder learns."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.agent.layout import CPU
from dreamer_jax.agent.networks import build_networks
from dreamer_jax.agent.train_step import count_params, total_loss
from dreamer_jax.agent.types import ReturnNorm
from dreamer_jax.core.spaces import ActionSpec

DECODER_FREE = ("contrastive", "redundancy", "reward_only")


@pytest.mark.parametrize(
    ("version", "kind"),
    [("v3", kind) for kind in DECODER_FREE] + [(v, k) for v in ("v1", "v2") for k in ("contrastive", "reward_only")],
)
def test_no_decoder_is_built_and_the_encoder_learns(kind, version):
    """Neither modules nor parameters nor losses of a decoder; posterior and encoder get a gradient, and nothing is NaN."""
    config = {"v3": helpers.CONFIG, "v2": helpers.V2, "v1": helpers.V1}[version]
    config = config.model_copy(update={"model": config.model.model_copy(update={"representation": kind})})
    nets = build_networks(config, helpers.OBS_SPECS, ActionSpec(True, 3), jnp.float32, CPU)
    assert not nets.representation.decoded
    assert "decoder" not in count_params(nets)
    assert ("projection" in count_params(nets)) == (kind != "reward_only")
    params = helpers.random_params(nets)
    batch = helpers.random_batch(nets, 0)

    def objective(params):
        norm = ReturnNorm(jnp.float32(0), jnp.float32(0))
        total, (losses, *_) = total_loss(nets, config, params, params[2], norm, jax.random.key(0), batch, {})
        return total, losses

    (_, losses), grads = helpers.quick_jit(jax.value_and_grad(objective, has_aux=True))(params)
    assert set(losses) - {"reward", "continue", "dyn", "rep", "policy", "value", "replay_value"} == {kind} - {"reward_only"}
    for leaf in jax.tree.leaves(grads):
        assert np.isfinite(leaf).all()
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads[0]["encoder"]))
