"""The learner: holds the agents' states, samples batches, and dispatches the compiled step without waiting for it.

It trains the agents of N seeds at once. Every array here has their axis in front, also for one seed; with several devices it
is this axis that is split over them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.agent import rssm
from dreamer_jax.agent.devices import seed_sharding
from dreamer_jax.agent.networks import Networks
from dreamer_jax.agent.train_step import acting_params, compile_train_step
from dreamer_jax.agent.types import ActingParams, AgentState, Batch, LatentState, Metrics, StoredLatent
from dreamer_jax.core.config import Config
from dreamer_jax.replay.buffer import Replay, Sequences
from dreamer_jax.runs.in_flight import LearnerInFlight, UnwrittenLatents


@dataclass(frozen=True)
class Refused:
    """An update of one seed that was left out.

    index: of the seed; step: number of the update; sequences: its batch; metrics {name: f32[]}: what it would have had.
    """

    index: int
    step: int
    sequences: Sequences
    metrics: dict[str, np.ndarray]


@dataclass
class _Update:
    """The update that was dispatched last: where its batches come from, and its results, still on the device.

    env, first i64[N, B]; metrics {name: f32[N]}; latents [N, B, T] where the replay holds some; sequences of each seed,
    until it is known whether the update was refused.
    """

    env: np.ndarray
    first: np.ndarray
    metrics: Metrics
    latents: StoredLatent | None
    sequences: list[Sequences]


class Learner:
    """Updates the agents of N seeds, each from a replay of its own.

    `acting` are the parameters for the policy: those from before the newest update. They are ready while that update is
    still running, so acting never waits for it, and which parameters they are does not depend on timing. In the same way
    the latents of an update go back into the replay when the next one has been dispatched; those of a refused one do not.

    Args:
      states: an agent for each seed, without the axis.
      replays: a replay for each seed.

    Attributes:
      refused: updates that were left out since the list was last emptied, by whoever reads it.
    """

    def __init__(self, nets: Networks, config: Config, states: Sequence[AgentState], replays: Sequence[Replay]) -> None:
        self._sharding = seed_sharding(len(states))
        self.state: AgentState = self._place(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
        self._nets = nets
        self._replays = replays
        self._batch_size = config.replay.batch_size
        self._train_step = compile_train_step(nets, config, len(states))
        # A copy: the state itself is donated to the next update.
        self._copy = jax.jit(lambda state: jax.tree.map(jnp.copy, acting_params(state)))
        self._sum = jax.jit(_sum, donate_argnums=0)
        self._from_stored = jax.jit(nets.latent.from_stored)
        self._to_stored = jax.jit(nets.latent.to_stored)
        self._zero_state = self._place(rssm.initial_state(nets, (len(states), self._batch_size)))
        self._metrics: Metrics | None = None  # sums since they were last fetched
        self._summed = 0
        self._dispatched = np.array([int(state.step) for state in states])
        self._last: _Update | None = None
        self.refused: list[Refused] = []
        self.acting = self.newest()

    def update(self, count: int) -> None:
        """Dispatches `count` updates."""
        for remaining in reversed(range(count)):
            sequences, batch = self.sample()
            if not remaining:
                self.acting = self.newest()
            self.state, metrics, latents = self._train_step(self.state, batch)
            self._metrics = self._sum(self._metrics, metrics)
            self._summed += 1
            self.settle()
            stored = self._to_stored(latents) if self._replays[0].latent else None
            env, first = (np.stack([getattr(row, name) for row in sequences]) for name in ("env", "first"))
            self._last = _Update(env, first, metrics, stored, sequences)
            self._dispatched += 1

    def sample(self) -> tuple[list[Sequences], Batch]:
        """The next batches as the replays give them, and on the device."""
        sequences = [replay.sample(self._batch_size) for replay in self._replays]
        return sequences, self._to_batch(sequences)

    def settle(self) -> None:
        """Puts the latents of the last update into the replays, unless it was refused; waits for it."""
        if self._last is None:
            return
        refused = self.notice()
        if self._last.latents is not None:
            fetched = jax.device_get(self._last.latents)
            for i, replay in enumerate(self._replays):
                if not refused[i]:
                    replay.write_latents(self._last.env[i], self._last.first[i], fetched.deter[i], fetched.stoch[i])
        self._last = None

    def notice(self) -> np.ndarray:
        """Whether the last update was refused, bool[N]; puts it among `refused` if it was. Waits for it."""
        update = self._last
        if update is None:
            return np.zeros(len(self._replays), bool)
        refused = np.asarray(update.metrics["refused"]) > 0
        if update.sequences and refused.any():
            metrics = jax.device_get(update.metrics)
            for i in np.flatnonzero(refused):
                own = {name: values[i] for name, values in metrics.items()}
                self.refused.append(Refused(int(i), int(self._dispatched[i]) - 1, update.sequences[i], own))
        update.sequences = []
        return refused

    def fetch_latents(self, latents: LatentState) -> StoredLatent | None:
        """Latents [N, ...] that acting just computed, as NumPy arrays in the replay's form; None where it holds none."""
        return jax.device_get(self._to_stored(latents)) if self._replays[0].latent else None

    def newest(self) -> ActingParams:
        """A copy of the parameters after the newest update."""
        return self._copy(self.state)

    def agent(self, index: int) -> AgentState:
        """The agent of one seed, in arrays of its own."""
        return jax.tree.map(lambda x: x[index], self.state)

    def fetch_metrics(self) -> list[dict[str, float]]:
        """Means over the updates since the last call, for each seed; empty if there were none. Waits for the device.

        "refused_updates" counts those that were left out, here too.
        """
        fetched, count = jax.device_get(self._metrics or {}), self._summed
        self._metrics, self._summed = None, 0
        rows = []
        for i in range(len(self._replays)):
            own = {name: float(sums[i]) for name, sums in fetched.items()}
            refused = own.pop("refused", 0.0)
            taken = count - refused or math.nan
            rows.append({name: total / taken for name, total in own.items()} | ({"refused_updates": refused} if count else {}))
        return rows

    def in_flight(self, index: int) -> LearnerInFlight:
        """What one seed has in flight between two updates, in NumPy arrays. Waits for the device; changes nothing."""
        acting, metrics = jax.device_get((jax.tree.map(lambda x: x[index], self.acting), self._metrics or {}))
        unwritten = None
        if self._last is not None and self._last.latents is not None:
            stored = jax.device_get(self._last.latents)
            refused = np.array(self.notice()[index], np.float32)
            own = (self._last.env[index], self._last.first[index], stored.deter[index], stored.stoch[index])
            unwritten = UnwrittenLatents(*own, refused)
        sums = {name: np.asarray(sums[index]) for name, sums in metrics.items()}
        return LearnerInFlight(acting, sums, np.array(self._summed), unwritten)

    def in_flight_like(self) -> LearnerInFlight:
        """Shapes and dtypes of all that a seed can have in flight. Traces the step, which its first call then need not."""
        seeds, replay = len(self._replays), self._replays[0]
        batch = (seeds, self._batch_size, replay.sequence_length)
        stored: dict[str, Any] = {
            name: jax.ShapeDtypeStruct((*batch, *values.shape[2:]), values.dtype)
            for name, values in replay.storage.items()
            if not name.startswith("latent/")
        }
        obs: dict[str, Any] = {name.removeprefix("obs/"): stored.pop(name) for name in list(stored) if name.startswith("obs/")}
        _, metrics, latents = jax.eval_shape(self._train_step, self.state, Batch(obs=obs, **stored, start=self._zero_state))
        unwritten = None
        if replay.latent:
            latents = jax.eval_shape(self._to_stored, latents)
            place, refused = jax.ShapeDtypeStruct(batch[:2], np.int64), jax.ShapeDtypeStruct((seeds,), np.float32)
            unwritten = UnwrittenLatents(place, place, latents.deter, latents.stoch, refused)
        acting, metrics, unwritten = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (self.acting, metrics, unwritten)
        )
        return LearnerInFlight(acting, metrics, np.array(0), unwritten)

    def put_back(self, saved: Sequence[LearnerInFlight]) -> None:
        """Goes on from what each seed had in flight; all of them have the same parts."""
        acting, metrics, unwritten = (
            jax.tree.map(lambda *leaves: np.stack(leaves), *(getattr(one, part) for one in saved))
            for part in ("acting", "metrics", "unwritten")
        )
        self.acting = self._place(acting)
        self._metrics, self._summed = self._place(metrics) if metrics else None, int(saved[0].summed)
        if unwritten is not None:
            refused, deter, stoch = self._place((unwritten.refused, unwritten.deter, unwritten.stoch))
            self._last = _Update(unwritten.env, unwritten.first, {"refused": refused}, StoredLatent(deter, stoch), [])

    def _to_batch(self, sequences: list[Sequences]) -> Batch:
        """Moves sampled sequences to the device."""
        names = ("obs", "prev_action", "reward", "is_first", "is_last", "is_terminal")
        rows = [{name: getattr(row, name) for name in names} for row in sequences]
        return Batch(**self._place(_stack(rows)), start=self._start(sequences))

    def _start(self, sequences: list[Sequences]) -> LatentState:
        """LatentState[N, B] before the first step: the stored one, or zeros without replay context."""
        if sequences[0].start_deter is None:
            return self._zero_state
        deter, stoch = _stack([(row.start_deter, row.start_stoch) for row in sequences])
        deter = deter.view(self._nets.dtype)
        if not self._nets.latent.spec(self._nets.dtype).classes:
            stoch = stoch.view(self._nets.dtype)
        return self._from_stored(StoredLatent(*self._place((deter, stoch))))

    def _place(self, tree: Any) -> Any:
        return jax.device_put(tree, self._sharding)


def _sum(total: Metrics | None, row: Metrics) -> Metrics:
    """Adds a row of metrics f32[N] to their sums; of a refused update only that it was refused."""
    counted = {name: jnp.where((row["refused"] > 0) & (name != "refused"), 0, value) for name, value in row.items()}
    return counted if total is None else jax.tree.map(jnp.add, total, counted)


def _stack(trees: list[Any]) -> Any:
    """NumPy trees with a new axis in front; of one tree nothing is copied."""
    return jax.tree.map(lambda *leaves: leaves[0][None] if len(leaves) == 1 else np.stack(leaves), *trees)
