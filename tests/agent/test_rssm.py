"""Filtering and imagination against loops over single steps, and what a reset and the noise must do."""

from functools import cache, partial
from types import SimpleNamespace

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from helpers import random_action, random_state

from dreamer_jax.agent import rssm
from dreamer_jax.agent.latents import Categorical
from dreamer_jax.agent.networks import apply
from dreamer_jax.agent.types import CategoricalLatent

EMBED = helpers.MODEL.units


@cache
def compiled() -> SimpleNamespace:
    """Networks, parameters, and the compiled functions on them."""
    nets, params = helpers.tiny_networks(), helpers.tiny_params()[0]

    def policy(key, features):
        return jnp.tanh(features[:, :3] + jax.random.normal(key, (features.shape[0], 3)))

    return SimpleNamespace(
        nets=nets,
        params=params,
        observe=jax.jit(partial(rssm.observe, nets)),
        observe_step=jax.jit(partial(rssm.observe_step, nets)),
        imagine_step=jax.jit(partial(rssm.imagine_step, nets)),
        prior=jax.jit(lambda params, deter: apply(nets.rssm, params["rssm"], deter, method="prior")),
        policy=policy,
        compiled_policy=jax.jit(policy),
    )


@pytest.fixture
def model() -> SimpleNamespace:
    return compiled()


def _inputs(seed: int, batch: int, length: int):
    """start, prev_action, embed, is_first of random sequences with resets in them."""
    nets, rng = helpers.tiny_networks(), np.random.default_rng(seed)
    embed = jnp.asarray(rng.normal(size=(batch, length, EMBED)), jnp.float32)
    is_first = jnp.asarray(rng.random((batch, length)) < 0.3)
    return random_state(nets, seed, (batch,)), random_action(nets, seed, (batch, length)), embed, is_first


class Loop(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters((2, 5, 0), (1, 1, 1))
    def test_observe_is_a_loop_of_observe_step(self, batch, length, seed):
        """The scan gives the states, posteriors and priors of one step at a time with the same keys."""
        model, key = compiled(), jax.random.key(seed)
        start, prev_action, embed, is_first = _inputs(seed, batch, length)
        scanned = self.variant(partial(rssm.observe, model.nets))(model.params, key, start, prev_action, embed, is_first)

        state, looped = start, []
        for t, step_key in enumerate(jax.random.split(key, length)):
            inputs = (prev_action[:, t], embed[:, t], is_first[:, t])
            noise = model.nets.latent.noise(step_key, (batch,))
            state, posterior = model.observe_step(model.params, noise, state, *inputs)
            looped.append((state, posterior, model.nets.latent.distribution(model.prior(model.params, state.deter))))
        stacked = jax.tree.map(lambda *steps: jnp.stack(steps, 1), *looped)
        chex.assert_trees_all_close(scanned, (state, *stacked), atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters((2, 3, 0), (1, 1, 1))
    def test_imagine_is_a_loop_of_imagine_step(self, batch, horizon, seed):
        """Features are those of the start and then the steps; action k is the policy's in state k and leads to state k + 1."""
        model, key, start = compiled(), jax.random.key(seed), random_state(compiled().nets, seed, (batch,))

        def imagine(params, key, start):
            return rssm.imagine(model.nets, params, model.policy, key, start, horizon)

        trajectory = self.variant(imagine)(model.params, key, start)

        states, actions = [start], []
        for action_key, state_key in jax.random.split(key, (horizon, 2)):
            actions.append(model.compiled_policy(action_key, rssm.features(states[-1])))
            noise = model.nets.latent.noise(state_key, (batch,))
            states.append(model.imagine_step(model.params, noise, states[-1], actions[-1])[0])
        chex.assert_shape(trajectory.action, (horizon, batch, 3))
        expected = jnp.stack([rssm.features(state) for state in states[:-1]])
        chex.assert_trees_all_close((trajectory.features, trajectory.last), (expected, states[-1]), atol=1e-5)
        chex.assert_trees_all_close(trajectory.action, jnp.stack(actions), atol=1e-5)


def test_two_halves_equal_the_whole(model):
    """Filtering in two calls, the second from the last state of the first with the later keys, changes nothing."""
    cut, (start, *inputs) = 2, _inputs(3, 2, 5)
    keys = jax.random.split(jax.random.key(3), 5)
    whole_last, *whole = model.observe(model.params, keys, start, *inputs)
    middle, *first = model.observe(model.params, keys[:cut], start, *[x[:, :cut] for x in inputs])
    last, *second = model.observe(model.params, keys[cut:], middle, *[x[:, cut:] for x in inputs])
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts, 1), first, second)
    chex.assert_trees_all_close((last, joined), (whole_last, whole), atol=1e-5)


def test_one_key_is_split_over_the_steps(model):
    """One key is the same as the keys it splits into."""
    inputs, key = _inputs(4, 2, 5), jax.random.key(4)
    chex.assert_trees_all_equal(
        model.observe(model.params, key, *inputs), model.observe(model.params, jax.random.split(key, 5), *inputs)
    )


@pytest.mark.parametrize("garbage", [7.0, np.nan])
def test_a_reset_forgets_everything_before(model, garbage):
    """From a first step on, nothing depends on the start, on earlier observations, or on the action into that step."""
    start, prev_action, embed, is_first = _inputs(5, 2, 5)
    is_first = jnp.zeros_like(is_first).at[0, 2].set(True)
    key = jax.random.key(5)
    last, *clean = model.observe(model.params, key, start, prev_action, embed, is_first)
    dirty_last, *dirty = model.observe(
        model.params,
        key,
        jax.tree.map(lambda x: jnp.full_like(x, garbage), start),
        prev_action.at[:, :3].set(garbage),
        embed.at[:, :2].set(garbage),
        is_first,
    )
    after = jax.tree.map(lambda x: x[0, 2:], (clean, dirty))
    chex.assert_trees_all_equal(*after)
    chex.assert_trees_all_equal(*jax.tree.map(lambda x: x[0], (last, dirty_last)))
    chex.assert_tree_all_finite(after[1])
    # Row 1 is not reset, so there the same garbage does matter.
    assert not np.array_equal(clean[0].deter[1, 2:], dirty[0].deter[1, 2:])


def test_a_reset_is_a_step_from_zeros(model):
    """The step at a reset equals one from the zero state with the all-zero action, which no one-hot action is."""
    start, prev_action, embed, _ = _inputs(6, 2, 1)
    step = partial(model.observe_step, model.params, model.nets.latent.noise(jax.random.key(6), (2,)))
    reset = step(start, prev_action[:, 0], embed[:, 0], jnp.array([True, True]))
    zeros = step(rssm.initial_state(model.nets, (2,)), jnp.zeros((2, 3)), embed[:, 0], jnp.array([False, False]))
    chex.assert_trees_all_equal(reset, zeros)
    chex.assert_trees_all_equal(rssm.initial_state(model.nets, (2,)), jax.tree.map(jnp.zeros_like, start))


def test_noise_differs_between_steps_and_rows(model):
    """With the same uniform posterior everywhere, no two time steps and no two rows draw the same latents."""
    batch, length = 8, 16
    params = dict(model.params)
    head = jax.tree.map(jnp.zeros_like, params["rssm"]["posterior_out"])
    params["rssm"] = {**params["rssm"], "posterior_out": head}
    start = rssm.initial_state(model.nets, (batch,))
    inputs = (jnp.zeros((batch, length, 3)), jnp.zeros((batch, length, EMBED)), jnp.ones((batch, length), bool))
    _, states, posterior, _ = model.observe(params, jax.random.key(0), start, *inputs)

    np.testing.assert_array_equal(posterior.logits, np.zeros_like(posterior.logits))
    draws = np.asarray(states.stoch).argmax(-1)  # [B, T, S]
    assert len({draws[b].tobytes() for b in range(batch)}) == batch
    assert len({draws[:, t].tobytes() for t in range(length)}) == length
    chex.assert_trees_all_close(np.bincount(draws.ravel()) / draws.size, np.full(3, 1 / 3), atol=0.12)


def test_imagined_noise_differs_between_steps_and_rows(model):
    """With a uniform prior and a constant action, no two imagined steps and no two trajectories draw the same latents."""
    batch, horizon = 8, 16
    params = dict(model.params)
    params["rssm"] = {**params["rssm"], "prior_out": jax.tree.map(jnp.zeros_like, params["rssm"]["prior_out"])}
    start = rssm.initial_state(model.nets, (batch,))
    trajectory = rssm.imagine(
        model.nets, params, lambda key, seen: jnp.zeros((batch, 3)), jax.random.key(0), start, horizon + 1
    )
    draws = np.asarray(trajectory.features[1:, :, model.nets.rssm.config.deter :])  # [H, N, S*K]
    assert len({draws[k].tobytes() for k in range(horizon)}) == horizon
    assert len({draws[:, n].tobytes() for n in range(batch)}) == batch


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_latents_are_one_hot(dtype):
    """Every stoch variable is one-hot to the last bit, in the compute dtype; deter stays inside (-1, 1)."""
    nets, (start, prev_action, embed, is_first) = helpers.tiny_networks(dtype=dtype), _inputs(7, 4, 5)
    start = jax.tree.map(lambda x: x.astype(dtype), start)
    observe = jax.jit(partial(rssm.observe, nets))
    _, states, *_ = observe(helpers.tiny_params()[0], jax.random.key(7), start, prev_action.astype(dtype), embed, is_first)
    chex.assert_type(jax.tree.leaves(states), dtype)
    stoch = np.asarray(states.stoch, np.float32)
    assert set(np.unique(stoch)) == {0.0, 1.0}
    np.testing.assert_array_equal(stoch.sum(-1), np.ones((4, 5, 2)))
    assert np.abs(np.asarray(states.deter, np.float32)).max() < 1


@pytest.mark.parametrize("shape", [(), (2,), (2, 5)])
def test_features_are_deter_then_stoch(shape):
    """Heads read deter first, then the flat latents."""
    state = random_state(helpers.tiny_networks(), 0, shape)
    features = rssm.features(state)
    chex.assert_shape(features, (*shape, 16 + 2 * 3))
    np.testing.assert_array_equal(features[..., :16], state.deter)
    np.testing.assert_array_equal(features[..., 16:], np.asarray(state.stoch).reshape(*shape, 6))


@pytest.mark.parametrize("seed", [0, 1])
def test_kl_terms(seed):
    """dyn and rep are both KL(posterior || prior) summed over variables; dyn trains the prior only, rep the posterior only."""
    logits = np.random.default_rng(seed).normal(0, 2, (2, 2, 5, 2, 3)).astype(np.float32)
    probs = 0.99 * np.exp(logits) / np.exp(logits).sum(-1, keepdims=True) + 0.01 / 3
    expected = np.zeros((2, 5))
    for s in range(2):
        for k in range(3):
            p, q = probs[0, ..., s, k], probs[1, ..., s, k]
            expected += p * np.log(p / q)

    def terms(post, prior):
        return rssm.kl_loss(Categorical(helpers.MODEL), CategoricalLatent(post), CategoricalLatent(prior))

    def term(index):
        return lambda post, prior: terms(post, prior)[index].sum()

    dyn, rep = terms(*logits)
    chex.assert_trees_all_close((dyn, rep), (np.float32(expected), np.float32(expected)), rtol=1e-4)
    to_posterior, to_prior = jax.grad(term(0), argnums=(0, 1))(*logits)
    assert not to_posterior.any()
    assert to_prior.any()
    to_posterior, to_prior = jax.grad(term(1), argnums=(0, 1))(*logits)
    assert to_posterior.any()
    assert not to_prior.any()
