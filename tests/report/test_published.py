"""The published curves that the package carries."""

import numpy as np
import pytest

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.report.published import BIN_WIDTHS, FILE, METHODS, benchmark, methods_of, published_curves


@pytest.mark.parametrize(
    ("suite", "task", "method", "frames", "value"),
    [
        ("dmc_proprio", "dmc:walker_walk", "dreamerv3", 100_000, 461.1),
        ("dmc_proprio", "dmc:ball_in_cup_catch", "dreamerv3", 25_000, 112.1),
        ("dmc_proprio", "dmc:walker_walk", "ddpg", 100_000, 396.1),
        ("dmc_vision", "dmc:walker_walk", "dreamerv2", 200_000, 736.2),
        ("dmc_vision", "dmc:walker_walk", "ppo", 200_000, 36.2),
    ],
)
def test_values_of_the_source(suite, task, method, frames, value):
    """Figures copied by hand from the released scores."""
    assert published_curves(suite, task)[method].at(frames) == value


def test_bins_end_at_the_frames_of_the_source():
    curves = published_curves("dmc_proprio", "dmc:walker_walk")
    np.testing.assert_array_equal(curves["dreamerv3"].env_steps, np.arange(25_000, 500_001, 25_000))
    np.testing.assert_array_equal(curves["d4pg"].env_steps, np.arange(50_000, 500_001, 25_000))  # starts a bin later
    assert curves["d4pg"].at(25_000) is None
    assert curves["dreamerv3"].at(60_000) is None
    vision = published_curves("dmc_vision", "dmc:quadruped_run")
    assert all(curve.env_steps[-1] == 1_000_000 for curve in vision.values())


def test_every_curve_is_whole():
    """18 tasks with 6 methods and 20 tasks with 7; returns of dmc lie in [0, 1000], and every method is described."""
    tasks = {line.split(",")[2] for line in FILE.read_text().splitlines() if line.startswith("dmc_")}
    counts = {suite: [len(published_curves(suite, task)) for task in sorted(tasks)] for suite in BIN_WIDTHS}
    assert sorted(counts["dmc_proprio"]) == [0] * 2 + [6] * 18  # quadruped has no proprio curves
    assert counts["dmc_vision"] == [7] * 20
    for suite, width in BIN_WIDTHS.items():
        for curve in (curve for task in tasks for curve in published_curves(suite, task).values()):
            assert set(np.diff(curve.env_steps)) == {width}
            assert ((curve.returns >= 0) & (curve.returns <= 1000)).all()
    assert set(methods_of("dmc_proprio")) | set(methods_of("dmc_vision")) == set(METHODS)
    assert {name for name in METHODS if METHODS[name].returns == "training"} == {"dreamerv3", "ppo"}
    assert FILE.stat().st_size < 120_000


@pytest.mark.parametrize(
    ("env", "suite"),
    [
        ({"task": "dmc:walker_walk"}, "dmc_proprio"),
        ({"task": "dmc:walker_walk", "obs": "pixels"}, "dmc_vision"),
        ({"task": "dmc:walker_walk", "obs": "both"}, None),
        ({"task": "gym:CartPole-v1"}, None),
    ],
)
def test_benchmark_of_an_environment(env, suite):
    assert benchmark(EnvConfig(**env)) == suite


def test_unknown_tasks_have_no_curves():
    assert published_curves("dmc_proprio", "dmc:humanoid_walk") == {}
    assert published_curves(None, "gym:CartPole-v1") == {}
    assert methods_of(None) == []
