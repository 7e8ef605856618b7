"""Returns over environment steps, against hand arithmetic."""

import numpy as np

from dreamer_jax.core.statistics import binned_returns


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
