"""The timing of a tiny agent: every figure is there, and those that can be worked out are right."""

import json
import time

import numpy as np
import pytest
from counting import tiny_config

from dreamer_jax.profiling import parts, timing
from dreamer_jax.profiling.parts_report import table


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    config = tiny_config(tmp_path_factory.mktemp("speed"), **{"replay.context": 1})
    without, with_loop = parts.report(config, calls=3, updates=20, command=["dreamer", "bench", "--calls", "3"])
    assert with_loop == {**without, "loop": with_loop["loop"]}
    return with_loop


def test_the_loop_can_be_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "measure", lambda config, calls: {})
    (result,) = parts.report(tiny_config(tmp_path), calls=3, updates=0, command=[])
    assert "loop" not in result


def test_every_part_is_timed(result):
    parts = {"observe scan", "representation and heads", "imagine scan", "actor-critic losses", "optimiser"}
    assert set(result["parts"]) == parts
    assert set(result["policy"]) == {"1", "16"}
    for row in (result["step"], *result["parts"].values(), *result["policy"].values()):
        assert 0 < row["min"] <= row["median"] <= row["max"]
    assert result["command"] == "dreamer bench --calls 3"
    assert {"versions", "device", "machine", "cores", "git_commit"} < set(result)
    json.dumps(result)


def test_a_batch_has_the_bytes_of_its_arrays(result):
    """2 x 8 records: an observation of 2 floats, 3 of the action, the reward, 3 flags; 2 contexts of 16 floats and 2 indices;
    2 x 2 places in the ring.
    """
    (row,) = result["replay"]  # the capacity of 1,000 is below the first size
    assert row["records"] == 4 * (8 + 2)
    assert row["batch_bytes"] == 16 * (4 * (2 + 3 + 1) + 3) + 2 * (4 * 16 + 2) + 2 * 2 * 8


def test_the_fraction_is_work_over_time_over_rate(result):
    step = result["step"]
    assert step["fraction_of_matmul_rate"] == pytest.approx(step["flops"] / step["median"] / step["matmul_flops_per_second"])


def test_the_loop_makes_the_updates_of_its_train_ratio(result):
    """Train ratio 4 for batches of 2 x 8: an update every four records, and five decisions make six records."""
    loop = result["loop"]
    assert loop["decisions_per_second"] / loop["updates_per_second"] == pytest.approx(4 * 5 / 6, rel=0.15)
    assert 0 <= loop["share_without_update"] <= 1


def test_the_table_shows_every_figure(result):
    lines = table(result).splitlines()
    assert len(lines) == 1 + 5 + 3 + 2 + 2 + 1
    assert all(len(line) <= 128 for line in lines)


def test_timed_measures_time():
    seconds = timing.timed(lambda: time.sleep(0.02) or np.zeros(1), 3)
    assert 0.02 <= seconds["min"] < 0.2


def test_functions_in_turn_are_timed_apart():
    """Called one after the other, and each has its own times."""
    order = []

    def call(name, seconds):
        order.append(name)
        time.sleep(seconds)

    short, long = timing.timed_in_turn((lambda: call("short", 0.001), lambda: call("long", 0.03)), 3)
    assert order == ["short", "long"] * 5
    assert long["min"] >= 0.03
    assert short["median"] < 0.03
