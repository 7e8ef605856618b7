"""From a task name to a gymnasium environment, as its author made it."""

import difflib
import importlib
import inspect
import os
from collections.abc import Iterable
from typing import Any

import gymnasium

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.envs.atari import make_atari
from dreamer_jax.envs.dmc import make_dmc
from dreamer_jax.envs.errors import EnvError, one_line

_FORMS = (
    "gym:<registered id>, gym:<module>:<registered id>, dmc:<domain>_<task>, atari:<game> or import:<package.module>:<function>"
)


def make_simulator(config: EnvConfig, render: bool = False) -> gymnasium.Env:
    """Makes the environment that `config.task` names; frames can be rendered if `render` and it knows how to.

    Raises:
      EnvError: the task is malformed, unknown or not installed, or its environment cannot be made.
    """
    task = config.task
    if render:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into memory; without a display it would complain
    family, _, name = task.partition(":")
    if family == "gym" and name:
        return _make_registered(task, name, render)
    if family == "dmc" and name:
        return make_dmc(config, render)
    if family == "atari" and name:
        return make_atari(config, render)
    module, _, function = name.partition(":")
    if family == "import" and module and function:
        return _make_imported(task, module, function, render)
    raise EnvError(f"env.task={task!r} is not a task. Write {_FORMS}")


def _make_registered(task: str, env_id: str, render: bool) -> gymnasium.Env:
    """A registered environment, its TimeLimit included."""
    module, colon, name = env_id.rpartition(":")
    if colon:
        _import_module(task, module)  # registers the id
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
        raise EnvError(f"{task} cannot be imported: {one_line(error)}.{_install_line(error)}") from None
    except Exception as error:
        raise EnvError(f"{task} could not be made: {one_line(error)}") from error
    return env


def _nearest_ids(name: str) -> str:
    # Case is ignored: difflib alone finds "cartpole-v1" far from "CartPole-v1".
    by_lower = {known.lower(): known for known in gymnasium.registry}
    close = [by_lower[low] for low in difflib.get_close_matches(name.lower(), by_lower, n=3)]
    hint = f"; the nearest ids are {', '.join(close)}" if close else ""
    if "/" in name:
        hint += f". Install the package that registers it and write gym:<its module>:{name}"
    return hint


def _make_imported(task: str, module_name: str, function_name: str, render: bool) -> gymnasium.Env:
    """What `function_name()` of a user's module returns."""
    module = _import_module(task, module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        problem = "is not a function" if hasattr(module, function_name) else "does not exist"
        raise EnvError(f"{task}: {function_name} in module {module_name} {problem}{_nearest(function_name, public)}")
    try:
        env = function(render_mode="rgb_array") if render and _takes_render_mode(function) else function()
    except Exception as error:
        raise EnvError(f"{task}: {function_name} raised {one_line(error)}") from error
    if not isinstance(env, gymnasium.Env):
        raise EnvError(
            f"{task}: {function_name}() returned {type(env).__name__}; a gymnasium.Env was expected. "
            "Derive the class from gymnasium.Env, and return an object of it"
        )
    return env


def _import_module(task: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise EnvError(
                f"{task}: there is no module {error.name!r}. Install its package, or set PYTHONPATH to the folder that holds it"
            ) from None
        install = _install_line(error) if isinstance(error, ImportError) else ""
        raise EnvError(f"{task}: importing {name} raised {one_line(error)}.{install}") from error


def _takes_render_mode(function: Any) -> bool:
    parameters = inspect.signature(function).parameters
    return "render_mode" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _install_line(error: ImportError) -> str:
    return f" Try: pip install {error.name.partition('.')[0]}" if error.name else ""


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
