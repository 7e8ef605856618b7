"""Environments of the user's own: `import:<package.module>:<function>`."""

import inspect
from typing import Any

import gymnasium

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import RAISED_OUTSIDE, EnvError
from dreamer_jax.core.extensions import register
from dreamer_jax.core.text import did_you_mean, one_line
from dreamer_jax.envs.advice import CONVERT, is_of_old_gym
from dreamer_jax.envs.families.base import Family
from dreamer_jax.envs.families.registered import import_module


@register("import")
class Imported(Family):
    """Environments that a function of the user's makes."""

    form = "import:<package.module>:<function>"

    @classmethod
    def is_whole(cls, name: str) -> bool:
        return all(name.partition(":")[::2])

    def make(self, name: str, config: EnvConfig, render: bool) -> gymnasium.Env:
        """Makes what `function()` of a user's module returns.

        The function gets render_mode="rgb_array" if it takes one and `render` asks.

        Raises:
          EnvError: there is no such module or function, it raises an error, or it returns something else.
        """
        task = config.task
        module_name, _, function_name = name.partition(":")
        module = import_module(task, module_name)
        function = getattr(module, function_name, None)
        if not callable(function):
            public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            problem = "is not a function" if hasattr(module, function_name) else "does not exist"
            raise EnvError(f"{task}: {function_name} in module {module_name} {problem}{did_you_mean(function_name, public)}")
        try:
            env = function(render_mode="rgb_array") if render and _takes_render_mode(function) else function()
        except RAISED_OUTSIDE as error:
            raise EnvError(f"{task}: {function_name} raised {one_line(error)}") from error
        if not isinstance(env, gymnasium.Env):
            if is_of_old_gym(env):
                raise EnvError(
                    f"{task}: {function_name}() returned {type(env).__name__}, an environment of the old package gym; a "
                    f"gymnasium.Env was expected. In {function_name}, {CONVERT}"
                )
            raise EnvError(
                f"{task}: {function_name}() returned {type(env).__name__}; a gymnasium.Env was expected. "
                "Derive the class from gymnasium.Env, and return an object of it"
            )
        return env


def _takes_render_mode(function: Any) -> bool:
    parameters = inspect.signature(function).parameters
    return "render_mode" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
