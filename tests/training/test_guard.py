"""Numbers that are not finite: the update is left out, its batch kept, and the run stopped after a limit."""

import contextlib
from functools import cache, partial

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import tiny_config

from dreamer_jax.agent import train_step
from dreamer_jax.agent.layout import CPU
from dreamer_jax.agent.networks import build_networks
from dreamer_jax.agent.train_step import compile_train_step, init_agent
from dreamer_jax.agent.types import ReturnNorm
from dreamer_jax.core.errors import DivergedError
from dreamer_jax.core.spaces import ActionSpec
from dreamer_jax.replay.buffer import Replay
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.metrics import read_metrics
from dreamer_jax.training import start
from dreamer_jax.training.learner import Learner

VERSIONS = {"v3": (helpers.CONFIG, True), "v1": (helpers.V1, False)}  # V1's policy gradient comes through the dynamics
BAD = {
    "NaN in an observation": lambda batch: batch.replace(obs=batch.obs | {"position": _one(batch.obs["position"], np.nan)}),
    "infinity in an observation": lambda batch: batch.replace(
        obs=batch.obs | {"position": _one(batch.obs["position"], np.inf)}
    ),
    "NaN in a reward": lambda batch: batch.replace(reward=_one(batch.reward, np.nan)),
    "infinity in a reward": lambda batch: batch.replace(reward=_one(batch.reward, -np.inf)),
    "NaN in a stored latent": lambda batch: batch.replace(
        start=batch.start.replace(deter=_one(batch.start.deter, np.nan)), is_first=jnp.zeros_like(batch.is_first)
    ),
}


def _one(array, value):
    """The array with one number replaced, not the first."""
    return array.at[(-1,) * array.ndim].set(value)


@cache
def agent(version: str):
    config, discrete = VERSIONS[version]
    nets = build_networks(config, helpers.OBS_SPECS, ActionSpec(discrete, 3 if discrete else 2), jnp.float32, CPU)
    return nets, compile_train_step(nets, config), helpers.quick_jit(partial(init_agent, nets, config))


def arrays(state) -> dict[str, np.ndarray]:
    """Copies of everything that an update changes."""
    parts = {name: value for name, value in vars(state).items() if name not in ("key", "step")}
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(parts)}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_batch_changes_nothing(version, kind):
    """Parameters, optimisers, slow critic and normaliser stay, bit for bit; the next good batch is learned from."""
    nets, step, init = agent(version)
    state, metrics, _ = step(init(jax.random.key(0)), helpers.random_batch(nets, 0))
    assert metrics["refused"] == 0
    before, key = arrays(state), np.array(jax.random.key_data(state.key))
    state, metrics, _ = step(state, BAD[kind](helpers.random_batch(nets, 1)))
    assert metrics["refused"] == 1
    chex.assert_trees_all_equal(arrays(state), before)
    assert int(state.step) == 2
    np.testing.assert_array_equal(jax.random.key_data(state.key), key)
    state, metrics, _ = step(state, helpers.random_batch(nets, 2))
    assert metrics["refused"] == 0
    after = arrays(state)
    chex.assert_tree_all_finite(after)
    assert sum(not np.array_equal(value, before[name]) for name, value in after.items()) > len(after) / 2


@jax.custom_vjp
def _finite_with_gradient(x, gradient):
    return jnp.zeros_like(x)


_finite_with_gradient.defvjp(
    lambda x, gradient: (jnp.zeros_like(x), gradient), lambda gradient, out: (out * gradient, jnp.zeros_like(gradient))
)


@pytest.fixture(scope="module")
def step_with_bad_gradients():
    """The compiled step. `return_norm.low` says which part has one bad number in its gradient: 1 to 3 NaN, 4 to 6 infinity."""
    loss = train_step.total_loss

    def with_bad_gradient(nets, config, params, slow_critic, return_norm, *rest):
        total, others = loss(nets, config, params, slow_critic, return_norm, *rest)
        for part, value in enumerate([np.nan] * 3 + [np.inf] * 3):
            leaf = jax.tree.leaves(params[part % 3])[-1]
            last = jnp.arange(leaf.size).reshape(leaf.shape) == leaf.size - 1
            total += _finite_with_gradient(leaf, jnp.where(last & (return_norm.low == part + 1), value, 0)).sum()
        return total, others

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_step, "total_loss", with_bad_gradient)
        yield compile_train_step(agent("v3")[0], helpers.CONFIG)


@pytest.mark.parametrize("case", range(7))
def test_a_bad_gradient_changes_nothing(step_with_bad_gradients, case):
    """The loss is finite; one number of the gradient of world model, actor or critic is not. In the first case all are."""
    nets, _, init = agent("v3")
    state = init(jax.random.key(0))
    state = state.replace(return_norm=ReturnNorm(jnp.float32(case), jnp.float32(10)))
    before = arrays(state)
    state, metrics, _ = step_with_bad_gradients(state, helpers.random_batch(nets, 1))
    assert np.isfinite(metrics["loss/total"])
    assert metrics["refused"] == (case > 0)
    if case:
        chex.assert_trees_all_equal(arrays(state), before)


def test_another_seed_learns_on():
    """Of two seeds in one step one has a bad batch: the other is updated as it is alone."""
    nets, alone, init = agent("v3")
    batches = [helpers.random_batch(nets, 0), BAD["NaN in a reward"](helpers.random_batch(nets, 1))]
    stack = partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    states = stack(*(init(jax.random.key(seed)) for seed in range(2)))
    before = arrays(jax.tree.map(lambda x: x[1], states))
    states, metrics, _ = compile_train_step(nets, helpers.CONFIG, 2)(states, stack(*batches))
    np.testing.assert_array_equal(metrics["refused"], [0, 1])
    chex.assert_trees_all_equal(arrays(jax.tree.map(lambda x: x[1], states)), before)
    expected, _, _ = alone(init(jax.random.key(0)), batches[0])
    chex.assert_trees_all_close(arrays(jax.tree.map(lambda x: x[0], states)), arrays(expected), atol=1e-5)


@pytest.fixture
def learner():
    """A learner and its replay, which holds 20 records with latents."""
    nets, _, init = agent("v3")
    replay = helpers.CONFIG.replay.model_copy(update={"batch_size": 2, "batch_length": 5, "context": 1})
    config = helpers.CONFIG.model_copy(update={"replay": replay})
    memory = Replay(nets.obs_specs, nets.action_spec, nets.latent.spec(nets.dtype), 20, 1, 5, False, seed=0)
    none = np.zeros(1, bool)
    for i in range(20):
        obs = jax.tree.map(np.asarray, helpers.random_obs(i, (1,)))
        stored = nets.latent.to_stored(helpers.random_state(nets, i, (1,)))
        action = np.eye(3, dtype=np.float32)[[i % 3]]
        memory.add(obs, action, np.ones(1), none, none, none, np.asarray(stored.deter), np.asarray(stored.stoch))
    return Learner(nets, config, [init(jax.random.key(0))], [memory]), memory


def test_the_latents_of_a_refused_update_are_not_written_back(learner):
    learner, memory = learner
    memory.storage["reward"][:] = np.nan
    before = memory.storage["latent/deter"].copy()
    learner.update(3)
    learner.settle()
    np.testing.assert_array_equal(memory.storage["latent/deter"], before)
    memory.storage["reward"][:] = 0
    learner.update(1)
    learner.settle()
    assert not np.array_equal(memory.storage["latent/deter"], before)


def test_a_refused_update_is_kept_and_left_out_of_the_means(learner):
    """Means over the two good ones of three, beside the metrics of each; the batch and what became of it are at hand."""
    learner, memory = learner
    rows, of_the_step = [], learner._train_step

    def spy(state, batch):
        state, metrics, latents = of_the_step(state, batch)
        rows.append(jax.device_get(metrics))
        return state, metrics, latents

    learner._train_step = spy
    learner.update(1)
    memory.storage["reward"][:] = np.nan
    learner.update(1)
    memory.storage["reward"][:] = 0
    learner.update(1)
    [means] = learner.fetch_metrics()
    assert means.pop("refused_updates") == 1
    for name, mean in means.items():
        assert mean == pytest.approx((rows[0][name][0] + rows[2][name][0]) / 2, rel=1e-6), name
    [refused] = learner.refused
    assert (refused.index, refused.step) == (0, 1)
    assert np.isnan(refused.sequences.reward).all()
    np.testing.assert_array_equal(refused.metrics["loss/reward"], rows[1]["loss/reward"][0])
    assert learner.fetch_metrics() == [{}]


@pytest.fixture
def spoil(monkeypatch):
    """spoil(calls): the rewards of these samplings of the replay are NaN."""
    sample, count = Replay.sample, [0]

    def spoiling(calls):
        def spoilt(self, batch_size):
            sequences = sample(self, batch_size)
            count[0] += 1
            if count[0] in calls:
                sequences.reward[:] = np.nan
            return sequences

        monkeypatch.setattr(Replay, "sample", spoilt)

    return spoiling


def test_a_run_leaves_out_bad_updates_and_keeps_their_batches(tmp_path, spoil, said):
    """The third and the last update of nine."""
    spoil([3, 9])
    run = start.train(tiny_config(tmp_path, train__frames=48, replay__context=1))
    output = said()
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "train"]
    assert rows[-1]["updates"] == 9
    assert sum(row["refused_updates"] for row in rows) == 2
    assert all(np.isfinite(row["loss/total"]) for row in rows)
    assert sorted(path.name for path in (run / "refused").iterdir()) == ["2.npz", "8.npz"]
    [line] = [line for line in output.splitlines() if line.startswith("update 2 of seed 0 left out: ")]
    assert "loss/reward, " in line
    assert line.endswith(f" not finite; its batch is in {run / 'refused' / '2.npz'}")
    with np.load(run / "refused" / "2.npz", allow_pickle=False) as file:
        assert file["reward"].shape == (2, 8)
        assert np.isnan(file["reward"]).all()
        assert file["obs/observation"].shape == (2, 8, 2)
        assert file["start_deter"].shape == (2, 16)
        assert np.isnan(file["metrics/loss/reward"])


def test_a_run_stops_after_the_limit_and_can_go_on(tmp_path, spoil):
    """Two are allowed: the third stops it, with a checkpoint of the agent from before them."""
    spoil([4, 5, 6])
    with pytest.raises(DivergedError, match=r"3 updates had a loss or gradients that are not finite, more than .*limit=2"):
        start.train(tiny_config(tmp_path, train__frames=80, train__refused_limit=2))
    [run] = (tmp_path / "import_counting_five").iterdir()
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        [frames] = checkpoints.steps()
        assert 30 < frames < 50
        assert (run / "checkpoints" / str(frames) / "in_flight").is_dir()
    start.resume(run)
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "train"]
    assert rows[-1]["frames"] == 80
    assert all(np.isfinite(row["loss/total"]) for row in rows)
