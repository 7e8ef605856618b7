"""The names of all options, and the command line that sets them. Imports no JAX."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.text import did_you_mean

RENAMED = {
    "train.eval_every": "eval.every",
    "train.eval_episodes": "eval.episodes",
    "train.final_episodes": "eval.final_episodes",
    "train.video": "eval.video",
}


def parse_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """Reads `--field value` and `--field=value` pairs into dotted overrides.

    Raises:
      ConfigError: an unknown field, with the nearest name, or a field without a value.
    """
    overrides: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        if not word.startswith("--"):
            raise ConfigError(f"unexpected argument {word!r}; options are written --field value")
        name, equals, value = word[2:].partition("=")
        check_option(name)
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise ConfigError(f"--{name} needs a value: {dict(field_names())[name].description}")
        overrides[name] = value
    return overrides


def field_names(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, pydantic field) of every leaf of the configuration."""
    for name, field in section.model_fields.items():
        dotted = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from field_names(field.annotation, dotted + ".")
        else:
            yield dotted, field


def check_option(name: str) -> None:
    """Raises ConfigError, with the nearest name, where there is no option of this name."""
    if name not in dict(field_names()):
        raise ConfigError(f"unknown option --{name}{option_hint(name)} `--help` lists all options")


def option_hint(name: str) -> str:
    """ "; did you mean 'env.task'?" for the option that is meant: by its old name, its last part ("task") or its looks."""
    names = [known for known, _ in field_names()]
    meant = RENAMED.get(name) or next((full for full in names if full.rpartition(".")[2] == name), None)
    return f"; did you mean {meant!r}?" if meant else did_you_mean(name, names) or "."
