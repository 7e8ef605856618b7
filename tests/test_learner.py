"""The learner beside a replay with stored latents."""

from functools import partial

import helpers
import jax
import numpy as np
import pytest

from dreamer_jax import rssm
from dreamer_jax.learner import Learner
from dreamer_jax.replay import Replay
from dreamer_jax.train_step import init_agent

LENGTH = 5


@pytest.fixture(scope="module")
def learner():
    """A learner over a replay of 20 records of random observations and latents."""
    nets = helpers.tiny_networks(True)
    replay = helpers.CONFIG.replay.model_copy(update={"batch_size": 2, "batch_length": LENGTH, "context": 1})
    config = helpers.CONFIG.model_copy(update={"replay": replay})
    memory = Replay(nets.obs_specs, nets.action_spec, rssm.latent_spec(nets), 40, 1, LENGTH, False, seed=0)
    learner = Learner(nets, config, jax.jit(partial(init_agent, nets, config))(jax.random.key(0)), memory)
    rng, none = np.random.default_rng(0), np.zeros(1, bool)
    for i in range(20):
        obs = jax.tree.map(np.asarray, helpers.random_obs(i, (1,)))
        stored = rssm.to_stored(nets, helpers.random_state(nets, i, (1,)))
        action = np.eye(nets.action_spec.size, dtype=np.float32)[rng.integers(nets.action_spec.size, size=1)]
        deter, stoch = np.asarray(stored.deter), np.asarray(stored.stoch)
        memory.add(obs, action, np.ones(1), np.array([i == 0]), none, none, deter, stoch)
    return nets, learner, memory


def test_latents_survive_the_replay(learner):
    """What is read back is what the policy computed: from_stored inverts to_stored exactly."""
    nets, _, _ = learner
    state = helpers.random_state(nets, 7, (3,))
    state = state.replace(stoch=jax.nn.one_hot(state.stoch.argmax(-1), state.stoch.shape[-1]))
    back = rssm.from_stored(nets, rssm.to_stored(nets, state))
    np.testing.assert_array_equal(back.deter, state.deter)
    np.testing.assert_array_equal(back.stoch, state.stoch)


def test_an_update_trains_from_the_stored_latent_and_writes_the_new_ones_back(learner):
    """The latents of update k land when update k + 1 has been dispatched, in the records that k was trained on."""
    _, learner, memory = learner
    before = memory.storage["latent/deter"].copy()
    learner.update(1)
    np.testing.assert_array_equal(memory.storage["latent/deter"], before)
    sequences, stored = learner._latents
    learner.update(1)
    deter = np.asarray(stored.deter)
    for row in range(2):
        records = np.arange(sequences.first[row], sequences.first[row] + LENGTH)
        held = memory.storage["latent/deter"][0, records]
        # Rows of a batch may overlap; the later one wins.
        if row == 1 or not set(records) & set(range(sequences.first[1], sequences.first[1] + LENGTH)):
            np.testing.assert_array_equal(held, deter[row])
    assert not np.array_equal(memory.storage["latent/deter"], before)


def test_the_first_trained_latent_depends_on_the_stored_one(learner):
    """With context the first posterior changes when the stored latent does; the zero state would hide it."""
    nets, learner, memory = learner
    sequences = memory.sample(2)
    start = learner._start(sequences)
    world_model = learner.state.world_model.params
    batch = helpers.random_obs(0, (2,))
    embed = nets.encoder.apply({"params": world_model["encoder"]}, batch)
    action = sequences.prev_action[:, 0]
    first = np.zeros(2, bool)
    step = lambda state: rssm.observe_step(nets, world_model, jax.random.key(0), state, action, embed, first)[0].deter  # noqa: E731
    changed = start.replace(deter=start.deter + 0.5)
    assert np.abs(np.asarray(step(start) - step(changed))).max() > 1e-3
