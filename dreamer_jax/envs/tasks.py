"""From a task name to a gymnasium environment, as its author made it."""

import os

import gymnasium

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import EnvError
from dreamer_jax.core.extensions import DOORS
from dreamer_jax.envs.families.base import Family

_BUILT_IN = ("gym", "dmc", "atari", "import")  # in the order in which errors list them


def make_simulator(config: EnvConfig, render: bool = False) -> gymnasium.Env:
    """Makes the environment that `config.task` names; frames can be rendered if `render` and it knows how to.

    Raises:
      EnvError: the task is malformed, unknown or not installed, or its environment cannot be made.
    """
    family = family_of(config)
    if render:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into memory; without a display it would complain
    return family.make(config.task.partition(":")[2], config, render)


def family_of(config: EnvConfig) -> Family:
    """The family of environments that a task belongs to, with its options.

    Raises:
      EnvError: the task is malformed, or there is no such family.
    """
    family, _, name = config.task.partition(":")
    if family not in DOORS["family"].names() or not DOORS["family"].get(family).is_whole(name):
        raise EnvError(f"env.task={config.task!r} is not a task. Write {_forms()}")
    return DOORS["family"].get(family)(config.options)


def _forms() -> str:
    """How the tasks of all families are written."""
    *forms, last = (DOORS["family"].get(name).form for name in (*_BUILT_IN, *DOORS["family"].outside_names()))
    return f"{', '.join(forms)} or {last}"
