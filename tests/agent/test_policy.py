"""Acting: resets, the mode, the latent that is carried, and independence of the rows."""

from functools import partial

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.agent import rssm
from dreamer_jax.agent.networks import apply
from dreamer_jax.agent.policy import compile_policy, explore, initial_carry
from dreamer_jax.agent.types import ActingParams, PolicyCarry
from dreamer_jax.core.spaces import ActionSpec

BATCH = 3
CONFIG = helpers.CONFIG.behavior


@pytest.fixture(scope="module", params=[True, False], ids=["discrete", "continuous"])
def actor(request):
    """Networks, parameters and the compiled policies {mode: step}."""
    nets, (world_model, actor, _) = helpers.tiny_networks(request.param), helpers.tiny_params(request.param)
    return (
        nets,
        ActingParams(world_model, actor),
        {mode: compile_policy(nets, CONFIG, mode) for mode in ("sampled", "deterministic")},
    )


def _inputs(nets, seed: int):
    """A carry from the middle of an episode and the next observation."""
    carry = PolicyCarry(helpers.random_state(nets, seed, (BATCH,)), helpers.random_action(nets, seed, (BATCH,)))
    return carry, helpers.random_obs(seed, (BATCH,))


NO_RESET = np.zeros(BATCH, bool)
KEY = jax.random.key(0)


@pytest.mark.parametrize("mode", ["deterministic", "sampled"])
def test_a_reset_forgets_the_carry(actor, mode):
    """At a first step garbage in the carry, NaN too, gives what the zero carry gives; without a reset it matters."""
    nets, params, steps = actor
    carry, obs = _inputs(nets, 0)
    fresh = steps[mode](params, KEY, initial_carry(nets, BATCH), obs, NO_RESET)
    garbage = jax.tree.map(lambda x: x.at[0].set(jnp.nan), carry)
    reset = steps[mode](params, KEY, garbage, obs, np.array([True, True, False]))
    chex.assert_trees_all_equal(*jax.tree.map(lambda x: x[:2], (fresh, reset)))
    assert not np.array_equal(fresh[1].latent.deter[2], reset[1].latent.deter[2])


def test_deterministic_takes_the_mode(actor):
    """The most likely class, or tanh of the mean, at the latent that is carried; the random key does not choose it."""
    nets, params, steps = actor
    carry, obs = _inputs(nets, 1)
    action, new = steps["deterministic"](params, KEY, carry, obs, NO_RESET)
    outputs = apply(nets.actor, params.actor, rssm.features(new.latent))
    discrete = nets.action_spec.discrete
    expected = np.eye(3)[np.asarray(outputs["logits"]).argmax(-1)] if discrete else np.tanh(outputs["mean"])
    chex.assert_trees_all_close(action, np.float32(expected), atol=1e-5)


def test_sampling_follows_the_actor(actor):
    """Over many draws at one latent, the samples have the mean that the actor's outputs say, and they vary."""
    nets, params, _ = actor
    # A posterior of zero kernel and one sure class: every draw of the latent is the same.
    head = params.world_model["rssm"]["posterior_out"]
    sure = {"kernel": jnp.zeros_like(head["kernel"]), "bias": jnp.array([100.0, 0, 0, 100.0, 0, 0])}
    world_model = {**params.world_model, "rssm": {**params.world_model["rssm"], "posterior_out": sure}}
    params = params.replace(world_model=world_model)
    count = 2000
    obs = jax.tree.map(lambda x: jnp.repeat(x[:1], count, 0), helpers.random_obs(2, (1,)))
    step = compile_policy(nets, CONFIG, "sampled")
    action, new = step(params, KEY, initial_carry(nets, count), obs, np.ones(count, bool))

    common = np.asarray(new.latent.stoch[:, :, 0]).all(-1)  # unimix still draws another class now and then
    assert common.mean() > 0.95
    outputs = apply(nets.actor, params.actor, rssm.features(jax.tree.map(lambda x: x[common][:1], new.latent)))
    if nets.action_spec.discrete:
        logits = np.asarray(outputs["logits"][0])
        mean = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_array_equal(action.sum(-1), np.ones(count))
    else:
        mean = np.tanh(outputs["mean"][0])
    draws = np.asarray(action)[common]
    chex.assert_trees_all_close(draws.mean(0), np.asarray(mean), atol=0.08)
    assert (draws.std(0) > 0.05).all()


@pytest.mark.parametrize("mode", ["deterministic", "sampled"])
def test_the_carry_is_what_filtering_gives(actor, mode):
    """The carried latent is `observe_step` on the encoded observation and the last action; the action is carried too."""
    nets, params, steps = actor
    carry, obs = _inputs(nets, 3)
    is_first = np.array([False, True, False])
    action, new = steps[mode](params, KEY, carry, obs, is_first)

    latent_key, _ = jax.random.split(KEY)
    embed = apply(nets.encoder, params.world_model["encoder"], obs)
    observe_step = jax.jit(partial(rssm.observe_step, nets))
    noise = nets.latent.noise(latent_key, (BATCH,))
    expected, _ = observe_step(params.world_model, noise, carry.latent, carry.prev_action, embed, is_first)
    chex.assert_trees_all_close(new.latent, expected, atol=1e-5)
    chex.assert_trees_all_equal(new.prev_action, action)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, initial_carry(nets, BATCH))


@pytest.mark.parametrize("mode", ["deterministic", "sampled"])
def test_rows_are_independent(actor, mode):
    """Another carry, observation and reset in row 1 change row 1 only."""
    nets, params, steps = actor
    (carry, obs), (other_carry, other_obs) = _inputs(nets, 4), _inputs(nets, 5)
    swapped = jax.tree.map(lambda x, y: x.at[1].set(y[1]), (carry, obs), (other_carry, other_obs))
    one = steps[mode](params, KEY, carry, obs, NO_RESET)
    other = steps[mode](params, KEY, *swapped, np.array([False, True, False]))
    chex.assert_trees_all_close(*jax.tree.map(lambda x: x[np.array([0, 2])], (one, other)), atol=1e-6)
    assert not np.array_equal(one[1].latent.deter[1], other[1].latent.deter[1])


def test_the_key_chooses_the_noise(actor):
    """The same key repeats a step bit by bit, another one draws anew, and rows draw differently."""
    nets, params, steps = actor
    carry, obs = _inputs(nets, 6)
    keys = jax.random.split(KEY, 8)
    runs = [[steps["sampled"](params, key, carry, obs, NO_RESET) for key in keys] for _ in range(2)]
    chex.assert_trees_all_equal(*runs)
    draws = np.stack([np.concatenate([a, c.latent.stoch.reshape(BATCH, -1)], -1) for a, c in runs[0]])
    assert len({draw.tobytes() for draw in draws}) > 4
    same = jax.tree.map(lambda x: jnp.repeat(x[:1], BATCH, 0), (carry, obs))
    rows = np.stack([np.asarray(steps["sampled"](params, key, *same, NO_RESET)[0]) for key in keys])
    assert any(not np.array_equal(rows[i, 0], rows[i, 1]) for i in range(8))


@pytest.mark.parametrize("seeds", [1, 2])
def test_agents_of_several_seeds_act_by_themselves(actor, seeds):
    """With an axis of agents in front, each acts as it does alone: with its own key, memory and observation."""
    nets, params, steps = actor
    keys, inputs = jax.random.split(KEY, seeds), [_inputs(nets, i) for i in range(seeds)]
    together = compile_policy(nets, CONFIG, "sampled", seeds)
    carry, obs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *inputs)
    many = jax.tree.map(lambda x: jnp.stack([x] * seeds), params)
    found = together(many, keys, carry, obs, np.stack([NO_RESET] * seeds))
    for i, (own_carry, own_obs) in enumerate(inputs):
        alone = steps["sampled"](params, keys[i], own_carry, own_obs, NO_RESET)
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], found), alone, atol=1e-5)


def test_exploration_adds_noise_to_continuous_actions_and_chance_to_discrete_ones():
    """Deviation 0.3 around the action, never outside [-1, 1]; a share of 0.6 of random choices, a third of them the old one."""
    key, count = jax.random.key(0), 20_000
    noisy = explore(key, jnp.zeros((count, 2)), ActionSpec(False, 2), 0.3)
    assert abs(float(noisy.std()) - 0.3) < 0.01
    assert np.abs(noisy).max() == 1
    chosen = explore(key, jnp.eye(3)[jnp.zeros(count, int)], ActionSpec(True, 3), 0.6)
    np.testing.assert_array_equal(chosen.sum(-1), 1)
    np.testing.assert_allclose(chosen.mean(0), [0.6, 0.2, 0.2], atol=0.02)


def test_only_the_collecting_policy_explores(actor):
    """With exploration, a sampled action stays what it was, and the exploring one is another."""
    nets, params, steps = actor
    carry, obs = _inputs(nets, 1)
    config = CONFIG.model_copy(update={"exploration": 1.0})
    actions = {
        mode: compile_policy(nets, config, mode)(params, KEY, carry, obs, NO_RESET)[0] for mode in ("sampled", "exploring")
    }
    np.testing.assert_array_equal(actions["sampled"], steps["sampled"](params, KEY, carry, obs, NO_RESET)[0])
    assert not np.array_equal(actions["exploring"], actions["sampled"])
