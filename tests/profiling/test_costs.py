"""Cost curves of a tiny agent: every point is measured once, and the figures that can be worked out are right."""

import imageio.v3 as iio
import jax
import numpy as np
import pytest
from counting import TINY

from dreamer_jax.agent.layout import CPU
from dreamer_jax.agent.networks import build_networks
from dreamer_jax.agent.train_step import init_params
from dreamer_jax.core.presets import load_config
from dreamer_jax.play.policy import read_specs
from dreamer_jax.profiling import costs


@pytest.fixture(scope="module")
def curves():
    patch = pytest.MonkeyPatch()
    patch.setattr(costs, "AXES", {"replay.batch_size": (2, 4), costs.SEEDS: (1, 2)})
    try:
        overrides = {**TINY, "env.task": "import:counting:five"}
        about, *rows = costs.measure_curves("cartpole", overrides, 2, ["dreamer", "costs"])
    finally:
        patch.undo()
    return about, rows


def test_every_point_of_every_axis_is_measured(curves):
    about, rows = curves
    assert [(row["axis"], row["value"]) for row in rows] == [
        ("replay.batch_size", 2),
        ("replay.batch_size", 4),
        ("seeds", 1),
        ("seeds", 2),
    ]
    assert about["config"]["replay"]["batch_size"] == 2
    assert rows[0]["median"] == rows[2]["median"]  # the preset's own point: measured once


def test_twice_the_batch_or_the_seeds_is_twice_the_work(curves):
    """But for three norms, whatever the batch: of parameters and gradients to clip these, and of gradients as a metric.

    Each is a product of a tensor with itself, in eight rows where it can be parted so.
    """
    base, batch, _, seeds = (row["flops"] for row in curves[1])
    config = load_config("cartpole", {**TINY, "env.task": "import:counting:five"})
    nets = build_networks(config, *read_specs(config.env), np.float32, CPU)
    sizes = [x.size for x in jax.tree.leaves(jax.eval_shape(lambda: init_params(nets, jax.random.key(0))))]
    norm = sum(2 * size * (1 if size % 8 else 8) for size in sizes)
    assert seeds == 2 * base
    assert batch == 2 * base - 3 * norm
    assert curves[1][3]["state_bytes"] == 2 * curves[1][0]["state_bytes"]


def test_table_and_figure(curves, tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "AXES", {"replay.batch_size": (), "seeds": ()})
    assert len(costs.table(curves[1]).splitlines()) == 2 + 4
    costs.draw(curves[1], tmp_path / "curves.png", "tiny")
    assert iio.imread(tmp_path / "curves.png").std() > 5
