"""What is in flight: episodes of several lengths are taken apart as they were put together."""

import numpy as np
import pytest

from dreamer_jax.envs import EpisodeState
from dreamer_jax.runs.in_flight import OpenEpisodes


@pytest.mark.parametrize("lengths", [(0, 0), (0, 3), (2, 0, 5), (1,)])
def test_open_episodes_are_taken_apart_as_they_were_put_together(lengths):
    rng = np.random.default_rng(0)
    states = [
        EpisodeState(2**31 - 1 - i, i - 1, rng.normal(size=(length, 2)).astype(np.float32), 2**32 - 1 - i)
        for i, length in enumerate(lengths)
    ]
    length, returned = np.array(lengths), rng.normal(size=len(lengths))
    gathered = OpenEpisodes.of(states, length, returned)
    assert len(gathered.actions) == max(1, sum(lengths))  # Orbax stores no empty arrays
    for one, two in zip(gathered.states(), states, strict=True):
        assert (one.seed, one.number, one.digest) == (two.seed, two.number, two.digest)
        np.testing.assert_array_equal(one.actions, two.actions)
    np.testing.assert_array_equal(gathered.length, length)
    np.testing.assert_array_equal(gathered.returned, returned)
