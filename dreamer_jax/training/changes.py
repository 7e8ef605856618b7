"""Changing a run's configuration when it goes on."""

from collections.abc import Mapping
from typing import Any

from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.options import check_option, field_names
from dreamer_jax.core.presets import flatten, load_config
from dreamer_jax.runs.checkpoint import is_free

FIXED = ("train.init_from", "train.init_parts")  # of how the run began


def changed(config: Config, overrides: Mapping[str, Any] | None) -> Config:
    """The configuration that a run goes on with.

    Args:
      overrides: values by dotted names, in nested mappings, or both; see `load_config`.

    Raises:
      ConfigError: an option that is unknown, that makes another run of it, or whose value cannot be used.
    """
    changes = flatten(overrides or {})
    for name in changes:
        check_option(name)
        if name in FIXED or not is_free(name):
            free = [known for known, _ in field_names() if known not in FIXED and is_free(known)]
            raise ConfigError(f"--{name} cannot be changed when a run goes on; what can be: {', '.join(free)}")
    return load_config(config, changes) if changes else config
