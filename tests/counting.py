"""Environments whose episodes are known beforehand, and the configuration of a tiny run in one of them."""

import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.core.config import Config
from dreamer_jax.core.presets import load_config

INTERRUPTED_AT = 43

TINY = {
    "device": "cpu",
    "model.deter": 16,
    "model.hidden": 8,
    "model.stoch": 2,
    "model.classes": 3,
    "model.units": 8,
    "model.blocks": 2,
    "model.bins": 21,
    "model.prior_layers": 1,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
    "model.actor_layers": 1,
    "model.critic_layers": 1,
    "behavior.imagination_horizon": 3,
    "optimizer.warmup": 0,
    "replay.capacity": 1000,
    "replay.batch_size": 2,
    "replay.batch_length": 8,
    "replay.min_items": 16,
    "replay.train_ratio": 4,  # 4 / (2 x 8): an update every four records
    "train.log_every": 20,
    "eval.every": 0,
    "eval.episodes": 2,
    "eval.final_episodes": 3,
    "train.tensorboard": False,
    "eval.video": False,
    "eval.dreams": False,
}


def tiny_config(runs: Path, function: str = "five", **changes: Any) -> Config:
    """A run of seconds in `counting:<function>`; changes are written section__field."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return load_config("cartpole", {**TINY, "runs": str(runs), "env.task": f"import:counting:{function}", **dotted})


class Counting(gymnasium.Env):
    """Shows [steps since the reset, a random number]; the reward is the step's number; terminates after `length`.

    An episode of `length` steps returns 1 + 2 + ... + length whatever the actions.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(3)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  # gymnasium's own form

    def __init__(self, length: int, render_mode: str | None = None, interrupt_at: int = 0, parent: bool = False):
        self.length, self.render_mode, self.interrupt_at, self.parent = length, render_mode, interrupt_at, parent
        self.count = self.lifetime = 0

    def _observation(self):
        return np.array([self.count, self.np_random.random()], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._observation(), {}

    def step(self, action):
        self.count += 1
        self.lifetime += 1
        if self.lifetime == self.interrupt_at:
            if self.parent:
                os.killpg(os.getpgid(os.getppid()), signal.SIGINT)  # what a terminal does at Ctrl-C
                time.sleep(1)  # until the parent has passed it on
            else:
                os.kill(os.getpid(), signal.SIGINT)
        return self._observation(), float(self.count), self.count == self.length, False, {}

    def render(self):
        return np.full((32, 48, 3), 40 * self.count, np.uint8)


def five(render_mode=None):
    return Counting(5, render_mode)


def six():
    return Counting(6)


def interrupted():
    """Ctrl-C arrives during step 43 of each environment: in training, not in the short evaluations."""
    return Counting(5, interrupt_at=INTERRUPTED_AT)


def parent_interrupted():
    """Ctrl-C in the terminal of the process that started the training; give that one a session of its own."""
    return Counting(5, interrupt_at=INTERRUPTED_AT, parent=True)


class Adding(Counting):
    """Shows the sum of the choices taken so far instead of the random number."""

    def reset(self, *, seed=None, options=None):
        self.total = 0
        return super().reset(seed=seed)[0] * np.float32([1, 0]), {}

    def step(self, action):
        self.total += int(action)
        _, *rest = super().step(action)
        return np.array([self.count, self.total], np.float32), *rest


def adding():
    """Ten steps."""
    return Adding(10)


_TURN = itertools.count()


def short_or_long():
    """Environments of 2 and of 9 steps in turn."""
    return Counting(9 if next(_TURN) % 2 else 2)


def seeded_length(render_mode=None):
    """Episodes of 2 to 9 steps, drawn from the environment's own seed."""
    return SeededLength(render_mode)


class SeededLength(Counting):
    def __init__(self, render_mode: str | None = None):
        super().__init__(0, render_mode)

    def reset(self, *, seed=None, options=None):
        gymnasium.Env.reset(self, seed=seed)
        self.length = int(self.np_random.integers(2, 10))
        return super().reset(options=options)
