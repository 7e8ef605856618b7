"""Experience of all seeds: records into the replays, counters, episodes, and how many updates are due."""

from collections.abc import Sequence

import numpy as np

from dreamer_jax.agent.types import StoredLatent
from dreamer_jax.envs import Step
from dreamer_jax.replay.train_ratio import TrainRatio
from dreamer_jax.runs.counters import Counters
from dreamer_jax.training.seed_run import SeedRun


class Collector:
    """Stores, advances and counts what the environments of all seeds show.

    The seeds act in lockstep. One that is at its end acts on, so that all shapes stay, but nothing of it is stored.

    Attributes:
      runs: one for each seed.
      active: indices of the runs that are not at their end.
    """

    def __init__(self, runs: Sequence[SeedRun]) -> None:
        self.runs, self.active = runs, list(range(len(runs)))
        self._replay, self._env = runs[0].config.replay, runs[0].config.env
        self._ratio = TrainRatio(self._replay.train_ratio, self._replay.batch_size, self._replay.batch_length)
        self._ratio.previous = self.lead.train_ratio

    @property
    def lead(self) -> SeedRun:
        """A run whose records, updates and policy steps are those of all that go on: resumed ones may be at their end."""
        return next((run for run in self.runs if run.active), self.runs[self.active[0] if self.active else 0])

    @property
    def counters(self) -> Counters:
        """The lead's counters."""
        return self.lead.counters

    @property
    def frames(self) -> int:
        """Frames of the run that has the fewest: rows and evaluations follow it."""
        return min(run.counters.frames for run in self.runs)

    @property
    def train_ratio(self) -> float | None:
        """Where the count of updates stands [records]; None before the first."""
        return self._ratio.previous

    @property
    def prefilling(self) -> bool:
        """Whether actions are still random, and nothing is trained."""
        return self.counters.decisions < self._replay.prefill

    def store(self, step: Step, prev_action: np.ndarray, latents: StoredLatent | None) -> None:
        """Puts a record of every environment into the replays.

        Args:
          step: what the environments show, [N, E, ...].
          prev_action: f32[N, E, A], the actions that led there.
          latents: [N, E, ...], what the policy computed there, where the replays hold latents.

        Raises:
          OSError: records that fill a segment, which is written in the background, could not be written.
        """
        for i in self.active:
            run, own = self.runs[i], step[i]
            latent = {} if latents is None else {"deter": np.asarray(latents.deter[i]), "stoch": np.asarray(latents.stoch[i])}
            flags = own.is_first, own.is_last, own.is_terminal
            run.replay.add(own.obs, prev_action[i], own.reward, *flags, **latent)
            run.checkpoints.save_ahead(run.replay)
            run.counters.policy_steps += 1
            run.counters.records += self._env.num_envs

    def updates_due(self) -> int:
        """Updates that follow the records so far; they count as done."""
        if self.lead.replay.items < self._replay.min_items:
            return 0
        due = self._ratio(self.counters.records)
        if not self.counters.updates:
            due = self._replay.pretrain
        for i in self.active:
            self.runs[i].counters.updates += due
        return due

    def advance(self, step: Step) -> None:
        """Counts what the environments answered to a decision, [N, E, ...], and writes a row for each episode that ended."""
        for i in self.active:
            run, own = self.runs[i], step[i]
            decisions = int((~own.is_first).sum())  # a reset takes no decision
            run.counters.decisions += decisions
            run.counters.frames += decisions * self._env.action_repeat
            for row in run.episodes.track(own):
                run.write("episode", row)
            run.look_for_end()

    @property
    def finished(self) -> list[int]:
        """Indices of the active runs that have come to their end."""
        return [i for i in self.active if not self.runs[i].active]

    def retire(self, indices: Sequence[int]) -> None:
        """Takes runs out of the active ones."""
        self.active = [i for i in self.active if i not in indices]
