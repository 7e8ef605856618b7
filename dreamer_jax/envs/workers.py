"""Environments in processes of their own. One that dies or hangs is started anew, and the others do not notice."""

import contextlib
import logging
import math
import multiprocessing
import signal
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from dreamer_jax.core.errors import EnvError
from dreamer_jax.core.spaces import ActionSpec, ObsSpecs
from dreamer_jax.core.text import one_line
from dreamer_jax.envs.episodes import EpisodeState, Record, SeededEpisodes, restart_seed

logger = logging.getLogger(__name__)
_START_SECONDS = 60.0  # what a process gets for its start, beyond the time for a reset
_CLOSE_SECONDS = 10.0  # what a process gets to finish its step before it is killed
_SLICE = 1.0  # of waiting [seconds]


def locate(error: EnvError, index: int, count: int) -> EnvError:
    """The error with the environment that it comes from, where there are several."""
    if count > 1:
        error.args = (f"environment {index}: {error}",)
    return error


class Workers:
    """The environments made by `make`, one for each seed, each in a process of its own.

    Args:
      make: makes an environment from its seed; has to be picklable.
      specs: what each of them shows and takes.
      name: the task, for messages.
      timeout: longest time for a step or a reset [seconds].
      restarts: how many of them are allowed over all environments.

    Raises:
      EnvError: an environment cannot be made. All methods but `close`: it breaks its promises, or the restarts are used up.
    """

    def __init__(
        self,
        make: Callable[[int], SeededEpisodes],
        seeds: Sequence[int],
        specs: tuple[ObsSpecs, ActionSpec],
        name: str,
        timeout: float,
        restarts: int,
    ) -> None:
        self._make, self._seeds, self._specs, self._name = make, seeds, specs, name
        self._timeout, self._allowed, self._restarts = timeout, restarts, 0
        self._workers: list[_Worker] = []
        weakref.finalize(self, _kill, self._workers)  # at exit Python would wait for them
        try:
            for seed in seeds:
                self._workers.append(self._start(seed))
            self._await_start(range(len(seeds)))
            for i, worker in enumerate(self._workers):
                if worker.gone:
                    raise self._given_up(i)
        except BaseException:
            self.close()
            raise

    def reset(self, episodes: Sequence[EpisodeState | None]) -> list[Record]:
        """`SeededEpisodes.reset` everywhere."""
        longest = max(0 if state is None else len(state.actions) for state in episodes)
        return self._records("reset", episodes, self._timeout * (1 + longest))  # a repeated episode is as many steps

    def step(self, actions: np.ndarray) -> list[Record]:
        """`SeededEpisodes.step` everywhere. Where a process is gone, the record is the reset of its successor."""
        return self._records("step", actions, self._timeout)

    def episodes(self) -> list[EpisodeState]:
        """What each environment is playing. Where its process is gone nobody knows: a state that has a new episode follow."""
        answers = self._ask(dict.fromkeys(range(len(self._seeds)), ("episode",)), self._timeout)
        nothing = np.zeros((0, self._specs[1].size), np.float32)
        return [
            EpisodeState(restart_seed(seed, self._restarts + 1), 0, nothing, 0) if answers[i] is None else answers[i]
            for i, seed in enumerate(self._seeds)
        ]

    def close(self) -> None:
        """Ends the processes; one that does not finish what it does is killed."""
        for worker in self._workers:
            worker.pipe.close()  # which ends `_serve`
        deadline = time.monotonic() + _CLOSE_SECONDS
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.kill()

    def _records(self, method: str, arguments: Iterable[Any], timeout: float) -> list[Record]:
        """Calls `method` everywhere, and starts anew what is gone."""
        answers = self._ask({i: (method, argument) for i, argument in enumerate(arguments)}, timeout)
        while gone := [i for i, answer in answers.items() if answer is None]:
            for i in gone:
                self._restart(i)
            self._await_start(gone)
            answers |= self._ask(dict.fromkeys(gone, ("reset", None)), self._timeout)
        return list(answers.values())

    def _ask(self, messages: dict[int, tuple[Any, ...]], timeout: float) -> dict[int, Any]:
        """Sends messages (method, arguments ...) by environment -> the answers; None from a process that is gone."""
        for i, message in messages.items():
            self._workers[i].send(message)
        return self._answers(messages, timeout)

    def _await_start(self, indices: Iterable[int]) -> None:
        self._answers(indices, _START_SECONDS + self._timeout)

    def _answers(self, indices: Iterable[int], timeout: float) -> dict[int, Any]:
        patience = _Patience(timeout)
        answers = {i: self._workers[i].receive(patience) for i in indices}  # all of them, before any error is raised
        for i, answer in answers.items():
            if isinstance(answer, EnvError):
                raise locate(answer, i, len(self._seeds))
        return answers

    def _restart(self, index: int) -> None:
        """Puts a new process in the place of one that is gone.

        Its seed is another one: an episode that crashes a simulator would do so again.
        """
        if self._restarts >= self._allowed:
            raise self._given_up(index)
        self._restarts += 1
        logger.warning(
            "%s: environment %d %s; its episode is cut off and it is started anew (restart %d of %d)",
            self._name,
            index,
            self._workers[index].gone,
            self._restarts,
            self._allowed,
        )
        self._workers[index] = self._start(restart_seed(self._seeds[index], self._restarts))

    def _start(self, seed: int) -> "_Worker":
        try:
            return _Worker(self._make, seed, self._specs[0])
        except (EOFError, OSError) as error:
            count = len(self._seeds)
            raise EnvError(
                f"{self._name}: no process could be started for one of {count} environments: {one_line(error)}. Lower "
                "--env.num_envs, or set --env.processes false"
            ) from error

    def _given_up(self, index: int) -> EnvError:
        gone = self._workers[index].gone
        after = f", and env.restarts={self._allowed} are used up" if self._restarts else ""
        error = EnvError(
            f"{self._name}: an environment process {gone}{after}; its own message stands above, if it left one. Try "
            "--env.processes false to see the error here, or a longer --env.timeout if it is only slow; a killed process often "
            "means too little memory"
        )
        return locate(error, index, len(self._seeds))


class _Worker:
    """A process that has an environment made and plays it.

    Attributes:
      pipe: to it; each message is answered once, and its start too.
      gone: why it answers no more, "" while it does.
    """

    def __init__(self, make: Callable[[int], SeededEpisodes], seed: int, specs: ObsSpecs) -> None:
        # Never plain fork: it copies the locks of JAX's threads in whatever state they are, and processes can hang.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context: Any = multiprocessing.get_context(method)
        self.gone = ""
        self.pipe, other_end = context.Pipe()
        # Observations do not go through the pipe: for large images that takes several times as long.
        memory = {name: context.RawArray("B", math.prod(spec.shape) * spec.dtype.itemsize) for name, spec in specs.items()}
        self._obs = _views(memory, specs)
        self.process = context.Process(target=_serve, args=(make, seed, other_end, memory, specs), daemon=True)
        self.process.start()
        other_end.close()

    def send(self, message: tuple[Any, ...]) -> None:
        """Sends a message, unless it is gone: then `receive` says so."""
        with contextlib.suppress(OSError):
            self.pipe.send(message)

    def receive(self, patience: "_Patience") -> Any:
        """The answer, None if the process is gone. One that does not answer is killed.

        The observations of a `Record` are those of the moment: the next one overwrites them.
        """
        if self.gone:
            return None
        # Its end is waited for as well: other processes that it has started may hold the pipe.
        ready = patience.wait([self.pipe, self.process.sentinel])
        with contextlib.suppress(EOFError, OSError):
            if self.pipe in ready:
                answer = self.pipe.recv()
                return replace(answer, obs=self._obs) if isinstance(answer, Record) else answer
        if ready:
            self.process.join(_CLOSE_SECONDS)  # for its own exit code
            self.gone = f"ended unexpectedly (exit code {self.process.exitcode})"
        else:
            self.gone = f"did not answer for {patience.seconds:g} s"
        self.kill()
        return None

    def kill(self) -> None:
        """Ends the process at once; it leaves all other signals to the main one."""
        self.process.kill()
        self.process.join(_CLOSE_SECONDS)


class _Patience:
    """The time that answers may take, together.

    Counted in slices: of a time in which everything here was stopped (Ctrl-Z, a suspended job) no more than one counts.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = self._left = seconds

    def wait(self, objects: Sequence[Any]) -> list[Any]:
        """Those that are ready, as soon as there are any; none if the time is up."""
        while True:
            begun = time.monotonic()
            ready = wait(objects, max(0.0, min(self._left, _SLICE)))
            self._left -= min(time.monotonic() - begun, _SLICE)
            if ready or self._left <= 0:
                return ready


def _serve(
    make: Callable[[int], SeededEpisodes], seed: int, pipe: Connection, memory: Mapping[str, Any], specs: ObsSpecs
) -> None:
    """What a process does: it makes an environment and calls its methods, until the pipe is closed or one of them fails."""
    for number in (signal.SIGINT, signal.SIGTERM):  # left to the main process, which can stop in good order
        signal.signal(number, _leave)
    with contextlib.ExitStack() as stack, contextlib.suppress(EOFError, ConnectionError):
        try:
            env = make(seed)
            stack.callback(env.close)
            pipe.send(True)
            shared = _views(memory, specs)
            while True:
                method, *arguments = pipe.recv()
                answer = getattr(env, method)(*arguments)
                if isinstance(answer, Record):
                    for name, values in answer.obs.items():
                        shared[name][...] = values
                    answer = replace(answer, obs={})
                pipe.send(answer)
        except (EOFError, ConnectionError):
            raise
        except Exception as error:
            if isinstance(error.__cause__, SystemExit):
                raise error.__cause__  # noqa: B904  # the environment ends its process, which is started anew
            known = error if isinstance(error, EnvError) else EnvError(one_line(error))
            known.add_note(traceback.format_exc())  # the trace itself does not travel
            pipe.send(known)


def _views(memory: Mapping[str, Any], specs: ObsSpecs) -> dict[str, np.ndarray]:
    """Shared memory as observations."""
    return {name: np.frombuffer(memory[name], spec.dtype).reshape(spec.shape) for name, spec in specs.items()}


def _leave(number: int, frame: Any) -> None:
    """Does nothing; unlike SIG_IGN it is not inherited by the programs that an environment starts."""


def _kill(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.process.kill()
