"""The environments of several seeds have the axes [N seeds, E environments, ...], one seed's after another's."""

import contextlib
from pathlib import Path

import numpy as np
from counting import tiny_config

from dreamer_jax.envs import make_vector_env
from dreamer_jax.training.seed_envs import SeedEnvs

SEEDS = [[5, 6, 7], [15, 16, 17]]


def test_each_seed_has_its_own_environments():
    """Beside the environments of each seed alone, through ends of episodes, and after going on with them elsewhere."""
    config = tiny_config(Path("."), "seeded_length").env
    rng = np.random.default_rng(0)
    actions = np.eye(3, dtype=np.float32)[rng.integers(3, size=(30, 2, 3))]
    with contextlib.ExitStack() as stack:

        def make(seeds):
            return stack.enter_context(contextlib.closing(make_vector_env(config, seeds)))

        together, alone = SeedEnvs(make([*SEEDS[0], *SEEDS[1]]), 2), [make(seeds) for seeds in SEEDS]
        steps = [together.reset(), *(together.step(action) for action in actions)]
        expected = [[envs.reset(), *(envs.step(action) for action in actions[:, i])] for i, envs in enumerate(alone)]
        assert steps[0].reward.shape == (2, 3)
        assert sum(step.is_last.sum() for step in steps) > 10
        for t, step in enumerate(steps):
            for i in range(2):
                for name in ("reward", "is_first", "is_last", "is_terminal"):
                    np.testing.assert_array_equal(getattr(step[i], name), getattr(expected[i][t], name))
                np.testing.assert_array_equal(step[i].obs["observation"], expected[i][t].obs["observation"])

        others = SeedEnvs(make([1] * 6), 2)
        again = others.reset([state for i in range(2) for state in together.episodes(i)])
        np.testing.assert_array_equal(again.obs["observation"], steps[-1].obs["observation"])
