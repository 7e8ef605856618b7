"""The update as a whole: who gets which gradient, one compilation, reproducibility, learning, and finite numbers."""

from functools import cache, partial
from types import SimpleNamespace

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dreamer_jax.agent import devices, train_step
from dreamer_jax.agent.layout import ACCELERATOR, CPU
from dreamer_jax.agent.networks import build_networks
from dreamer_jax.agent.train_step import compile_train_step, count_params, init_agent, loss_weight, total_loss
from dreamer_jax.agent.types import ReturnNorm
from dreamer_jax.core.algorithm import ModelConfig
from dreamer_jax.core.config import Config
from dreamer_jax.core.spaces import ActionSpec, ObsSpec

# Which parts each loss trains. dyn = KL(sg posterior || prior) reaches the posterior and the encoder through the latents
# of earlier steps, which shape deter; rep never reaches the prior.
FILTER = {"encoder", "core", "posterior"}
TRAINS = {
    "decoder": FILTER | {"decoder"},
    "reward": FILTER | {"reward"},
    "continue": FILTER | {"continue"},
    "dyn": FILTER | {"prior"},
    "rep": FILTER,
    "policy": {"actor"},
    "value": {"critic"},
    "replay_value": FILTER | {"critic"},
}
LOSSES = tuple(TRAINS)
# V1's policy loss comes through reward head, critic and dynamics, V2's in part, and leaves all of them at exactly zero.
VERSIONS = {
    "v3": (helpers.CONFIG, True, LOSSES),
    "v2": (helpers.V2, True, LOSSES[:-1]),
    "v1": (helpers.V1, False, tuple(name for name in LOSSES[:-1] if name != "continue")),
}


def _part(path: tuple[str, ...]) -> str:
    """The row of the routing table that a parameter belongs to."""
    if path[0] != "rssm":
        return path[0]
    return next((part for part in ("prior", "posterior") if path[1].startswith(part)), "core")


@cache
def gradients(version: str):
    """compute(loss name, batch) of a single loss term -> {part: [leaves]}; the choice is traced, so it compiles once."""
    config, discrete, _ = VERSIONS[version]
    nets = build_networks(config, helpers.OBS_SPECS, ActionSpec(discrete, 3 if discrete else 2), jnp.float32, CPU)
    all_params = helpers.random_params(nets)
    slow_critic = helpers.perturb(all_params[2], seed=2)

    def objective(params, slow_critic, chosen, batch):
        norm = ReturnNorm(jnp.float32(0), jnp.float32(0))
        _, (losses, *_) = total_loss(nets, config, params, slow_critic, norm, jax.random.key(0), batch, {})
        return sum(chosen[name.split("/")[0]] * loss.mean() for name, loss in losses.items())

    compiled = helpers.quick_jit(jax.grad(objective, argnums=(0, 1)))

    def compute(name, batch):
        chosen = {other: jnp.float32(other == name) for other in LOSSES}
        (world_model, actor, critic), slow = compiled(all_params, slow_critic, chosen, batch)
        parts = {}
        for path, leaf in flatten_dict({**world_model, "actor": actor, "critic": critic, "slow_critic": slow}).items():
            parts.setdefault(_part(path), []).append(np.asarray(leaf))
        return parts

    return nets, compute


@pytest.mark.parametrize(("version", "name"), [(version, name) for version, row in VERSIONS.items() for name in row[2]])
def test_gradient_routing(version, name):
    """Each loss reaches every array of the parts it trains, and exactly none of the others; the slow critic none."""
    nets, compute = gradients(version)
    parts = compute(name, helpers.random_batch(nets, 0))
    assert set(parts) == set.union(*(TRAINS[name] for name in VERSIONS[version][2])) | {"slow_critic"}
    for part, leaves in parts.items():
        chex.assert_tree_all_finite(leaves)
        touched = [bool(leaf.any()) for leaf in leaves]
        assert touched == [part in TRAINS[name]] * len(leaves), part


def test_dyn_reaches_the_posterior_only_through_time():
    """With a reset at every step no latent is carried on: dyn trains prior and core, and the posterior gets exactly 0."""
    nets, compute = gradients("v3")
    batch = helpers.random_batch(nets, 0)
    parts = compute("dyn", batch.replace(is_first=jnp.ones_like(batch.is_first)))
    assert all(leaf.any() for leaf in parts["prior"])
    assert any(leaf.any() for leaf in parts["core"])
    assert not any(leaf.any() for part in ("encoder", "posterior") for leaf in parts[part])


def test_every_loss_has_its_weight():
    """`config.loss` weighs each term by its name; the keys of the decoder share one."""
    weights = {name: float(i) for i, name in enumerate(LOSSES)}
    fields = {"continue_" if name == "continue" else name: weight for name, weight in weights.items()}
    config = helpers.CONFIG.model_copy(update={"loss": helpers.CONFIG.loss.model_copy(update=fields)})
    nets = build_networks(config, helpers.OBS_SPECS, ActionSpec(True, 3), jnp.float32, CPU)
    assert {name: loss_weight(nets, config, name) for name in LOSSES} == weights
    assert loss_weight(nets, config, "decoder/position") == weights["decoder"]


@pytest.fixture(scope="module")
def agent():
    """One compiled step and init; tracing the step a second time is an error."""
    nets = helpers.tiny_networks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_step, "train_step", chex.assert_max_traces(train_step.train_step, n=1))
        yield SimpleNamespace(
            nets=nets,
            init=helpers.quick_jit(lambda key: init_agent(nets, helpers.CONFIG, key)),
            step=compile_train_step(nets, helpers.CONFIG),
        )


def _run(agent, seed: int, updates: int):
    """The state and metrics after updates on changing batches."""
    state = agent.init(jax.random.key(seed))
    for i in range(updates):
        state, metrics, _ = agent.step(state, helpers.random_batch(agent.nets, i))
    return state, metrics


def _arrays(state):
    return jax.tree.leaves((state.world_model, state.actor, state.critic, state.slow_critic, state.return_norm))


def test_traced_once_over_changing_data(agent):
    """New batches, new states and another agent run the same program: one entry in the cache."""
    _run(agent, 0, 3)
    state, _ = _run(agent, 1, 1)
    assert agent.step._cache_size() == 1
    assert int(state.step) == 1


def test_the_state_is_donated_and_the_batch_is_not(agent):
    """An update consumes the old state; the new one and the same batch serve the next update."""
    batch, old = helpers.random_batch(agent.nets, 0), agent.init(jax.random.key(0))
    new, _, _ = agent.step(old, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.world_model.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(batch))
    newer, metrics, _ = agent.step(new, batch)
    assert int(newer.step) == 2
    chex.assert_tree_all_finite(metrics)


def test_same_seed_gives_identical_bits(agent):
    """Twenty updates from one seed twice agree in every bit; another seed does not."""
    one, same, other = (_run(agent, seed, 20)[0] for seed in (0, 0, 1))
    chex.assert_trees_all_equal(_arrays(one), _arrays(same))
    assert not np.array_equal(*(state.actor.params["logits"]["kernel"] for state in (one, other)))


def test_noise_depends_on_the_update(agent):
    """The same parameters and batch draw other latents at another step, and the run's key stays."""
    batch = helpers.random_batch(agent.nets, 0)
    draws = []
    for step in (0, 0, 1):
        state = agent.init(jax.random.key(0))
        key = np.array(jax.random.key_data(state.key))
        state, _, states = agent.step(state.replace(step=jnp.int32(step)), batch)
        np.testing.assert_array_equal(jax.random.key_data(state.key), key)
        draws.append(np.asarray(states.stoch))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_slow_critic_lags(agent):
    """After an update: 0.98 of the old slow critic and 0.02 of the new critic; it starts as a copy."""
    state = agent.init(jax.random.key(0))
    chex.assert_trees_all_equal(state.slow_critic, state.critic.params)
    for i in range(3):
        old = jax.tree.map(np.array, state.slow_critic)
        state, _, _ = agent.step(state, helpers.random_batch(agent.nets, i))
        expected = jax.tree.map(lambda slow, new: 0.98 * slow + 0.02 * np.asarray(new), old, state.critic.params)
        chex.assert_trees_all_close(state.slow_critic, expected, atol=1e-6)
    moved = jax.tree.map(lambda slow, new: np.abs(slow - new).max(), state.slow_critic, state.critic.params)
    assert max(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_fixed_batch_is_learned(agent, seed):
    """Over 300 updates on one batch the world model's weighted loss falls below a third (mean of the last 50)."""
    state, batch, totals = agent.init(jax.random.key(seed)), helpers.random_batch(agent.nets, seed), []
    names = ("decoder/position", "decoder/mode", "reward", "continue", "dyn", "rep")
    for _ in range(300):
        state, metrics, _ = agent.step(state, batch)
        totals.append(sum(loss_weight(agent.nets, helpers.CONFIG, name) * float(metrics[f"loss/{name}"]) for name in names))
    assert np.mean(totals[-50:]) < totals[0] / 3


def _batch_of(nets, kind: str):
    batch = helpers.random_batch(nets, 0)
    constant = jax.tree.map(jnp.zeros_like, batch.obs)
    return {
        "rewards of 1e6": batch.replace(reward=1e6 * jnp.sign(batch.reward)),
        "constant observations": batch.replace(obs=constant, reward=jnp.zeros_like(batch.reward)),
        "observations of 1e6": batch.replace(obs={**batch.obs, "position": jnp.sign(batch.obs["position"]) * 1e6}),
        "actions of 1e6": batch.replace(prev_action=batch.prev_action * 1e6),
    }[kind]


@pytest.mark.parametrize("kind", ["rewards of 1e6", "constant observations", "observations of 1e6", "actions of 1e6"])
def test_nothing_becomes_nan(agent, kind):
    """Losses, states and parameters stay finite over three updates on extreme data."""
    state, batch = agent.init(jax.random.key(0)), _batch_of(agent.nets, kind)
    for _ in range(3):
        state, metrics, states = agent.step(state, batch)
        chex.assert_tree_all_finite((metrics, states))
    chex.assert_tree_all_finite(_arrays(state))


def test_bfloat16_is_for_computing_alone(agent):
    """Parameters, optimiser, slow critic, normaliser and losses stay float32; latents are bfloat16. The losses are near the
    float32 ones.
    """
    config, state, batch = helpers.CONFIG, agent.init(jax.random.key(0)), helpers.random_batch(agent.nets, 0)
    nets = helpers.tiny_networks(dtype=jnp.bfloat16)
    init = helpers.quick_jit(partial(init_agent, nets, config))
    chex.assert_trees_all_equal_dtypes(_arrays(init(jax.random.key(0))), _arrays(state))

    def losses(nets):
        start = jax.tree.map(lambda x: x.astype(nets.dtype), batch.start)
        inputs = (
            helpers.tiny_params(),
            state.slow_critic,
            state.return_norm,
            jax.random.key(0),
            batch.replace(start=start),
            {},
        )
        loss, (terms, states, *_) = helpers.quick_jit(partial(total_loss, nets, config))(*inputs)
        chex.assert_type(jax.tree.leaves((loss, terms)), jnp.float32)
        chex.assert_type(jax.tree.leaves(states), nets.dtype)
        return {name: float(terms[name].mean()) for name in terms}

    low, high = losses(nets), losses(agent.nets)
    for name in ("reward", "continue", *(name for name in high if name.startswith("decoder/"))):
        assert low[name] == pytest.approx(high[name], rel=0.05), name


def test_parameter_counts():
    """The smallest size of the author's, with 24 observed numbers and 6 continuous actions."""
    config = Config(model=ModelConfig(deter=512, hidden=64, classes=4, units=64))
    nets = build_networks(config, {"vector": ObsSpec("vector", (24,))}, ActionSpec(False, 6), jnp.bfloat16, CPU)
    counts = count_params(nets)
    assert counts == {
        "encoder": 10112,
        "rssm": 364416,
        "decoder": 51096,
        "reward": 57663,
        "continue": 41153,
        "actor": 50316,
        "critic": 66111,
    }
    assert sum(counts.values()) == 640867


def test_a_level_of_optimisation_that_the_user_names_is_kept(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3")
    assert devices.compiler_options(CPU) == devices.compiler_options(CPU, once=True) == {}
    monkeypatch.delenv("XLA_FLAGS")
    assert devices.compiler_options(CPU) == {"xla_backend_optimization_level": 1}
    assert devices.compiler_options(CPU, once=True) == {"xla_backend_optimization_level": 0}


def test_an_accelerator_has_xlas_own_level(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    assert devices.compiler_options(ACCELERATOR) == devices.compiler_options(ACCELERATOR, once=True) == {}
