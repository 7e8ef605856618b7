"""Runs a suite, one child process of `dreamer train` after another, and gathers one JSON of results. Imports no JAX.

OUTPUT/results.json              protocol, environments, every run with its curve and scores, means over seeds
OUTPUT/runs/<task>/<run>/        the run folders
OUTPUT/logs/<task>-<seed>.log    what a process printed; its errors are beside it in .err
OUTPUT/set_aside/<task>/<run>/   runs that had no usable checkpoint and were started anew; they do not count
"""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamer_jax.benchmark.results import results, scores_table
from dreamer_jax.benchmark.suites import Plan, Run, overview, read_runs
from dreamer_jax.core.errors import UNUSABLE_CHECKPOINT
from dreamer_jax.core.files import locked, make_folder, write_json
from dreamer_jax.core.paths import start_folder
from dreamer_jax.core.text import clock, safe_name
from dreamer_jax.runs.folder import POLICIES, over_episodes

logger = logging.getLogger(__name__)
TRAIN = (sys.executable, "-m", "dreamer_jax", "train")
FAILED, INTERRUPTED = 1, 130  # exit statuses; the second is a shell's for Ctrl-C


def run_benchmark(plan: Plan, command: Sequence[str] = TRAIN) -> int:
    """Runs what is not finished yet, and rewrites `results.json` after each run.

    A run that fails is recorded with its last line of stderr, and the others go on. Ctrl-C and SIGTERM are passed on to the
    child, which saves a checkpoint; the same plan then goes on from there.

    Args:
      plan: from `make_plan`.
      command: what is called with the options of `dreamer train`.

    Returns:
      Exit status: 0 when all runs of the plan are finished, 1 when one failed, 130 after a signal.

    Raises:
      RunError: the output folder holds runs with other settings, or is in use.
      StorageError: it cannot be written.
    """
    make_folder(plan.output)
    with locked(plan.output / ".lock") as lock, _Child(command, lock) as child:
        session = _Session(plan, child)
        session.run()
        content = session.gather()
        logger.info("%s", scores_table(content))
        if len(content["environments"]) > 1:
            logger.info("note: not all runs had the same versions, device, machine and commit; results.json lists them")
        logger.info("wrote %s", plan.output / "results.json")
        logger.info("report: dreamer report %s --output %s", plan.output / "runs", plan.output / "report")
        if child.stopping:
            logger.info("Stopped. Go on with: %s", plan.command())
            return INTERRUPTED
        for name, error in session.errors.items():
            logger.warning("failed: %s: %s", name, error)
        return FAILED if session.errors else 0


class _Session:
    """One call of `run_benchmark`."""

    def __init__(self, plan: Plan, child: "_Child") -> None:
        self.plan, self.child = plan, child
        self.errors: dict[str, str] = {}  # by the run's name
        self.started = time.monotonic()
        self.frames = 0  # simulator steps of this session
        logger.info("%s", overview(plan, read_runs(plan)))
        self.gather()

    def run(self) -> None:
        """The runs of the plan, one process after another, until the end or a signal."""
        for begin in self._first_of_each_process():
            for part in self._parts(begin):
                if self.child.stopping:
                    return
                self._train_and_settle(part)

    def _first_of_each_process(self) -> range:
        """Positions in the plan at which a process starts."""
        return range(len(self.plan.tasks) if self.plan.together else len(self.plan.configs))

    def _parts(self, begin: int) -> list[list[int]]:
        """Positions in the plan of the runs that one process trains, of those that are not finished yet.

        Seeds go together when all of them are new, or all can be resumed; otherwise one after another.
        """
        count = len(self.plan.configs)
        together = range(begin, count, len(self.plan.tasks)) if self.plan.together else [begin]
        runs = read_runs(self.plan)
        left = [i for i in together if runs[i].state != "finished"]
        if len(left) == len(together) and len({runs[i].state for i in left}) == 1:
            return [left]
        return [[i] for i in left]

    def _train_and_settle(self, part: list[int]) -> None:
        """One process, from its start to the lines that say what came of its runs."""
        count, runs = len(self.plan.configs), [read_runs(self.plan)[i] for i in part]
        log = self._log(runs)
        for i, run in zip(part, runs, strict=True):
            logger.info("[%d/%d] %s %s | log %s", i + 1, count, run.state.removeprefix("to "), run.name, log)
        begin = time.monotonic()
        status, last_line = self._train(runs, log)
        if status == UNUSABLE_CHECKPOINT and len(part) > 1:
            logger.warning("  %s", last_line)
            for i in part:
                self._train_and_settle([i])
            return
        for i, before in zip(part, runs, strict=True):
            run = read_runs(self.plan)[i]
            self.frames += max(0, run.frames - before.frames)
            self._settle(run, status, last_line)
            record = next(row for row in self.gather()["runs"] if (row["task"], row["seed"]) == run.key)
            outcome = self.errors.get(run.name) or _scores(record)
            word = record["status"] if record["status"] in ("finished", "failed") else "stopped"
            took, elapsed = clock(time.monotonic() - begin), clock(time.monotonic() - self.started)
            said = f"[{i + 1}/{count}] {word} {run.name} in {took} | {outcome} | elapsed {elapsed}, left {self._left()}"
            logger.info("%s", said)

    def gather(self) -> dict[str, Any]:
        """Writes `results.json` and returns its content."""
        content = results(self.plan, read_runs(self.plan), self.errors)
        write_json(self.plan.output / "results.json", content)
        return content

    def _train(self, runs: Sequence[Run], log: Path) -> tuple[int, str]:
        """Resumes or starts runs of one task -> exit status, last line of stderr."""
        if runs[0].state == "to resume":
            status, last_line = self.child(["--resume", *(str(run.folder) for run in runs)], log)
            if status != UNUSABLE_CHECKPOINT or len(runs) > 1:
                return status, last_line
            logger.warning("  %s", last_line)
        for run in runs:
            if run.folder:
                aside = self._set_aside(run.folder)
                logger.warning("  no usable checkpoint: started anew, the old folder is now %s", aside)
        overrides = [f"--{name}={value}" for name, value in self.plan.overrides.items()]
        task, seed = runs[0].key
        own = [f"--preset={self.plan.preset}", f"--env.task={task}", f"--seed={seed}"]
        several = [f"--seeds={len(runs)}"] if len(runs) > 1 else []
        return self.child([*own, *several, f"--runs={self.plan.output / 'runs'}", *overrides], log)

    def _settle(self, run: Run, status: int, last_line: str) -> None:
        """Notes a run that ended without its evaluation, unless it was asked to stop."""
        if run.state == "finished" or self.child.stopping:
            return
        if status < 0:
            self.errors[run.name] = f"killed by {signal.Signals(-status).name}" + (f": {last_line}" if last_line else "")
        else:
            self.errors[run.name] = last_line or f"ended with status {status} before its evaluation"

    def _set_aside(self, folder: Path) -> Path:
        place = self.plan.output / "set_aside" / folder.parent.name / folder.name
        place.parent.mkdir(parents=True, exist_ok=True)
        return folder.rename(place)

    def _log(self, runs: Sequence[Run]) -> Path:
        task = safe_name(runs[0].config.env.task)
        path = self.plan.output / "logs" / f"{task}-{'-'.join(str(run.config.seed) for run in runs)}.log"
        path.parent.mkdir(exist_ok=True)
        return path

    def _left(self) -> str:
        """Time for the runs that are not finished and did not fail, at this session's speed."""
        runs = [run for run in read_runs(self.plan)[: len(self.plan.configs)] if run.name not in self.errors]
        left = sum(run.config.train.frames - run.frames for run in runs)
        if left and not self.frames:
            return "unknown"
        return f"about {clock((time.monotonic() - self.started) / max(1, self.frames) * left)}"


class _Child:
    """Calls the training command, one child at a time, and passes the first signals on to it.

    The child has a session of its own: a terminal's Ctrl-C reaches it once, through this process. A second one would make it
    give up on its checkpoint.
    """

    def __init__(self, command: Sequence[str], lock: int) -> None:
        self.stopping = False
        self._command, self._lock = command, lock
        self._process: subprocess.Popen | None = None
        self._previous: Mapping[int, Any] = {}

    def __enter__(self) -> "_Child":
        self._previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __call__(self, arguments: Sequence[str], log: Path) -> tuple[int, str]:
        """Runs to the end of the child -> exit status (negative: killed by that signal), last line of its stderr."""
        with log.open("ab") as out, log.with_suffix(".err").open("ab") as err:
            begin = err.tell()
            # The lock is inherited: it lasts as long as a child that outlives this process.
            self._process = subprocess.Popen(
                [*self._command, *arguments],
                stdin=subprocess.DEVNULL,
                cwd=start_folder(),
                stdout=out,
                stderr=err,
                start_new_session=True,
                pass_fds=(self._lock,),
            )
            if self.stopping:  # a signal came while the child was being made
                self._process.terminate()
            status = self._process.wait()
        lines = log.with_suffix(".err").read_bytes()[begin:].decode(errors="replace").split("\n")
        return status, next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _stop(self, number: int, frame: Any) -> None:
        if not self.stopping:
            logger.info("stopping: the run saves a checkpoint (Ctrl-C again to give up on that)")
        self.stopping = True
        if self._process is not None:
            self._process.send_signal(number)


def _scores(record: Mapping[str, Any]) -> str:
    """A finished or stopped run in a few words."""
    if record["status"] != "finished":
        return f"frame {record['frames']:,}"
    return ", ".join(f"{name} {over_episodes(record[name])}" for name in POLICIES)
