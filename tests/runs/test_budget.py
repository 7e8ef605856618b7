"""What a run says before it starts."""

import re

from dreamer_jax.core.spaces import ObsSpec
from dreamer_jax.runs.budget import _key_table


def test_unusual_images_are_said():
    specs = {
        "a": ObsSpec("image", (8, 8, 3)),
        "b": ObsSpec("image", (8, 8, 3), high=10),
        "c": ObsSpec("image", (8, 8, 2), high=(255, 1)),
        "d": ObsSpec("vector", (3,)),
        "e": ObsSpec("vector", (84, 90)),
        "f": ObsSpec("vector", (5, 90)),
    }
    said = [re.split("  +", line)[1] for line in _key_table(specs, {}).splitlines()[1:]]
    assert said == [
        "image 8 x 8 x 3",
        "image 8 x 8 x 3, values 0 to 10",
        "image 8 x 8 x 2, values 0 to 255 | 1",
        "vector 3",
        "vector 84 x 90 (an image would be 84 x 90 x 1, uint8)",
        "vector 5 x 90",
    ]
