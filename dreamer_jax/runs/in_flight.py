"""What a seed has in flight between two updates. Orbax stores it with the checkpoint, so that a run goes on exactly.

Letters: E environments, A numbers of an action, B sequences in a batch, T records in each.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from flax import serialization, struct, traverse_util

from dreamer_jax.agent.types import ActingParams, PolicyCarry
from dreamer_jax.core.text import shown
from dreamer_jax.envs.episodes import MAX_ACTIONS, EpisodeState


@struct.dataclass
class OpenEpisodes:
    """The episodes that are being played, each as an `EpisodeState` with its return so far.

    seed, number, digest i64[E]; recorded i64[E], how many actions of each are known; actions f32[n, A], those of all
    environments one after another, one row of zeros where there are none; length i64[E] decisions since the reset; returned
    f64[E], the sum of their rewards.
    """

    seed: np.ndarray
    number: np.ndarray
    digest: np.ndarray
    recorded: np.ndarray
    actions: np.ndarray
    length: np.ndarray
    returned: np.ndarray

    @classmethod
    def of(cls, states: Sequence[EpisodeState], length: np.ndarray, returned: np.ndarray) -> "OpenEpisodes":
        """Gathers what each environment is playing."""
        seed, number, digest = (np.array([getattr(s, name) for s in states], np.int64) for name in ("seed", "number", "digest"))
        recorded = np.array([len(state.actions) for state in states], np.int64)
        actions = np.concatenate([state.actions for state in states])
        actions = actions if len(actions) else np.zeros((1, actions.shape[1]), np.float32)  # Orbax stores no empty arrays
        return cls(seed, number, digest, recorded, actions, length.astype(np.int64), returned.astype(np.float64))

    def states(self) -> list[EpisodeState]:
        """What each environment is playing."""
        ends = np.cumsum(self.recorded)
        parts = [self.actions[end - count : end] for end, count in zip(ends, self.recorded, strict=True)]
        fields = zip(self.seed.tolist(), self.number.tolist(), parts, self.digest.tolist(), strict=True)
        return [EpisodeState(*values) for values in fields]


@struct.dataclass
class UnwrittenLatents:
    """Latents that the last update computed; written to the replay when the next update has been dispatched.

    env, first i64[B]: whose records they are, and the first of them; deter [B, T, D] and stoch [B, T, S] as the replay stores
    them; refused f32[], 1 if the update was refused, so that they are not to be written.
    """

    env: Any
    first: Any
    deter: Any
    stoch: Any
    refused: Any


@struct.dataclass
class LearnerInFlight:
    """What the learner has in flight for one seed.

    acting: the parameters that act, those from before the last update. metrics {name: f32[]}: sums over the `summed` i64[]
    updates since the last row, empty where there were none. unwritten: None before the first update, or without replay context.
    """

    acting: ActingParams
    metrics: dict[str, Any]
    summed: Any
    unwritten: UnwrittenLatents | None


@struct.dataclass
class InFlight:
    """All that one seed has in flight: the policy's carry [E, ...], the previous action f32[E, A], and the rest."""

    carry: PolicyCarry
    prev_action: Any
    episodes: OpenEpisodes
    learner: LearnerInFlight


def read_in_flight(saved: Any, like: InFlight, records: int) -> InFlight:
    """Makes an `InFlight` of what a checkpoint holds, after checking all of it.

    Args:
      saved: nested mappings with arrays, as Orbax restores them without a template.
      like: what this run can have in flight: anything with shape and dtype. Before the first update a run has no metrics and no
        unwritten latents; the actions of the open episodes may have any number of rows.
      records: that the replay has of each environment.

    Raises:
      ValueError: the run cannot go on from it; one line says why.
    """
    learner = saved.get("learner") if isinstance(saved, dict) else None
    if isinstance(learner, dict):
        if not learner.get("metrics"):
            like = replace(like, learner=replace(like.learner, metrics={}))
        if learner.get("unwritten") is None:
            like = replace(like, learner=replace(like.learner, unwritten=None))
    expected, found = (_by_path(tree) for tree in (serialization.to_state_dict(like), saved))
    if one_sided := sorted(expected.keys() ^ found.keys()):
        path = one_sided[0]
        raise ValueError(f"{shown('/'.join(path))} is {'missing' if path in expected else 'unknown'}")
    for path, array in found.items():
        wanted, free = expected[path], path == ("episodes", "actions")  # free: any number of rows
        fits = isinstance(array, np.ndarray) and array.dtype == wanted.dtype and array.ndim == len(wanted.shape)
        if not fits or array.shape[free:] != tuple(wanted.shape[free:]):
            raise ValueError(f"{shown('/'.join(path))} is {_describe(array)}; {_describe(wanted)} was expected")
    in_flight = cast(InFlight, serialization.from_state_dict(like, saved))
    if problem := _impossible(in_flight, records):
        raise ValueError(problem)
    return in_flight


def _by_path(tree: Any) -> dict[tuple[str, ...], Any]:
    """The arrays of nested mappings by their paths, without what is None or empty."""
    if not isinstance(tree, dict):
        raise ValueError(f"it holds {type(tree).__name__}; named arrays were expected")
    flat = traverse_util.flatten_dict({str(name): value for name, value in tree.items()})
    return {tuple(map(str, path)): value for path, value in flat.items() if value is not None}


def _describe(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}" if hasattr(array, "dtype") else type(array).__name__


def _impossible(in_flight: InFlight, records: int) -> str | None:
    """The first number that cannot be, where all shapes are right; None where there is none."""
    learner, episodes, envs = in_flight.learner, in_flight.episodes, len(in_flight.prev_action)
    if learner.summed < 0 or bool(learner.metrics) != (learner.summed > 0):
        return f"summed is {learner.summed}, which does not go with the {len(learner.metrics)} metrics"
    if not np.isfinite(episodes.returned).all() or (episodes.length < 0).any():
        return "returns or lengths of the episodes are no such numbers"
    recorded, rows = episodes.recorded, len(episodes.actions)
    if (recorded < 0).any() or (recorded > MAX_ACTIONS).any() or max(1, recorded.sum()) != rows:
        return f"the episodes have {recorded.tolist()} actions, and there are {rows} in all"
    if (episodes.seed < 0).any() or (episodes.number < 0).any() or not np.isfinite(episodes.actions).all():
        return "seeds, numbers or actions of the episodes are no such numbers"
    if (latents := learner.unwritten) is not None:
        env, first, last = latents.env, latents.first, latents.first + latents.deter.shape[1]
        if (env < 0).any() or (env >= envs).any() or (first < 0).any() or (last > records).any():
            return f"unwritten latents are of other records than the {records} of {envs} environments"
    return None
