"""What a run's environment shows and takes, from its `spaces.json`: the agent can be loaded without the environment."""

from pathlib import Path

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import ConfigError, RunError
from dreamer_jax.core.files import read_json
from dreamer_jax.core.text import brief
from dreamer_jax.envs.spaces import EnvSpaces
from dreamer_jax.runs.folder import SPACES


def read_spaces(run: Path, env: EnvConfig) -> EnvSpaces | None:
    """The spaces of a run's environment; None for runs without the file, as older versions of this project left them.

    Raises:
      RunError: the file is damaged.
      ConfigError: an imported kind of observation is not imported.
    """
    path = run / SPACES
    values = read_json(path)
    if values is None:
        return None
    try:
        return EnvSpaces.from_json(values, env.task, env.kinds)
    except ConfigError:
        raise
    except ValueError as error:
        raise RunError(f"{path} is damaged: {brief(error)}. Remove it, and the environment is made instead") from None
