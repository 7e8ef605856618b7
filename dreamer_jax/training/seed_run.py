"""The run of one seed: its folder, counters, replay, log, checkpoints and evaluations. `loop.py` trains several at once."""

import contextlib
import logging
import os
import shutil
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.agent.types import ActingParams, AgentState
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import CheckpointError, DivergedError
from dreamer_jax.core.files import write_arrays, write_json
from dreamer_jax.core.presets import write_yaml
from dreamer_jax.envs import Step
from dreamer_jax.play.evaluate import EVALUATION_SEED, SELECTION_SEED, evaluate, summary
from dreamer_jax.play.policy import Policy
from dreamer_jax.play.video import write_episode
from dreamer_jax.replay.buffer import Replay
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.counters import FORMAT, Counters, HostState
from dreamer_jax.runs.curves import draw_curves
from dreamer_jax.runs.folder import describe_environment, open_run
from dreamer_jax.runs.in_flight import InFlight, OpenEpisodes
from dreamer_jax.runs.metrics import FILE_NAME, RETURN_WINDOW, MetricsLog, read_metrics, truncate
from dreamer_jax.runs.status import Status, write_status
from dreamer_jax.training.callbacks.base import RunView
from dreamer_jax.training.callbacks.group import Callbacks
from dreamer_jax.training.ending import end_reason
from dreamer_jax.training.learner import Refused

logger = logging.getLogger(__name__)


class Episodes:
    """Returns and lengths of the episodes that E environments are playing, and the returns of the last few that ended."""

    def __init__(self, num_envs: int) -> None:
        self.returned = np.zeros(num_envs)
        self.length = np.zeros(num_envs, int)
        self.recent: deque[float] = deque(maxlen=RETURN_WINDOW)

    def track(self, step: Step) -> list[dict[str, float]]:
        """Counts one step of every environment -> {"return", "length", "success"} of each episode that ended with it."""
        self.returned = np.where(step.is_first, 0.0, self.returned + step.reward)
        self.length = np.where(step.is_first, 0, self.length + 1)
        ended = []
        for i in np.flatnonzero(step.is_last):
            row = {"return": float(self.returned[i]), "length": int(self.length[i])}
            if not np.isnan(step.success[i]):
                row["success"] = float(step.success[i])
            self.recent.append(row["return"])
            ended.append(row)
        return ended

    def put_back(self, saved: OpenEpisodes, is_first: np.ndarray) -> None:
        """Goes on counting saved episodes; not where is_first bool[E] says that an environment began a new one instead."""
        self.returned, self.length = np.where(is_first, 0.0, saved.returned), np.where(is_first, 0, saved.length)


class SeedRun:
    """One seed's run.

    Args:
      folder: the run folder, which exists.
      resume_from: frames of the checkpoint that the run goes on from; None for a new one. It is only read here: `open` comes
        when everything else of all runs could be read as well.
      callbacks: are told of rows, checkpoints and evaluations.

    Attributes:
      replay, counters, episodes: what has been collected.
      view: what callbacks see of the run.
      train_ratio: where the count of updates stood at the checkpoint [records].
      refused: updates that were left out since the start or the resumption.
      ended: why the run is at its end, see `end_reason`; empty until then.
    """

    _log: MetricsLog

    def __init__(
        self,
        config: Config,
        folder: Path,
        checkpoints: Checkpoints,
        replay: Replay,
        resume_from: int | None,
        callbacks: Callbacks,
    ) -> None:
        self.config, self.folder, self.checkpoints, self.replay = config, folder, checkpoints, replay
        self.counters, self.episodes = Counters(), Episodes(config.env.num_envs)
        self.refused = 0
        self.train_ratio: float | None = None
        self._resume_from = resume_from
        self._rows: int | None = None  # that the log held at the checkpoint, if that knows it
        if resume_from is not None:
            self._restore(resume_from)
        self._started = time.monotonic() - self.counters.wall_seconds
        self.ended = end_reason(config, self.counters, self.episodes.recent)
        self._callbacks = callbacks
        self.view = RunView(config, folder, self.counters, self.episodes.recent, replay, callbacks.media)

    def open(self, device: str, stack: contextlib.ExitStack) -> None:
        """Makes the folder as it was at the checkpoint, and opens the log, which `stack` closes.

        A configuration that the run goes on with changed is written, and the evaluation of an earlier end is set aside.
        """
        if open_run(self.folder) != self.config:
            write_yaml(self.config, self.folder / "config.yaml")
        if self._resume_from is not None:
            if not self.ended and (self.folder / "evaluation.json").exists():
                (self.folder / "set_aside").mkdir(exist_ok=True)
                place = self.folder / "set_aside" / f"evaluation-{self._resume_from}.json"
                os.replace(self.folder / "evaluation.json", place)
            self.checkpoints.set_aside_after(self._resume_from, self.replay.added)
            truncate(self.folder, self._resume_from, self._rows)
        write_json(self.folder / "environment.json", describe_environment(device))
        self._log = stack.enter_context(contextlib.closing(MetricsLog(self.folder, resume=self.resumed)))
        self.view.last_frames = self._log.last_frames

    @property
    def active(self) -> bool:
        """Whether the run is to be trained further."""
        return not self.ended

    def look_for_end(self) -> None:
        """Notes whether the run has come to its end with the last step."""
        self.counters.wall_seconds = time.monotonic() - self._started
        self.ended = end_reason(self.config, self.counters, self.episodes.recent)

    @property
    def resumed(self) -> bool:
        """Whether the run goes on from a checkpoint."""
        return self._resume_from is not None

    def write(self, kind: str, row: dict[str, Any]) -> None:
        """Adds a metrics row with the counters."""
        self.counters.wall_seconds = time.monotonic() - self._started
        counts = {key: value for key, value in asdict(self.counters).items() if key not in ("records", "policy_steps")}
        self._callbacks.row(self.view, self._log.write({"kind": kind, **counts, **row}))

    def keep_refused(self, update: Refused) -> str:
        """Stores the batch and the metrics of an update that was left out -> a line for the terminal."""
        self.refused += 1
        path = self.folder / "refused" / f"{update.step}.npz"
        path.parent.mkdir(exist_ok=True)
        sequences = {name: value for name, value in vars(update.sequences).items() if value is not None and name != "obs"}
        obs = {f"obs/{name}": value for name, value in update.sequences.obs.items()}
        write_arrays(path, sequences | obs | {f"metrics/{name}": value for name, value in update.metrics.items()})
        names = ", ".join(sorted(name for name, value in update.metrics.items() if not np.isfinite(value)))
        return f"update {update.step} of seed {self.config.seed} left out: {names} not finite; its batch is in {path}"

    def check_refused(self) -> None:
        """Raises DivergedError once more updates have been left out than the configuration allows."""
        limit = self.config.train.refused_limit
        if self.refused > limit:
            raise DivergedError(
                f"seed {self.config.seed}: {self.refused} updates had a loss or gradients that are not finite, more than "
                f"train.refused_limit={limit}; their batches are in {self.folder / 'refused'}. The agent is saved as it was "
                "without them. Look for extreme observations and rewards in the batches, or lower optimizer.learning_rate"
            )

    def evaluate(self, policy: Policy) -> tuple[float, str]:
        """A short evaluation -> its mean return, by which the best checkpoint is known, and a line for the terminal."""
        result = evaluate(policy, self.config.env, self.config.eval.episodes, self.config.seed, SELECTION_SEED)
        self.write("eval", _row(result))
        self._callbacks.evaluation(self.view, policy, result)
        return result["return_mean"], f"frame {self.counters.frames}: evaluation {summary(result)}"

    def save(
        self, agent: AgentState, train_ratio: float | None, in_flight: InFlight | None, score: float | None = None
    ) -> None:
        """Writes a checkpoint.

        Args:
          train_ratio: where the count of updates stands [records].
          in_flight: what an exact continuation needs beside it; None in the midst of a step.
          score: mean return of the evaluation that comes with it.

        Raises:
          OSError: it cannot be written, or what was being written of the one before.
        """
        self.counters.wall_seconds = time.monotonic() - self._started
        host = HostState(
            format=FORMAT,
            config=self.config.model_dump(by_alias=True),
            counters=self.counters,
            train_ratio=train_ratio,
            replay_end=self.replay.added,
            replay_queue=[list(window) for window in self.replay.queue],
            replay_rng=dict(self.replay.rng.bit_generator.state),
            recent_returns=list(self.episodes.recent),
            rows=self._log.rows,
        )
        frames = self.counters.frames
        new = frames not in self.checkpoints.steps()
        self.checkpoints.save(frames, agent, host, self.replay, in_flight, score)
        if new:
            self._callbacks.checkpoint(self.view, frames)

    def note(self, status: Status, reason: str, command: str) -> None:
        """Writes `status.json`; see `write_status`."""
        reason = reason or ("" if status == "running" else self.ended)
        write_status(self.folder, status, reason, self.counters.frames, command)

    def restore_agent(self, like: AgentState) -> AgentState:
        """The agent of the checkpoint that the run goes on from."""
        assert self._resume_from is not None
        return self.checkpoints.restore_agent(self._resume_from, like)

    def restore_in_flight(self, like: InFlight) -> InFlight | None:
        """What was in flight at the checkpoint that the run goes on from; None where it cannot go on exactly."""
        if self._resume_from is None:
            return None
        return self.checkpoints.restore_in_flight(self._resume_from, like, self.replay)

    def finish(self, policies: dict[bool, Policy], params: ActingParams) -> None:
        """The evaluation of the agent at the end, on seeds that training never saw, with JSON, video and curves.

        Args:
          policies: the deterministic and the sampling one, by that.
        """
        config, counters = self.config, asdict(self.counters)
        episodes = config.eval.final_episodes
        logger.info("Evaluating the last agent of seed %d over %d fresh episodes ...", config.seed, episodes)
        results = {}
        for name, deterministic in (("deterministic", True), ("sampled", False)):
            policy = policies[deterministic].with_params(params)
            results[name] = evaluate(policy, config.env, episodes, config.seed, EVALUATION_SEED)
        write_json(self.folder / "evaluation.json", {"task": config.env.task, "checkpoint": "last", **counters, **results})
        rows = read_metrics(self.folder / FILE_NAME)
        if not any(old["kind"] == "eval" and old["frames"] == self.counters.frames for old in rows):  # resumed when finished
            self.write("eval", _row(results["deterministic"]))
        self._callbacks.evaluation(self.view, policies[True].with_params(params), results["deterministic"])
        self.draw()
        for name, result in results.items():
            logger.info("  %-22s %s", f"{name} policy:", summary(result))
        if config.eval.video:
            policy = policies[True].with_params(params)
            write_episode(policy, config.env, config.seed, self.folder / "videos" / f"{self.counters.frames}.mp4")
        logger.info("Run folder: %s", self.folder)

    def draw(self) -> None:
        """Draws the curves of everything logged so far."""
        draw_curves(read_metrics(self.folder / FILE_NAME), self.folder / "curves.png", self.config.env.task)

    def _restore(self, frames: int) -> None:
        """Puts back counters, train ratio and replay."""
        host = self.checkpoints.restore_host(frames)
        self.checkpoints.check_config(frames, host, self.config)
        self.counters = host.counters
        self.train_ratio, self._rows = host.train_ratio, host.rows
        self.checkpoints.restore_replay(self.replay, frames, host.replay_end)
        self.replay.queue.extend((env, first) for env, first in host.replay_queue)
        self.replay.rng.bit_generator.state = host.replay_rng
        self.episodes.recent.extend(host.recent_returns)


def begin_again(folder: Path) -> None:
    """Moves what was recorded in a run without a checkpoint to `set_aside/0`: it ended before its first one.

    Raises:
      CheckpointError: it has been evaluated, so that there were checkpoints.
    """
    if (folder / "evaluation.json").exists():
        raise CheckpointError(f"{folder} was finished, and its checkpoints are gone; start a new run with the same options")
    place = folder / "set_aside" / "0"
    shutil.rmtree(place, ignore_errors=True)
    for name in ("replay", "tensorboard", FILE_NAME):
        if (folder / name).exists():
            place.mkdir(parents=True, exist_ok=True)
            os.replace(folder / name, place / name)
    logger.info("%s has no checkpoint yet: it begins again", folder)


def _row(result: dict[str, Any]) -> dict[str, Any]:
    """What the log keeps of an evaluation."""
    return {key: result[key] for key in ("return_mean", "return_std", "length_mean", "episodes")}
