"""The learner beside a replay with stored latents."""

from functools import partial

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.agent import rssm
from dreamer_jax.agent.policy import compile_policy, initial_carry
from dreamer_jax.agent.train_step import init_agent
from dreamer_jax.replay.buffer import Replay
from dreamer_jax.training.learner import Learner

LENGTH = 5


def only(tree):
    """Without the axis of seeds, of which there is one."""
    chex.assert_tree_shape_prefix(tree, (1,))
    return jax.tree.map(lambda x: x[0], tree)


@pytest.fixture(scope="module", params=[jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def learner(request):
    """A learner over a replay of 20 records of random observations and latents."""
    nets = helpers.tiny_networks(True, request.param)
    replay = helpers.CONFIG.replay.model_copy(update={"batch_size": 2, "batch_length": LENGTH, "context": 1})
    config = helpers.CONFIG.model_copy(update={"replay": replay})
    memory = Replay(nets.obs_specs, nets.action_spec, nets.latent.spec(nets.dtype), 40, 1, LENGTH, False, seed=0)
    agent = helpers.quick_jit(partial(init_agent, nets, config))(jax.random.key(0))
    learner = Learner(nets, config, [agent], [memory])
    rng, none = np.random.default_rng(0), np.zeros(1, bool)
    for i in range(20):
        obs = jax.tree.map(np.asarray, helpers.random_obs(i, (1,)))
        stored = nets.latent.to_stored(helpers.random_state(nets, i, (1,)))
        action = np.eye(nets.action_spec.size, dtype=np.float32)[rng.integers(nets.action_spec.size, size=1)]
        deter, stoch = np.asarray(stored.deter), np.asarray(stored.stoch)
        memory.add(obs, action, np.ones(1), np.array([i == 0]), none, none, deter, stoch)
    return nets, learner, memory


def test_what_is_read_back_is_what_the_policy_computed(learner):
    """From the policy into the replay and out of it as the start of a batch: the same bits in the same dtype."""
    nets, learner, _ = learner
    memory = Replay(nets.obs_specs, nets.action_spec, nets.latent.spec(nets.dtype), 40, 1, LENGTH, False, seed=0)
    policy, carry = compile_policy(nets, helpers.CONFIG.behavior, "exploring"), initial_carry(nets, 1)
    acting = only(learner.acting)
    none, latents = np.zeros(1, bool), []
    for i in range(12):
        obs = jax.tree.map(np.asarray, helpers.random_obs(i, (1,)))
        action, carry = policy(acting, jax.random.fold_in(jax.random.key(0), i), carry, obs, np.array([i == 0]))
        latents.append(jax.device_get(carry.latent))
        memory.add(obs, np.asarray(action), np.ones(1), none, none, none, **vars(learner.fetch_latents(carry.latent)))
    sequences = memory.sample(8)
    start = only(learner._start([sequences]))
    chex.assert_type([start.deter, start.stoch], nets.dtype)
    for row, first in enumerate(sequences.first):
        context = latents[first - 1]
        np.testing.assert_array_equal(np.asarray(start.deter[row], np.float32), context.deter[0].astype(np.float32))
        np.testing.assert_array_equal(np.asarray(start.stoch[row], np.float32), context.stoch[0].astype(np.float32))


def test_an_update_trains_from_the_stored_latent_and_writes_the_new_ones_back(learner):
    """The latents of update k land when update k + 1 has been dispatched, in the records that k was trained on."""
    _, learner, memory = learner
    before = memory.storage["latent/deter"].copy()
    learner.update(1)
    np.testing.assert_array_equal(memory.storage["latent/deter"], before)
    (first,), stored = learner._last.first, learner._last.latents
    learner.update(1)
    deter = np.asarray(stored.deter[0]).view(memory.latent.deter_dtype)
    for row in range(2):
        records = np.arange(first[row], first[row] + LENGTH)
        held = memory.storage["latent/deter"][0, records]
        # Rows of a batch may overlap; the later one wins.
        if row == 1 or not set(records) & set(range(first[1], first[1] + LENGTH)):
            np.testing.assert_array_equal(held, deter[row])
    assert not np.array_equal(memory.storage["latent/deter"], before)


def test_the_first_trained_latent_depends_on_the_stored_one(learner):
    """With context the first posterior changes when the stored latent does; the zero state would hide it."""
    nets, learner, memory = learner
    sequences = memory.sample(2)
    start = only(learner._start([sequences]))
    world_model = only(learner.state).world_model.params
    batch = helpers.random_obs(0, (2,))
    embed = nets.encoder.apply({"params": world_model["encoder"]}, batch)
    action = sequences.prev_action[:, 0]
    first, noise = np.zeros(2, bool), nets.latent.noise(jax.random.key(0), (2,))
    step = lambda state: rssm.observe_step(nets, world_model, noise, state, action, embed, first)[0].deter  # noqa: E731
    changed = start.replace(deter=start.deter + 0.5)
    assert np.abs(np.asarray(step(start) - step(changed))).max() > 1e-3
