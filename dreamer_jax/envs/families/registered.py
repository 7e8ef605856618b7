"""Environments that gymnasium's registry knows: `gym:<id>` and `gym:<module>:<id>`."""

import importlib
import importlib.metadata
import logging
import re
import sys
from typing import Any

import gymnasium

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import RAISED_OUTSIDE, EnvError
from dreamer_jax.core.extensions import register
from dreamer_jax.core.text import nearest, one_line
from dreamer_jax.envs.families.base import Family
from dreamer_jax.envs.families.gl import choose_gl, gl_advice

logger = logging.getLogger(__name__)


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
            draws = render and "rgb_array" in (env.metadata.get("render_modes") or ())
            if draws and _needs_gl(env) and choose_gl() is None:
                logger.warning("%s cannot be drawn: %s", task, gl_advice())
                draws = False
            if draws:
                env.close()
                env = gymnasium.make(name, disable_env_checker=True, render_mode="rgb_array")
        except gymnasium.error.DependencyNotInstalled as error:
            raise EnvError(f"{task} needs a package that is not installed: {' '.join(str(error).split())}") from None
        except ImportError as error:
            raise EnvError(f"{task} cannot be imported: {one_line(error)}.{install_line(error)}") from None
        except RAISED_OUTSIDE as error:
            raise EnvError(f"{task} could not be made: {one_line(error)}") from error
        return env


def _needs_gl(env: gymnasium.Env) -> bool:
    """Whether MuJoCo draws an environment: its class, or one that it derives from, comes from a module that uses MuJoCo."""
    modules = (sys.modules.get(cls.__module__) for cls in type(env.unwrapped).__mro__)
    return any(hasattr(module, "mujoco") or hasattr(module, "MujocoRenderer") for module in modules)


def _nearest_ids(name: str) -> str:
    close = nearest(name, gymnasium.registry, 3)
    hint = f"; the nearest ids are {', '.join(close)}" if close else ""
    if nearest(name, gymnasium.registry, 1, 0.8):  # a slip in an id that is known
        return hint
    module, installed = _likely_module(name)
    form = f"{hint}. An id of another package is known once its module is imported: write gym:<its module>:{name}"
    if not module:
        return form
    return f"{form}, {'such as' if installed else 'perhaps, once its package is installed,'} gym:{module}:{name}"


def _likely_module(name: str) -> tuple[str, bool]:
    """The module that an id may come from, and whether it is installed: ale_py of ALE/Pong-v5."""
    first = re.split(r"[/\-:]", name)[0].lower()
    if not first.isidentifier():
        return "", False
    known = [module for module in importlib.metadata.packages_distributions() if module.isidentifier()]
    found = min((module for module in known if module.lower().startswith(first)), key=len, default="")
    return found or first, bool(found)


def import_module(task: str, name: str) -> Any:
    """A module that a task names.

    Raises:
      EnvError: there is none, or it raises an error.
    """
    try:
        return importlib.import_module(name)
    except RAISED_OUTSIDE as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise EnvError(
                f"{task}: there is no module {error.name!r}. Install its package, or set PYTHONPATH to the folder that holds it"
            ) from None
        install = install_line(error) if isinstance(error, ImportError) else ""
        raise EnvError(f"{task}: importing {name} raised {one_line(error)}.{install}") from error


def install_line(error: ImportError) -> str:
    """How to get the package that an import misses."""
    return f" Try: pip install {error.name.partition('.')[0]}" if error.name else ""
