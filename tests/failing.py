"""Environments that fail in the process in which they are. Like `counting`, they load quickly: each process does so."""

import multiprocessing
import os
import signal
import sys
import time

from counting import Counting

from dreamer_jax.envs import env_seeds
from dreamer_jax.envs.episodes import episode_seed

SEEDS = env_seeds(0, 2)  # those of a run with seed 0


class Failing(Counting):
    """Episodes of five steps. The one of seed `at` fails: at its step `step`, 0 for its reset."""

    def __init__(self, fail, at=SEEDS[1], step=3):
        super().__init__(5)
        self.fail, self.at, self.fail_step, self.seed = fail, at, step, None

    def reset(self, *, seed=None, options=None):
        self.seed = seed
        if seed == self.at and not self.fail_step:
            self.fail()
        return super().reset(seed=seed)

    def step(self, action):
        if self.seed == self.at and self.count + 1 == self.fail_step:
            self.fail()
        return super().step(action)


def _kill():
    os.kill(os.getpid(), signal.SIGKILL)


def _hang():
    time.sleep(600)


def _raise():
    raise KeyError("a pole")


def killed():
    """The second environment's first episode ends its process."""
    return Failing(_kill)


def killed_beside_a_child():
    """As `killed`, and a process that it has started lives on and holds what it had open."""

    def fail():
        if os.fork():
            _kill()
        time.sleep(10)
        os._exit(0)

    return Failing(fail)


def killed_alone():
    """As `killed`, in a run with one environment."""
    return Failing(_kill, SEEDS[0])


def killed_in_reset():
    """The reset after the second environment's first episode ends its process."""
    return Failing(_kill, episode_seed(SEEDS[1], 1), 0)


def hung():
    return Failing(_hang)


def left():
    return Failing(lambda: sys.exit(3))


def raising():
    return Failing(_raise)


class AlwaysKilled(Counting):
    """Its third step ends the process, in every episode."""

    def step(self, action):
        if self.count == 2:
            _kill()
        return super().step(action)


def always_killed():
    return AlwaysKilled(5)


def killed_at_start():
    """It can be made in the main process only."""
    if multiprocessing.parent_process():
        _kill()
    return Counting(5)


def hung_at_start():
    if multiprocessing.parent_process():
        _hang()
    return Counting(5)
