"""The world model's loss terms against NumPy."""

from dataclasses import replace
from functools import cache, partial

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.agent import distributions, rssm, world_model
from dreamer_jax.agent.latents import Categorical
from dreamer_jax.agent.networks import apply
from dreamer_jax.agent.types import CategoricalLatent
from dreamer_jax.agent.world_model import world_model_loss


@cache
def _compiled():
    return jax.jit(partial(world_model_loss, helpers.tiny_networks(), helpers.CONFIG))


def _losses(batch):
    return _compiled()(helpers.tiny_params()[0], jax.random.key(0), batch, {})


def test_kl_is_summed_over_variables_before_the_free_nats(monkeypatch):
    """Each step's KL, summed over its variables, is clipped at one nat: not each variable's, and not the mean."""
    no_mix = helpers.CONFIG.model.model_copy(update={"unimix": 0.0})
    nets, params = replace(helpers.tiny_networks(), latent=Categorical(no_mix)), helpers.tiny_params()[0]
    loss = helpers.CONFIG.loss.model_copy(update={"free_nats": 1.0})
    batch = helpers.random_batch(nets, 0, batch=1, length=3)
    # A posterior that is sure of class 0 has the KL -log q_0: chosen here for each step and variable.
    nats = np.array([[[0.7, 0.7], [0.1, 0.2], [0.0, 3.0]]])
    q = np.stack([np.exp(-nats), (1 - np.exp(-nats)) / 2, (1 - np.exp(-nats)) / 2], -1)
    prior = CategoricalLatent(jnp.asarray(np.log(q + 1e-30), jnp.float32))
    posterior = CategoricalLatent(jnp.zeros((1, 3, 2, 3)).at[..., 0].set(100.0))
    states = helpers.random_state(nets, 0, (1, 3))
    monkeypatch.setattr(rssm, "observe", lambda *_: (states, states, posterior, prior))

    config = helpers.CONFIG.model_copy(update={"loss": loss})
    compiled = jax.jit(partial(world_model_loss, nets, config))
    losses, _, metrics = compiled(params, jax.random.key(0), batch, {})
    for name in ("dyn", "rep"):
        # Clipping each variable would give 2, 2, 4; clipping the mean would keep 0.3.
        chex.assert_trees_all_close(losses[name], jnp.array([[1.4, 1.0, 3.0]]), atol=1e-5)
    chex.assert_trees_all_close(metrics["kl"], jnp.float32((1.4 + 0.3 + 3.0) / 3), atol=1e-5)


def test_every_term_has_one_value_a_step():
    """Terms are f32[B, T] and named after their weights, one for each decoded key."""
    losses, states, _ = _losses(helpers.random_batch(helpers.tiny_networks(), 0))
    assert set(losses) == {"decoder/position", "decoder/mode", "reward", "continue", "dyn", "rep"}
    chex.assert_shape(list(losses.values()), (helpers.BATCH, helpers.LENGTH))
    chex.assert_type(list(losses.values()), jnp.float32)
    chex.assert_tree_shape_prefix(states, (helpers.BATCH, helpers.LENGTH))


def test_heads_predict_what_arrived_with_the_state():
    """The reward and continue terms at t compare the heads on state t with reward t and (1 - terminal t) discount."""
    nets, params, batch = helpers.tiny_networks(), helpers.tiny_params()[0], helpers.random_batch(helpers.tiny_networks(), 1)
    losses, states, _ = _losses(batch)
    features = rssm.features(states)

    logit = np.asarray(apply(nets.continue_, params["continue"], features)["logit"][..., 0])
    p, target = 1 / (1 + np.exp(-logit)), (1 - np.asarray(batch.is_terminal)) * (1 - 1 / 333)
    chex.assert_trees_all_close(losses["continue"], -(target * np.log(p) + (1 - target) * np.log(1 - p)), rtol=1e-3, atol=1e-5)

    logits = np.asarray(apply(nets.reward, params["reward"], features)["logits"])
    bins = np.asarray(distributions.two_hot_bins(helpers.MODEL.bins))
    weights = np.stack([np.interp(batch.reward, bins, unit) for unit in np.eye(bins.size)], -1)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chex.assert_trees_all_close(losses["reward"], np.float32(-(weights * log_probs).sum(-1)), rtol=1e-3, atol=1e-4)


def test_rows_are_independent():
    """The terms of a row do not change with what the other row holds."""
    nets = helpers.tiny_networks()
    one, other = (helpers.random_batch(nets, seed) for seed in (0, 1))
    mixed = jax.tree.map(lambda x, y: jnp.concatenate([x[:1], y[1:]]), one, other)
    clean, dirty = _losses(one)[0], _losses(mixed)[0]
    chex.assert_trees_all_close(*({name: loss[0] for name, loss in x.items()} for x in (clean, dirty)), atol=1e-5)
    assert all(not np.allclose(clean[name][1], dirty[name][1]) for name in ("decoder/position", "reward"))


def test_shapes_are_checked():
    """Flags of another shape than the rewards are refused before any arithmetic."""
    batch = helpers.random_batch(helpers.tiny_networks(), 0)
    with pytest.raises(AssertionError, match="shape"):
        world_model.world_model_loss(
            helpers.tiny_networks(), helpers.CONFIG, {}, jax.random.key(0), batch.replace(is_last=batch.is_last[:, 1:]), {}
        )
