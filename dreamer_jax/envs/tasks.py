"""From a task name to a gymnasium environment, as its author made it."""

import os
from collections.abc import Callable

import gymnasium

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import EnvError
from dreamer_jax.envs.families.atari import make_atari
from dreamer_jax.envs.families.dmc import make_dmc
from dreamer_jax.envs.families.imported import make_imported
from dreamer_jax.envs.families.registered import make_registered

FAMILIES: dict[str, Callable[[EnvConfig, bool], gymnasium.Env]] = {
    "gym": make_registered,
    "dmc": make_dmc,
    "atari": make_atari,
    "import": make_imported,
}
_FORMS = (
    "gym:<registered id>, gym:<module>:<registered id>, dmc:<domain>_<task>, atari:<game> or import:<package.module>:<function>"
)


def make_simulator(config: EnvConfig, render: bool = False) -> gymnasium.Env:
    """Makes the environment that `config.task` names; frames can be rendered if `render` and it knows how to.

    Raises:
      EnvError: the task is malformed, unknown or not installed, or its environment cannot be made.
    """
    family, _, name = config.task.partition(":")
    whole = all(name.partition(":")[::2]) if family == "import" else name
    if family not in FAMILIES or not whole:
        raise EnvError(f"env.task={config.task!r} is not a task. Write {_FORMS}")
    if render:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into memory; without a display it would complain
    return FAMILIES[family](config, render)
