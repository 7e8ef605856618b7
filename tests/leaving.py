"""Environments, a callback and a module that end the program, or mean to. Like `counting`, they load quickly."""

import os
import sys

from counting import Counting

from dreamer_jax import Callback, register

AT = 43  # the step of an environment's life at which it leaves: in training, not in the short evaluations


def _interrupt():
    raise KeyboardInterrupt


WAYS = {"exit": sys.exit, "status": lambda: sys.exit(3), "interrupt": _interrupt, "os_exit": lambda: os._exit(0)}


class Leaving(Counting):
    def __init__(self, way, method="step", render_mode=None):
        super().__init__(5, render_mode)
        self.way, self.method = WAYS[way], method

    def reset(self, **arguments):
        if self.method == "reset" and self.lifetime >= AT:
            self.way()
        return super().reset(**arguments)

    def step(self, action):
        if self.method == "step" and self.lifetime == AT:
            self.way()
        return super().step(action)

    def render(self):
        return self.way() if self.method == "render" else super().render()

    def close(self):
        if self.method == "close":
            self.way()


def step_exit():
    return Leaving("exit")


def step_status():
    return Leaving("status")


def step_interrupt():
    return Leaving("interrupt")


def step_os_exit():
    return Leaving("os_exit")


def reset_exit():
    return Leaving("exit", "reset")


def close_exit():
    return Leaving("exit", "close")


def render_exit(render_mode=None):
    return Leaving("exit", "render", render_mode)


def make_exit():
    sys.exit()


@register("leaving")
class LeavingCallback(Callback):
    def row(self, run, row):
        if row["frames"] >= AT:
            sys.exit()


@register("interrupting")
class InterruptingCallback(Callback):
    def row(self, run, row):
        if row["frames"] >= AT:
            raise KeyboardInterrupt
