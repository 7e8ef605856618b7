"""Aggregates over tasks against hand arithmetic."""

import importlib.util

import numpy as np
import pytest

from dreamer_jax.core.errors import ConfigError
from dreamer_jax.report.aggregates import aggregate, estimate, require_rliable

# Two seeds of four tasks. Sorted, the eight scores are 0 .1 | .2 .3 .4 .5 | .9 1: a quarter off at either end leaves mean .35.
SCORES = {"a": {0: 0.0, 1: 0.2}, "b": {0: 0.1, 1: 0.3}, "c": {0: 0.4, 1: 1.0}, "d": {0: 0.5, 1: 0.9}}
# Means over seeds are .1 .2 .7 .7: median .45, mean .425.
BY_HAND = {"IQM": 0.35, "median": 0.45, "mean": 0.425}


def test_points_by_hand_and_intervals_around_them():
    result = aggregate(SCORES, resamples=500)
    assert (result.tasks, result.seeds, result.notes) == (4, 2, ())
    for name, value in BY_HAND.items():
        point, low, high = result.estimates[name]
        assert point == pytest.approx(value)
        assert low <= point <= high
        assert low < high


def test_interval_of_the_mean_against_its_exact_distribution():
    """Every resample of two seeds takes the low one twice, each once, or the high one twice: with odds 1 : 2 : 1."""
    scores = np.array([[0.0, 0.0], [1.0, 1.0]])
    # The mean over both tasks is 0 with chance 1/16 and 1 with chance 1/16, both above 2.5%: the interval is the whole range.
    _, low, high = estimate(scores, resamples=2_000)["mean"]
    assert (low, high) == (0.0, 1.0)
    # Four such tasks: chance 1/256 is below 2.5%; 1/8 or less has (1 + 8) / 256 = 3.5%, so 2.5% falls on 1/8.
    _, low, high = estimate(np.tile(scores, 2), resamples=4_000)["mean"]
    assert (low, high) == (0.125, 0.875)


def test_the_same_scores_give_the_same_interval_and_leave_the_global_generator_alone():
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    first = aggregate(SCORES, resamples=50)
    assert np.random.random() == expected
    assert aggregate(SCORES, resamples=50) == first


def test_unequal_seeds_use_as_many_as_all_have_and_say_so():
    more = SCORES | {"a": {7: 99.0, 1: 0.2, 0: 0.0}}  # the lowest two are seeds 0 and 1
    result = aggregate(more, resamples=50)
    assert result.seeds == 2
    assert {name: value.point for name, value in result.estimates.items()} == pytest.approx(BY_HAND)
    assert "a has 3" in result.notes[0]


def test_one_seed_has_points_without_intervals():
    result = aggregate({task: {0: seeds[0]} for task, seeds in SCORES.items()})
    assert result.estimates["mean"] == pytest.approx((0.25, None, None))
    assert result.estimates["IQM"].point == pytest.approx(0.25)  # of 0 .1 .4 .5 the inner two
    assert "one seed" in result.notes[0]


def test_one_task_has_no_aggregate():
    result = aggregate({"a": SCORES["a"], "b": {}})
    assert result.estimates == {}
    assert "left out: b" in result.notes[0]
    assert "at least two tasks" in result.notes[1]


def test_missing_rliable_is_explained(monkeypatch):
    require_rliable()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rliable" else find(name))
    with pytest.raises(ConfigError, match=r'pip install "dreamer_jax\[report\]"'):
        require_rliable()
