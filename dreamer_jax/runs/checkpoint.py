"""Saving and restoring a whole run: agent and what is in flight by Orbax, counters as JSON, the replay by its own store.

    checkpoints/<frames>/agent       parameters, optimisers, slow critic, return normaliser, key (Orbax)
    checkpoints/<frames>/in_flight   what else an exact continuation needs, see `in_flight.InFlight` (Orbax)
    checkpoints/<frames>/host        format, counters, configuration and the replay's random state (JSON)
    replay/                          records, shared by all checkpoints, and latents of the newest two (`replay.store`)

A checkpoint names the last record that it needs, so a segment that is newer than the checkpoint does no harm. One that was
saved in the midst of a step, after an error, has nothing in flight: the run then goes on with new episodes. Every file is
written beside its place and moved there.
"""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from dreamer_jax.agent.types import AgentState
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import CheckpointError, DamagedError
from dreamer_jax.core.extensions import DOORS
from dreamer_jax.core.presets import flatten
from dreamer_jax.core.quiet import errors_only
from dreamer_jax.core.text import brief, shown
from dreamer_jax.replay.buffer import Replay
from dreamer_jax.replay.store import ReplayStore
from dreamer_jax.runs.counters import FORMAT, PARTS_FORMAT, HostState, read_host
from dreamer_jax.runs.in_flight import InFlight, read_in_flight

logger = logging.getLogger(__name__)

# Sections and settings that a run may go on with changed: they make no other run of it.
FREE = ("train", "eval", "runs", "device", "replay.storage", "env.processes", "env.timeout", "env.restarts")


def is_free(name: str) -> bool:
    """Whether a run may go on with the setting of this dotted name changed; options of callbacks are free as well."""
    free = (*FREE, *(f"extensions.{callback}" for callback in DOORS["callback"].outside_names()))
    return any(f"{name}.".startswith(f"{one}.") for one in free)


class Checkpoints:
    """The checkpoints of one run: the newest `keep` and the best by evaluation.

    Args:
      run: the run's folder.
      keep: how many of the newest stay; None opens the folder for reading only.
    """

    def __init__(self, run: Path, keep: int | None = None) -> None:
        self.run = run
        self._store = ReplayStore(run)
        policies = checkpoint_managers
        if keep is None and not (run / "checkpoints").is_dir():
            raise CheckpointError(f"{run} has no checkpoints; train longer, or give another run folder")
        with errors_only("absl"):  # Orbax warns of every folder that is opened for reading
            options = ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(keep),
                        policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False),
                    ]
                ),
                best_fn=_score,  # without it scores are neither saved nor looked up
                read_only=keep is None,
            )
        folder = (run / "checkpoints").absolute()
        if keep is not None:  # halves that a kill left; Orbax would remove them in the background, and two such at once fail
            for half in folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
                shutil.rmtree(half)
        try:
            with errors_only("absl"):
                self._manager = ocp.CheckpointManager(folder, item_names=("agent", "host", "in_flight"), options=options)
        except Exception as error:  # here and below: what Orbax raises of a file that it cannot read is open-ended
            raise CheckpointError(f"{folder} is damaged: {brief(error)}") from None

    def save(
        self,
        frames: int,
        state: AgentState,
        host: HostState,
        replay: Replay,
        in_flight: InFlight | None,
        score: float | None,
    ) -> None:
        """Saves everything; files of arrays are written in the background.

        Args:
          frames: names the checkpoint [simulator steps]. There is none yet at these frames, or nothing is done.
          in_flight: None in the midst of a step.
          score: the evaluation's mean return.

        Raises:
          OSError: it cannot be written, or what was being written of the one before.
        """
        if frames in self._manager.all_steps():
            return
        self.wait()  # what the checkpoint before replaces may go only when that is whole
        self._store.save(replay, self._ends(replay))
        self._store.save_latents(replay, frames, keep=self.steps()[-1:])  # of the newest, whose successor is not there yet
        # Copies: buffers are donated to the next update while the files are still being written.
        agent = jax.tree.map(lambda x: np.array(x, copy=True), _storable(state))
        saved = {"agent": ocp.args.StandardSave(agent), "host": ocp.args.JsonSave(host.model_dump())}
        if in_flight is not None:
            saved["in_flight"] = ocp.args.StandardSave(jax.tree.map(lambda x: np.array(x, copy=True), in_flight))
        with self._writing(), errors_only("absl"):  # Orbax warns of every checkpoint without a score
            self._manager.save(
                frames, args=ocp.args.Composite(**saved), metrics=None if score is None else {"score": float(score)}
            )

    def save_ahead(self, replay: Replay) -> None:
        """Writes in the background what the next checkpoint needs of a replay, if it is worth it. Raises OSError as `save`."""
        self._store.save_ahead(replay)

    def steps(self) -> list[int]:
        """Frames at which there is a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def resolve(self, which: str) -> int:
        """The frames of "last", "best" (by evaluation on the way) or a number.

        Raises:
          CheckpointError: there is no such checkpoint; the message lists those that exist.
        """
        steps = self.steps()
        if steps and which == "last":
            return steps[-1]
        if which == "best":
            try:
                best = self._manager.best_step()
            except Exception as error:
                raise CheckpointError(f"the scores in {self.run / 'checkpoints'} are damaged: {brief(error)}") from None
            if best in steps:
                return best
        for step in steps:
            if which == str(step):
                return step
        raise CheckpointError(f"{self.run} has no checkpoint {which!r}; it has {steps or 'none'} (or: last, best)")

    def restore_agent(self, frames: int, like: AgentState) -> AgentState:
        """The agent saved at `frames`; `like` gives structure, shapes and dtypes (from `jax.eval_shape`).

        Raises:
          CheckpointError: the checkpoint is of another agent.
          DamagedError: it cannot be read.
        """
        abstract = jax.eval_shape(_storable, like)
        renamed = "parts" in abstract and self.restore_host(frames).format < PARTS_FORMAT
        if renamed:  # only prototypes had a state, under another name
            abstract["slow_encoder"] = abstract.pop("parts").get("prototypes", {})
        path = self.run / "checkpoints" / str(frames)
        try:
            saved = self._manager.restore(frames, args=ocp.args.Composite(agent=ocp.args.StandardRestore(abstract)))["agent"]
        except Exception as error:
            message = f"checkpoint {path} does not fit this run's config.yaml or is damaged: {brief(error)}"
            raise DamagedError(message, self.run, frames) from None
        # Orbax gives arrays of whatever shape was saved.
        for (name, asked), found in zip(jax.tree_util.tree_leaves_with_path(abstract), jax.tree.leaves(saved), strict=True):
            if (asked.shape, asked.dtype) != (found.shape, found.dtype):
                raise CheckpointError(
                    f"checkpoint {path} does not fit this run's config.yaml: {jax.tree_util.keystr(name)} is "
                    f"{found.dtype}{list(found.shape)}; {asked.dtype}{list(asked.shape)} was expected"
                )
        if renamed:
            saved["parts"] = {"prototypes": saved.pop("slow_encoder")}
        return AgentState(**{"parts": {}, **saved, "key": jax.random.wrap_key_data(saved["key"])})

    def read_agent(self, frames: int) -> dict[str, Any]:
        """The agent saved at `frames` as nested mappings of arrays, whatever agent it is; the names are those of `AgentState`.

        Raises:
          DamagedError: it cannot be read.
        """
        try:
            saved = self._manager.restore(frames, args=ocp.args.Composite(agent=ocp.args.StandardRestore()))["agent"]
        except Exception as error:
            path = self.run / "checkpoints" / str(frames)
            raise DamagedError(f"checkpoint {path} is damaged: {brief(error)}", self.run, frames) from None
        if "slow_encoder" in saved:
            saved["parts"] = {"prototypes": saved.pop("slow_encoder")}
        return saved

    def restore_host(self, frames: int) -> HostState:
        """The counters saved at `frames`, and what else is saved with them.

        Raises:
          CheckpointError: they are those of a newer version of this project.
          DamagedError: they cannot be read or used.
        """
        path = self.run / "checkpoints" / str(frames) / "host"
        try:
            values = self._manager.restore(frames, args=ocp.args.Composite(host=ocp.args.JsonRestore()))["host"]
        except Exception as error:
            raise DamagedError(f"{path} is damaged: {brief(error)}", self.run, frames) from None
        found = values.get("format") if isinstance(values, dict) else None
        if isinstance(found, int) and found > FORMAT:
            raise CheckpointError(
                f"{path} has format {shown(found)}; this version reads 1 to {FORMAT}. Install the version that wrote it"
            )
        try:
            return read_host(values)
        except ValueError as error:
            raise DamagedError(f"{path} is damaged: {error}", self.run, frames) from None

    def check_config(self, frames: int, host: HostState, config: Config) -> None:
        """Compares the settings that the checkpoint was saved under with `config`; those in `FREE` may differ.

        Checkpoints of before settings were saved pass.

        Raises:
          CheckpointError: other settings, with a list of them.
          DamagedError: what the checkpoint counts does not fit the settings or its own name.
        """
        was, now = flatten(host.config), flatten(config.model_dump(by_alias=True))
        differing = [
            f"{name}: {shown(was[name])} in the checkpoint, {shown(now[name])} in config.yaml"
            for name in sorted(was.keys() & now.keys())  # others came or went with a version
            if not is_free(name) and was[name] != now[name]
        ]
        if differing:
            path = self.run / "checkpoints" / str(frames)
            raise CheckpointError(
                f"checkpoint {path} is of another configuration: {'; '.join(differing)}. Put the old values back"
            )
        if problem := host.problem(frames, config):
            path = self.run / "checkpoints" / str(frames) / "host"
            raise DamagedError(f"{path} is damaged: {problem}", self.run, frames)

    def restore_in_flight(self, frames: int, like: InFlight, replay: Replay) -> InFlight | None:
        """What was in flight when the checkpoint was saved; puts the latents of that moment into `replay`.

        None, and a logged line with the reason, where the run cannot go on exactly: it can do without.

        Args:
          like: what this run can have in flight, see `read_in_flight`.
          replay: holds the checkpoint's records.
        """
        path = self.run / "checkpoints" / str(frames) / "in_flight"
        try:
            if not path.is_dir():
                raise ValueError(f"{path.parent} has nothing in flight")
            try:
                saved = self._manager.restore(frames, args=ocp.args.Composite(in_flight=ocp.args.StandardRestore()))[
                    "in_flight"
                ]
                in_flight = read_in_flight(saved, like, replay.added)
            except Exception as error:  # what Orbax raises of a file that it cannot read is open-ended
                raise ValueError(f"{path} cannot be used: {brief(error)}") from None
            self._store.restore_latents(replay, frames)
        except ValueError as error:
            logger.warning("%s. The run goes on with new episodes", error)
            return None
        return in_flight

    def set_aside_after(self, frames: int, end: int) -> None:
        """Moves checkpoints beyond `frames` to `RUN/set_aside`, and removes records from `end` on: the run goes on from there.

        Files that were not written whole are removed too.
        """
        for step in self.steps():
            if step > frames:
                place = self.run / "set_aside" / str(step)
                shutil.rmtree(place, ignore_errors=True)
                place.parent.mkdir(exist_ok=True)
                os.replace(self.run / "checkpoints" / str(step), place)
                self._store.drop_latents(step)
        self._manager.reload()
        self._store.drop_from(end)

    def restore_replay(self, replay: Replay, frames: int, end: int) -> None:
        """Fills `replay` with what the checkpoint at `frames` needs, records up to `end` of each environment.

        Raises:
          DamagedError: a record that should be there is missing or damaged.
        """
        try:
            self._store.restore(replay, end)
        except ValueError as error:
            raise DamagedError(f"checkpoint at frame {frames}: {error}", self.run, frames) from None

    def wait(self) -> None:
        """Waits for files that are still being written.

        Raises:
          OSError: they cannot be.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Ends the writing; whoever wants to know whether it went well calls `wait` before."""
        self._store.close()
        with contextlib.suppress(OSError), self._writing():
            self._manager.close()  # which waits

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Makes an OSError of what Orbax raises where files cannot be written, which is of no common class."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            raise OSError(errno.EIO, brief(error), str(self.run / "checkpoints")) from error

    def _ends(self, replay: Replay) -> list[int]:
        """Where the records end that kept checkpoints, and the one to come, ask for; one that cannot be read asks for none."""
        ends = [replay.added]
        for frames in self.steps():
            with contextlib.suppress(DamagedError):
                ends.append(self.restore_host(frames).replay_end)
        return ends


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]


def _storable(state: AgentState) -> dict[str, Any]:
    """The state's fields, typed keys as plain numbers, which Orbax stores on every version.

    Where no part has a state there is no trace of one: checkpoints from before parts had a place can be read.
    """
    fields = {**vars(state), "key": jax.random.key_data(state.key)}
    return {name: value for name, value in fields.items() if name != "parts" or value}
