"""What a run says before it starts."""

import re

from dreamer_jax.core.spaces import ObsSpec
from dreamer_jax.runs.budget import _key_table


def test_bounds_of_images_are_said_where_they_are_not_the_usual_ones():
    specs = {
        "a": ObsSpec("image", (8, 8, 3)),
        "b": ObsSpec("image", (8, 8, 3), high=10),
        "c": ObsSpec("image", (8, 8, 2), high=(255, 1)),
        "d": ObsSpec("vector", (3,)),
    }
    said = [re.split("  +", line)[1] for line in _key_table(specs, {}).splitlines()[1:]]
    assert said == ["image 8 x 8 x 3", "image 8 x 8 x 3, values 0 to 10", "image 8 x 8 x 2, values 0 to 255 | 1", "vector 3"]
