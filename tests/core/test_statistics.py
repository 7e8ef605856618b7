"""Means, deviations and intervals, and returns over environment steps, against hand arithmetic."""

import math

import numpy as np
import pytest

from dreamer_jax.core.statistics import (
    Spread,
    bin_index,
    binned_returns,
    correlation,
    finite_or_none,
    interval,
    running_mean,
    sample_std,
    spread,
)


def _episode(frames, value):
    return {"kind": "episode", "frames": frames, "return": value}


def test_an_episode_counts_where_it_ends_and_the_last_frame_belongs_to_its_bin():
    rows = [_episode(400, 1.0), _episode(1000, 3.0), _episode(1001, 10.0), _episode(2000, 20.0), _episode(2600, 99.0)]
    np.testing.assert_allclose(binned_returns(rows, 1000, 2500), [2.0, 15.0])


def test_empty_bins_are_interpolated_and_the_ends_held():
    rows = [_episode(1500, 10.0), _episode(4500, 40.0)]
    np.testing.assert_allclose(binned_returns(rows, 1000, 6000), [10, 10, 20, 30, 40, 40])


def test_other_rows_do_not_count_and_no_episode_gives_nan():
    rows = [{"kind": "eval", "frames": 500, "return_mean": 7.0}]
    assert np.isnan(binned_returns(rows, 1000, 3000)).all()
    assert binned_returns(rows, 1000, 3000).shape == (3,)


def test_the_bin_of_an_episode():
    assert [bin_index(frames, 1000) for frames in (1, 1000, 1001, 2000)] == [0, 0, 1, 1]


def test_the_deviation_over_three_seeds_is_the_samples():
    """0, 100 and 200: squares 100^2 + 0 + 100^2 over n - 1 = 2, so 100; over n they would give 81.6."""
    assert spread([0, 100, 200])[:2] == (100, 100)
    np.testing.assert_allclose(sample_std(np.array([[0.0, 1.0], [100.0, 1.0], [200.0, 1.0]])), [100, 0])


def test_the_interval_is_students():
    """t is 4.3027 for three values and 12.706 for two: 100 / sqrt(3) and 50 sqrt(2) / sqrt(2) times these."""
    assert spread([0, 100, 200]).half == pytest.approx(4.3027 * 100 / math.sqrt(3), rel=1e-4)
    np.testing.assert_allclose(interval(np.array([[0.0, 1.0], [100.0, 1.0]])), [12.706 * 50, 0], rtol=1e-4)
    many = np.random.default_rng(0).normal(size=100_000)
    assert spread(many).half == pytest.approx(1.96 / math.sqrt(100_000), rel=0.01)


def test_what_cannot_be_known_is_none_or_nan():
    assert spread([]) == Spread(None, None, None, 0)
    assert spread([5.0]) == Spread(5.0, None, None, 1)
    assert spread([1.0, math.nan]) == Spread(None, None, None, 2)
    for function in (sample_std, interval):
        assert np.isnan(function(np.ones((1, 4)))).all()
        assert function(np.ones((1, 4))).shape == (4,)
    assert [finite_or_none(value) for value in (math.nan, -math.inf, 1.5, 3, "x")] == [None, None, 1.5, 3, "x"]


def test_correlation():
    """Deviations -1, 0, 1 and -1, 1, 0 from the means: 1 over sqrt(2) sqrt(2)."""
    assert correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])) == pytest.approx(0.5)
    assert correlation(np.ones(3), np.array([1.0, 3.0, 2.0])) is None
    assert correlation(np.array([1.0, 2.0]), np.array([1.0, 2.0])) is None


def test_running_mean_looks_back_only():
    values = np.array([np.nan, 4.0, 2.0, np.nan, 6.0, 10.0])
    np.testing.assert_allclose(running_mean(values, 3), [np.nan, 4, 3, 3, 4, 8])
    assert running_mean(np.zeros(0), 3).shape == (0,)
