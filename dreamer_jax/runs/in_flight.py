"""What a run has on the way when a checkpoint is saved, and whether arrays from a file can be that. Imports no JAX."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dreamer_jax.envs.episodes import MAX_ACTIONS

Moment = dict[str, np.ndarray]
AFTER_UPDATES = ("metrics/", "latents/")  # names of what there is only between two updates


def misfit(moment: Moment, like: Mapping[str, Any], records: int) -> str | None:
    """Why a run cannot go on from `moment`; None where it can.

    Args:
      like: what a moment of this run holds, by name: anything with shape and dtype. Names in `AFTER_UPDATES` may be missing,
        each group as a whole; "env/<i>/actions" may have other rows.
      records: that the replay has of each environment.
    """
    for name, expected in like.items():
        if name not in moment:
            if name.startswith(AFTER_UPDATES):
                continue
            return f"{name} is missing"
        came, free = moment[name], name.endswith("/actions")
        # bfloat16, which NumPy does not know, is stored as its bits.
        dtype = np.dtype(np.uint16) if np.dtype(expected.dtype).kind == "V" else expected.dtype
        if came.dtype != dtype or came.ndim != len(expected.shape) or came.shape[free:] != expected.shape[free:]:
            return f"{name} is {came.dtype}{list(came.shape)}; {dtype}{list(expected.shape)} was expected"
    for group in AFTER_UPDATES:
        names, found = ({name for name in holder if name.startswith(group)} for holder in (like, moment))
        if found and found != names:
            return f"{min(found ^ names)!r} is missing, or one too many"
    return _wrong_value(moment, records)


def _wrong_value(moment: Moment, records: int) -> str | None:
    """The first number in a moment of the right shapes that cannot be."""
    if int(moment["summed"]) < 0 or (moment["summed"] > 0) != any(name.startswith("metrics/") for name in moment):
        return f"summed is {moment['summed']}, which does not go with the metrics there"
    if not np.isfinite(moment["episodes/total"]).all() or (moment["episodes/length"] < 0).any():
        return "returns or lengths of the episodes are no such numbers"
    count = len(moment["prev_action"])
    for i in range(count):
        seed, number, actions = (moment[f"env/{i}/{name}"] for name in ("seed", "number", "actions"))
        if seed < 0 or number < 0 or len(actions) > MAX_ACTIONS or not np.isfinite(actions).all():
            return f"env/{i} is no episode"
    if "latents/env" in moment:
        env, first = moment["latents/env"], moment["latents/first"]
        last = first + moment["latents/deter"].shape[1]
        if (env < 0).any() or (env >= count).any() or (first < 0).any() or (last > records).any():
            return f"latents/env and latents/first are of other records than the {records} of {count} environments"
    return None
