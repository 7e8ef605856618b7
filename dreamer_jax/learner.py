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
from dreamer_jax.types import ActingParams, AgentState, Batch, LatentState


class Learner:
    """Updates an agent from a replay.

    `acting` are the parameters for the policy: those from before the newest update. They are ready while that update is
    still running, so acting never waits for it, and which parameters they are does not depend on timing.
    """

    def __init__(self, nets: Networks, config: Config, state: AgentState, replay: Replay) -> None:
        self.state = state
        self._replay = replay
        self._batch_size = config.replay.batch_size
        self._train_step = compile_train_step(nets, config)
        # A copy: the state itself is donated to the next update.
        self._copy = jax.jit(lambda state: jax.tree.map(jnp.copy, acting_params(state)))
        self._zero_state = rssm.initial_state(nets, (self._batch_size,))
        self._metrics: list[dict[str, jax.Array]] = []
        self.acting = self.newest()

    def update(self, count: int) -> None:
        """Dispatches `count` updates."""
        for _ in range(count):
            batch = to_batch(self._replay.sample(self._batch_size), self._zero_state)
            self.acting = self.newest()
            self.state, metrics, _ = self._train_step(self.state, batch)
            self._metrics.append(metrics)

    def newest(self) -> ActingParams:
        """A copy of the parameters after the newest update."""
        return self._copy(self.state)

    def fetch_metrics(self) -> dict[str, float]:
        """Means over the updates since the last call; empty if there were none. Waits for the device."""
        fetched = jax.device_get(self._metrics)
        self._metrics = []
        return {name: float(np.mean([row[name] for row in fetched])) for name in (fetched[0] if fetched else ())}


def to_batch(sequences: Sequences, start: LatentState) -> Batch:
    """Moves sampled sequences to the device; `start` LatentState[B] is the latent before their first step."""
    arrays: dict[str, Any] = jax.device_put(vars(sequences))
    return Batch(**arrays, start=start)
