"""The training loop: environment -> replay -> train_step -> policy, for one seed or for several side by side.

Acting, sampling, transfer and the compiled step overlap through JAX's asynchronous dispatch, with a fixed lag (see
`Learner`): which batch, parameters and key each update and each action uses is a function of counters, never of timing.

Letters: N seeds, E environments of each. `build.py` makes a `Training` of new or of resumed runs.
"""

import contextlib
import logging
import time
from pathlib import Path

import jax
import numpy as np

from dreamer_jax.agent.types import ActingParams
from dreamer_jax.core.errors import ActionError, DivergedError, DreamerError, EnvError
from dreamer_jax.core.memory import give_back_memory
from dreamer_jax.core.text import one_line
from dreamer_jax.envs import Step
from dreamer_jax.play.policy import Policy
from dreamer_jax.runs.status import Status
from dreamer_jax.training import resumption
from dreamer_jax.training.acting import Acting
from dreamer_jax.training.callbacks.group import Callbacks
from dreamer_jax.training.collector import Collector
from dreamer_jax.training.learner import Learner
from dreamer_jax.training.reporter import Reporter
from dreamer_jax.training.schedule import Schedule
from dreamer_jax.training.seed_envs import SeedEnvs
from dreamer_jax.training.stop import Stop, StoppedError

logger = logging.getLogger(__name__)


class Training:
    """Trains the agents of N seeds together.

    Args:
      step: the first records of all environments, [N, E, ...].
      players: for evaluations the deterministic and the sampling policy, by that; compiled once for all seeds.
      schedule: says what is due after a step.
    """

    def __init__(
        self,
        envs: SeedEnvs,
        acting: Acting,
        learner: Learner,
        collector: Collector,
        step: Step,
        players: dict[bool, Policy],
        schedule: Schedule,
        reporter: Reporter,
        callbacks: Callbacks,
    ) -> None:
        self.envs, self.acting, self.learner, self.collector, self.step = envs, acting, learner, collector, step
        self.runs, self.players, self.schedule, self.reporter = collector.runs, players, schedule, reporter
        self.callbacks, self.stop = callbacks, Stop()
        self.command = resumption.command([run.folder for run in self.runs])
        self._final: dict[int, ActingParams] = {}  # what the seeds ended with that are at their end
        self._in_step = False  # a checkpoint that is saved then has nothing in flight

    def train(self) -> list[Path]:
        """Trains to the end of each run (see `end_reason`), or until a signal, and evaluates the agents -> the run folders.

        Raises:
          EnvError, DivergedError, CallbackError: the runs cannot go on; all but an agent of infinite actions has been saved.
          OSError: a run folder cannot be written any more.
        """
        status, reason = "failed", ""
        try:
            self._note("running")
            with self.stop:
                self._interact_and_save()
                self._finish()
            self.callbacks.check()
            status, reason = ("stopped", self.stop.signal) if self.stop.requested else ("finished", "")
        except BaseException as error:
            reason = str(error) if isinstance(error, DreamerError) else one_line(error)
            raise
        finally:
            with contextlib.suppress(OSError):  # of a disk that is full, which is being said
                self._note(status, reason)
            self.callbacks.end(status)
        if self.stop.requested:
            logger.info("Stopped at frame %d. Go on with: %s", self.collector.frames, self.command)
        return [run.folder for run in self.runs]

    def _note(self, status: Status, reason: str = "") -> None:
        """Writes how every run stands; without a reason it is that of the run's end."""
        for run in self.runs:
            run.note(status, reason, self.command)

    def _finish(self) -> None:
        """Evaluates the agents of runs that have come to their end. A signal ends that at once: everything has been saved."""
        for i, run in enumerate(self.runs):
            if self.stop.requested:
                run.draw()
                continue
            with contextlib.suppress(StoppedError), self.stop.at_once():
                run.finish(self.players, self._final[i])

    def _interact_and_save(self) -> None:
        """The loop, and a checkpoint at its end: also where an environment, the agent or a callback fails."""
        try:
            self._interact()
        except ActionError:  # of an agent that is not worth a checkpoint
            raise
        except (EnvError, DivergedError):
            self._save_all()
            raise
        except (KeyboardInterrupt, SystemExit) as error:
            if self.stop.requested:  # Ctrl-C for the second time
                raise
            self._save_all()
            task = self.runs[0].config.env.task
            raise DreamerError(f"{task} or an extension ended the program: {one_line(error)}. The run is saved") from error
        self._save_all()
        for run in self.runs:
            run.checkpoints.wait()
        self.callbacks.check()

    def _interact(self) -> None:
        """The loop."""
        self._retire_finished()
        while self.collector.active and not (self.stop.requested or self.callbacks.failed):
            self._in_step = True
            self._act_store_learn_step()
            self._in_step = False
            self._report_and_save()
            self.callbacks.step()

    def _act_store_learn_step(self) -> None:
        """One decision in every environment, and the updates that are due with it."""
        counter = self.collector.counters.policy_steps
        action = self.acting.act(self.learner.acting, counter, self.step)
        latents = self.learner.fetch_latents(self.acting.carry.latent)
        self.collector.store(self.step, self.acting.prev_action, latents)
        if self.collector.prefilling:
            action = self.acting.act_at_random(counter)
        else:
            self.learner.update(self.collector.updates_due())
        action = np.asarray(action)  # waits for the policy, not for the updates dispatched
        self.step = self.envs.step(action)
        self.acting.follow(action, self.step)
        self.collector.advance(self.step)

    def _report_and_save(self) -> None:
        """What is due between two steps: refused updates, a row, an evaluation, a checkpoint."""
        self.reporter.keep_refused()
        for i in self.collector.active:
            self.runs[i].check_refused()
        if self.schedule.row_due(self.collector.frames):
            self.reporter.row()
        self._retire_finished()
        if self.schedule.evaluation_due(self.collector.frames):
            scores = {i: self._evaluate(i) for i in self.collector.active}
            for i, score in scores.items():  # together: a kill in between parts the seeds
                self._save(i, score)
        if self.schedule.checkpoint_due:
            self._save_all()

    def _retire_finished(self) -> None:
        """Saves the runs that have come to their end, and keeps their agents as they are now."""
        finished = self.collector.finished
        if finished:
            self.reporter.row()
        for i in finished:
            self._save(i)
            self._final[i] = self._newest(i)
        self.collector.retire(finished)

    def _evaluate(self, index: int) -> float:
        """An evaluation on the way -> its mean return."""
        run = self.runs[index]
        score, line = run.evaluate(self.players[True].with_params(self._newest(index)))
        logger.info("%s", line if len(self.runs) == 1 else f"seed {run.config.seed}, {line}")
        return score

    def _save_all(self) -> None:
        for i in self.collector.active:
            self._save(i)

    def _save(self, index: int, score: float | None = None) -> None:
        """Saves a run, with all that an exact continuation needs unless this is in the midst of a step."""
        begun = time.monotonic()
        in_flight = None
        if not self._in_step:
            in_flight = resumption.in_flight(index, self.envs, self.acting, self.learner, self.runs[index].episodes)
        self.learner.notice()
        self.reporter.keep_refused()
        self.runs[index].save(self.learner.agent(index), self.collector.train_ratio, in_flight, score)
        self.runs[index].note("running", "", self.command)
        give_back_memory()
        self.reporter.checkpoint_seconds += time.monotonic() - begun
        self.schedule.saved()

    def _newest(self, index: int) -> ActingParams:
        return jax.tree.map(lambda x: x[index], self.learner.newest())
