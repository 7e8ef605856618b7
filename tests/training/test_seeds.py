"""Several seeds in one training: against the same agents one at a time."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import tiny_config

from dreamer_jax.agent.seeds import over_seeds
from dreamer_jax.agent.train_step import compile_train_step, init_agent
from dreamer_jax.cli.command import messages_on_stdout
from dreamer_jax.core.errors import CheckpointError, RunError
from dreamer_jax.play.policy import load_policy
from dreamer_jax.runs.metrics import read_metrics
from dreamer_jax.training import start
from dreamer_jax.training.collector import Collector

SEEDS = 3


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@pytest.mark.parametrize("seeds", [1, 4])
def test_every_seed_gets_its_own_part(seeds):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(seeds, 3)), rng.normal(size=3)
    result = over_seeds(lambda x, y: {"sum": (x + y).sum()}, seeds, in_axes=(0, None))(x, y)
    np.testing.assert_allclose(result["sum"], [(row + y).sum() for row in x], rtol=1e-6)


def test_without_seeds_a_function_stays_as_it_is():
    assert over_seeds(len, None) is len


def test_one_update_of_several_seeds_is_that_of_each_alone():
    nets = helpers.tiny_networks(discrete=False)
    init = helpers.quick_jit(partial(init_agent, nets, helpers.CONFIG))
    states = [init(jax.random.key(seed)) for seed in range(SEEDS)]
    batches = [helpers.random_batch(nets, seed) for seed in range(SEEDS)]
    # Copies: states are donated.
    together = compile_train_step(nets, helpers.CONFIG, SEEDS)(stack(states), stack(batches))
    alone = compile_train_step(nets, helpers.CONFIG)
    for seed in range(SEEDS):
        expected = alone(states[seed], batches[seed])
        ours = jax.tree.map(lambda x, seed=seed: x[seed], together)
        for (path, one), two in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(expected), strict=True):
            if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
                one, two = jax.random.key_data(one), jax.random.key_data(two)
            scale = max(1.0, float(np.abs(two).max()))
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-5 * scale, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three seeds in episodes of random lengths: they use up 60 frames at different times."""
    config = tiny_config(tmp_path_factory.mktemp("runs"), "seeded_length", seed=4, train__frames=60, eval__every=30)
    with messages_on_stdout(), contextlib.redirect_stdout(io.StringIO()) as output:
        runs = start.train_seeds(config, SEEDS)
    return config, runs, output.getvalue()


def test_every_seed_leaves_an_ordinary_run(trained):
    _, runs, output = trained
    assert "seeds 4, 5, 6" in output
    assert "(3 seeds)" in output
    for seed, run in zip((4, 5, 6), runs, strict=True):
        assert run.name.startswith(f"cartpole-{seed}-")
        evaluation = json.loads((run / "evaluation.json").read_text())
        rows = read_metrics(run / "metrics.jsonl")
        assert evaluation["frames"] == 60
        # An update comes every four records: the last of them can leave less than a row.
        assert [row["frames"] for row in rows if row["kind"] == "train"][-1] > 60 - 4
        assert len([row for row in rows if row["kind"] == "eval"]) == 2
        load_policy(run)
    assert len({json.loads((run / "evaluation.json").read_text())["records"] for run in runs}) > 1


def test_a_seed_plays_and_counts_as_it_does_alone(trained):
    """Environments and counters of seed 5 do not depend on its neighbours."""
    config, runs, _ = trained
    alone = start.train(config.model_copy(update={"seed": 5}))
    one, two = ([row for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "episode"] for run in (runs[1], alone))
    names = ("frames", "decisions", "updates", "return", "length")
    assert [[row[name] for name in names] for row in one] == [[row[name] for name in names] for row in two]
    counters = [json.loads((run / "evaluation.json").read_text()) for run in (runs[1], alone)]
    for name in ("frames", "decisions", "records", "updates", "policy_steps"):
        assert counters[0][name] == counters[1][name], name


def test_the_newest_checkpoints_of_one_moment_are_taken(tmp_path):
    """As after a kill between two saves: one run has a newer checkpoint than the other."""
    config = tiny_config(tmp_path, train__frames=30, eval__every=10, train__keep_checkpoints=5)
    runs = start.train_seeds(config, 2)
    shutil.rmtree(runs[1] / "checkpoints" / "30")
    unfinished = config.model_copy(update={"train": config.train.model_copy(update={"frames": 40})})
    assert start._checkpoints_to_resume([unfinished] * 2, runs, set()) == [20, 20]


def test_the_train_ratio_goes_on_from_a_run_with_frames_left():
    """Of resumed runs the first may be finished: its counters are of an earlier moment, and would have to be caught up on."""
    runs = [SimpleNamespace(active=False), SimpleNamespace(active=True)]
    assert Collector.lead.fget(SimpleNamespace(runs=runs, active=[0, 1])) is runs[1]


def test_runs_that_do_not_belong_together_are_refused(tmp_path):
    one = start.train(tiny_config(tmp_path, train__frames=10))
    two = start.train(tiny_config(tmp_path, train__frames=10, seed=1, replay__train_ratio=8))
    with pytest.raises(RunError, match="differ in more than the seed; resume them one at a time"):
        start.resume_seeds([one, two])


def test_seeds_without_a_common_checkpoint_are_refused(tmp_path):
    config = tiny_config(tmp_path, train__frames=30, eval__every=10, train__keep_checkpoints=5)
    runs = start.train_seeds(config, 2)
    for run, gone in zip(runs, ((10, 20), (30,)), strict=True):
        for frames in gone:
            shutil.rmtree(run / "checkpoints" / str(frames))
        (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("frames: 30\n", "frames: 40\n"))
    with pytest.raises(CheckpointError, match="no checkpoints from the same moment; resume them one at a time"):
        start.resume_seeds(runs)


def test_over_several_devices_the_seeds_are_split(tmp_path):
    """Four devices in a process of its own: two seeds each, and the numbers of one device."""
    program = f"""
import jax, sys
sys.path[:0] = {sys.path!r}
import helpers, jax.numpy as jnp, numpy as np
from functools import partial
from dreamer_jax.agent import rssm
from dreamer_jax.training.learner import Learner
from dreamer_jax.replay.buffer import Replay
from dreamer_jax.agent.train_step import init_agent
nets = helpers.tiny_networks(True)
settings = helpers.CONFIG.replay.model_copy(update=dict(batch_size=2, batch_length=5))
config = helpers.CONFIG.model_copy(update=dict(replay=settings))
init = jax.jit(partial(init_agent, nets, config))
def learner(count):
    latent = nets.latent.spec(nets.dtype)
    replays = [Replay(nets.obs_specs, nets.action_spec, latent, 40, 1, 5, False, seed) for seed in range(count)]
    for seed, replay in enumerate(replays):
        for i in range(20):
            obs = jax.tree.map(np.asarray, helpers.random_obs(100 * seed + i, (1,)))
            stored = nets.latent.to_stored(helpers.random_state(nets, i, (1,)))
            none = np.zeros(1, bool)
            action = np.eye(3, dtype=np.float32)[[i % 3]]
            replay.add(obs, action, np.ones(1), none, none, none, np.asarray(stored.deter), np.asarray(stored.stoch))
    return Learner(nets, config, [init(jax.random.key(seed)) for seed in range(count)], replays)
eight, one = learner(8), learner(1)
for learner in (eight, one):
    learner.update(1)
    learner.settle()
leaf = jax.tree.leaves(eight.state.world_model.params)[0]
print(len(leaf.sharding.device_set), leaf.addressable_shards[0].data.shape[0])
ours, alone = (jax.tree.leaves(state.critic.params) for state in (eight.agent(0), one.agent(0)))
print(max(float(jnp.abs(a - jax.device_get(b)).max()) for a, b in zip(ours, alone)))
print(np.array_equal(*(learner._replays[0].read(0, 20)["latent/stoch"] for learner in (eight, one))))
"""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    devices, difference, latents = result.stdout.split("\n")[:3]
    assert devices == "4 2"
    assert float(difference) < 1e-5
    assert latents == "True"
