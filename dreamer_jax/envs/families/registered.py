"""Environments that gymnasium's registry knows: `gym:<id>` and `gym:<module>:<id>`."""

import importlib
from typing import Any

import gymnasium

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import EnvError
from dreamer_jax.core.extensions import register
from dreamer_jax.core.text import nearest, one_line
from dreamer_jax.envs.families.base import Family


@register("gym")
class Registered(Family):
    """Environments that gymnasium's registry knows."""

    form = "gym:<registered id>, gym:<module>:<registered id>"

    def make(self, name: str, config: EnvConfig, render: bool) -> gymnasium.Env:
        """Makes a registered environment, its TimeLimit included.

        Raises:
          EnvError: the id is unknown, or the environment is not installed or cannot be made.
        """
        task = config.task
        module, colon, name = name.rpartition(":")
        if colon:
            import_module(task, module)  # registers the id
        if name not in gymnasium.registry:
            raise EnvError(f"{task}: no environment {name!r} is registered{_nearest_ids(name)}")
        try:
            # Our own check of every step replaces gymnasium's check of the first one.
            env = gymnasium.make(name, disable_env_checker=True)
            if render and "rgb_array" in (env.metadata.get("render_modes") or ()):
                env.close()
                env = gymnasium.make(name, disable_env_checker=True, render_mode="rgb_array")
        except gymnasium.error.DependencyNotInstalled as error:
            raise EnvError(f"{task} needs a package that is not installed: {' '.join(str(error).split())}") from None
        except ImportError as error:
            raise EnvError(f"{task} cannot be imported: {one_line(error)}.{install_line(error)}") from None
        except Exception as error:
            raise EnvError(f"{task} could not be made: {one_line(error)}") from error
        return env


def _nearest_ids(name: str) -> str:
    close = nearest(name, gymnasium.registry, 3)
    hint = f"; the nearest ids are {', '.join(close)}" if close else ""
    if "/" in name:
        hint += f". Install the package that registers it and write gym:<its module>:{name}"
    return hint


def import_module(task: str, name: str) -> Any:
    """A module that a task names.

    Raises:
      EnvError: there is none, or it raises an error.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise EnvError(
                f"{task}: there is no module {error.name!r}. Install its package, or set PYTHONPATH to the folder that holds it"
            ) from None
        install = install_line(error) if isinstance(error, ImportError) else ""
        raise EnvError(f"{task}: importing {name} raised {one_line(error)}.{install}") from error


def install_line(error: ImportError) -> str:
    """How to get the package that an import misses."""
    return f" Try: pip install {error.name.partition('.')[0]}" if error.name else ""
