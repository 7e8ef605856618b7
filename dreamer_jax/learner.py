"""The learner: holds the agent's state, samples batches, and dispatches the compiled step without waiting for it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax import rssm
from dreamer_jax.config import Config
from dreamer_jax.networks import Networks
from dreamer_jax.replay import Replay, Sequences
from dreamer_jax.train_step import acting_params, compile_train_step
from dreamer_jax.types import ActingParams, AgentState, Batch, LatentState, StoredLatent


class Learner:
    """Updates an agent from a replay.

    `acting` are the parameters for the policy: those from before the newest update. They are ready while that update is
    still running, so acting never waits for it, and which parameters they are does not depend on timing. In the same way
    the latents of an update go back into the replay when the next one has been dispatched.
    """

    def __init__(self, nets: Networks, config: Config, state: AgentState, replay: Replay) -> None:
        self.state = state
        self._nets = nets
        self._replay = replay
        self._batch_size = config.replay.batch_size
        self._train_step = compile_train_step(nets, config)
        # A copy: the state itself is donated to the next update.
        self._copy = jax.jit(lambda state: jax.tree.map(jnp.copy, acting_params(state)))
        self._from_stored = jax.jit(lambda stored: rssm.from_stored(nets, stored))
        self._to_stored = jax.jit(lambda latents: rssm.to_stored(nets, latents))
        self._zero_state = rssm.initial_state(nets, (self._batch_size,))
        self._metrics: list[dict[str, jax.Array]] = []
        self._latents: tuple[Sequences, StoredLatent] | None = None
        self.acting = self.newest()

    def update(self, count: int) -> None:
        """Dispatches `count` updates."""
        for remaining in reversed(range(count)):
            sequences, batch = self.sample()
            if not remaining:
                self.acting = self.newest()
            self.state, metrics, latents = self._train_step(self.state, batch)
            self._metrics.append(metrics)
            if self._replay.latent:
                self.write_back()
                self._latents = sequences, self._to_stored(latents)

    def sample(self) -> tuple[Sequences, Batch]:
        """The next batch as the replay gives it, and on the device."""
        sequences = self._replay.sample(self._batch_size)
        return sequences, to_batch(sequences, self._start(sequences))

    def write_back(self) -> None:
        """Puts the latents of the last update into the replay; waits for it."""
        if self._latents is not None:
            sequences, stored = self._latents
            fetched = jax.device_get(stored)
            self._replay.write_latents(sequences.env, sequences.first, fetched.deter, fetched.stoch)
            self._latents = None

    def fetch_latent(self, latent: LatentState) -> StoredLatent:
        """The latent that acting just computed, as NumPy arrays in the replay's form."""
        return jax.device_get(self._to_stored(latent))

    def newest(self) -> ActingParams:
        """A copy of the parameters after the newest update."""
        return self._copy(self.state)

    def fetch_metrics(self) -> dict[str, float]:
        """Means over the updates since the last call; empty if there were none. Waits for the device."""
        fetched = jax.device_get(self._metrics)
        self._metrics = []
        return {name: float(np.mean([row[name] for row in fetched])) for name in (fetched[0] if fetched else ())}

    def _start(self, sequences: Sequences) -> LatentState:
        """LatentState[B] before the first step: the stored one, or zeros without replay context."""
        if sequences.start_deter is None:
            return self._zero_state
        deter = sequences.start_deter.view(self._nets.dtype)
        return self._from_stored(StoredLatent(deter, sequences.start_stoch))  # pyright: ignore[reportArgumentType]


def to_batch(sequences: Sequences, start: LatentState) -> Batch:
    """Moves sampled sequences to the device; `start` LatentState[B] is the latent before their first step."""
    arrays: dict[str, Any] = {
        name: getattr(sequences, name) for name in ("obs", "prev_action", "reward", "is_first", "is_last", "is_terminal")
    }
    return Batch(**jax.device_put(arrays), start=start)
