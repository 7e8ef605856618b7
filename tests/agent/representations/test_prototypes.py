"""Prototypes: assignments and losses against golden arrays of R2-Dreamer's program, the slow copy, and checkpoints of it."""

import chex
import golden_data as golden
import helpers
import jax
import jax.numpy as jnp
import numpy as np
from golden_data import assert_close
from run_folders import empty_record

from dreamer_jax.agent.layout import CPU
from dreamer_jax.agent.networks import build_networks
from dreamer_jax.agent.representations import prototypes
from dreamer_jax.agent.train_step import compile_train_step, init_agent, total_loss
from dreamer_jax.core.config import Config
from dreamer_jax.core.spaces import ActionSpec, ObsSpec
from dreamer_jax.replay.buffer import Replay
from dreamer_jax.runs import checkpoint
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.counters import FORMAT

DATA = golden.load("14_representation_losses_official_torch")


def test_assignments():
    """Sinkhorn's assignments are the golden ones, and each sample's sum to 1."""
    assignment = prototypes.sinkhorn(DATA["sink_scores"])
    assert_close(assignment, DATA["sink_Q"])
    np.testing.assert_allclose(assignment.sum(0), 1, rtol=1e-5)


def test_prototype_losses_and_their_gradients():
    """Against the golden losses of two views of two sequences; there the stochastic part of the latent comes first."""
    features = np.concatenate([DATA["proto_stoch"].reshape(4, 5, 4), DATA["proto_deter"]], -1)

    def objective(table, embed, deter):
        seen = jnp.concatenate([jnp.asarray(features[..., :4]), deter], -1)
        observed = embed @ DATA["proto_obs_kernel"] + DATA["proto_obs_bias"]
        predicted = seen @ DATA["proto_feat_kernel"] + DATA["proto_feat_bias"]
        losses = prototypes.assignment_losses(table, observed, predicted, jnp.asarray(DATA["proto_ema_proj"]))
        return sum(losses.values()), losses

    inputs = (DATA["proto_prototypes"], DATA["proto_embed"], DATA["proto_deter"])
    (_, losses), gradients = jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True)(*inputs)
    for name in ("swav", "temp", "norm"):
        assert_close(losses[name], DATA[f"proto_{name}"])
    for gradient, name in zip(gradients, ("prototypes", "embed", "deter"), strict=True):
        assert_close(gradient, DATA[f"proto_grad_{name}"])


def test_shifted_images():
    """Golden crops of padded images [B, T, C, H, W], and no shift leaves an image as it is."""
    images, corner = np.moveaxis(DATA["aug_image"], 2, -1), DATA["aug_shift_yx"]
    np.testing.assert_allclose(prototypes.shift_images(images, corner, 3), np.moveaxis(DATA["aug_out"], 2, -1), atol=1e-6)
    np.testing.assert_array_equal(prototypes.shift_images(images, np.full_like(corner, 3), 3), images)


def _prototype_agent():
    model = helpers.CONFIG.model.model_copy(update={"representation": "prototypes", "prototypes": 6, "prototype_freeze": 3})
    config = helpers.CONFIG.model_copy(update={"model": model})
    nets = build_networks(config, helpers.OBS_SPECS, ActionSpec(True, 3), jnp.float32, CPU)
    return nets, config, helpers.quick_jit(lambda key: init_agent(nets, config, key))(jax.random.key(0))


def test_prototypes_stand_still_at_first_and_the_slow_encoder_follows():
    """Two updates with the prototypes held, then they move; before each the slow copy takes a twentieth of the way."""
    nets, config, state = _prototype_agent()
    step = compile_train_step(nets, config)
    batch, tables, kernels = helpers.random_batch(nets, 0), [], []
    slow = np.array(state.parts["prototypes"]["encoder"]["mlp"]["linear0"]["kernel"])
    for _ in range(4):
        kernels.append(np.array(state.world_model.params["encoder"]["mlp"]["linear0"]["kernel"]))  # the state is donated
        state, metrics, _ = step(state, batch)
        slow = 0.95 * slow + 0.05 * kernels[-1]
        np.testing.assert_allclose(state.parts["prototypes"]["encoder"]["mlp"]["linear0"]["kernel"], slow, rtol=1e-5, atol=1e-7)
        tables.append(np.array(state.world_model.params["prototypes"]["table"]))
        assert np.isfinite(metrics["loss/prototypes/swav"])
    np.testing.assert_allclose(np.linalg.norm(tables[0], axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-6)  # only scaled to length 1 once more
    assert np.abs(tables[1] - tables[2]).max() > 1e-4
    assert not np.array_equal(kernels[0], kernels[3])


def test_slow_encoder_gets_no_gradient():
    nets, config, state = _prototype_agent()
    batch = helpers.random_batch(nets, 0)
    params = (state.world_model.params, state.actor.params, state.critic.params)

    def objective(slow):
        parts = {"prototypes": slow}
        return total_loss(nets, config, params, params[2], state.return_norm, jax.random.key(0), batch, parts)[0]

    gradient = jax.jit(jax.grad(objective))(state.parts["prototypes"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_shifted_views_reach_the_encoder():
    """With images the two views differ from each other and from those without a shift."""
    specs = {"image": ObsSpec("image", (16, 16, 3))}
    model = helpers.CONFIG.model.model_copy(update={"representation": "prototypes", "prototypes": 6, "depth": 2})
    nets = build_networks(Config(model=model), specs, ActionSpec(True, 3), jnp.float32, CPU)
    params = helpers.random_params(nets)[0]
    images = np.random.default_rng(0).integers(256, size=(2, 3, 16, 16, 3)).astype(np.uint8)
    batch = helpers.random_batch(nets, 0, 2, 3).replace(obs={"image": jnp.asarray(images)})

    def losses(shift):
        slow = nets.representation.init_state(params)
        return prototypes.prototype_losses(nets, nets.representation.module, shift, params, slow, jax.random.key(1), batch)

    none, some = (helpers.quick_jit(losses, static_argnums=0)(shift) for shift in (0, 3))
    assert set(none) == {"swav", "temp", "norm"}
    assert abs(none["swav"] - some["swav"]) > 1e-5


def test_checkpoints_hold_states_of_parts_only_where_there_are_some(tmp_path):
    """The slow copy comes back. Without one there is no trace: checkpoints from before parts had states can be read."""
    nets, config, state = _prototype_agent()
    _save(tmp_path, nets, state, format=FORMAT)
    restored = _restore(tmp_path, nets, config)
    for ours, saved in zip(*map(jax.tree.leaves, (state.parts, restored.parts)), strict=True):
        np.testing.assert_array_equal(ours, saved)
    assert "parts" in checkpoint._storable(state)
    assert "parts" not in checkpoint._storable(state.replace(parts={}))


def test_a_slow_copy_of_format_3_is_read(tmp_path, monkeypatch):
    """Up to format 3 the state of the prototypes was a field of its own, "slow_encoder"."""
    nets, config, state = _prototype_agent()

    def as_before(state):
        fields = {**vars(state), "key": jax.random.key_data(state.key)}
        return {**{name: value for name, value in fields.items() if name != "parts"}, "slow_encoder": state.parts["prototypes"]}

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_storable", as_before)
        _save(tmp_path, nets, state, format=3)
    restored = _restore(tmp_path, nets, config)
    chex.assert_trees_all_equal(state.parts, restored.parts)
    chex.assert_trees_all_equal(state.world_model.params, restored.world_model.params)


def _save(folder, nets, state, format):
    checkpoints = Checkpoints(folder, keep=1)
    replay = Replay(nets.obs_specs, nets.action_spec, None, 40, 1, 4, False, 0)
    checkpoints.save(1, state, empty_record().model_copy(update={"format": format}), replay, None, None)
    checkpoints.close()


def _restore(folder, nets, config):
    like = jax.eval_shape(lambda key: init_agent(nets, config, key), jax.random.key(0))
    return Checkpoints(folder).restore_agent(1, like)
